// Draws the segments of a video on a canvas, and finds the segment at a point.

// The duration of a video in ticks; without one, the end of its last segment or clip.
function durationOf(results, video) {
  const known = results.videos.duration[video];
  const end = (table, first) => {
    const last = first[video + 1] - 1;
    return last >= first[video] ? table.start[last] + table.length[last] : 0;
  };
  return Math.max(known || 0, 1, known ? 0 : end(results.segments, results.firstSegment),
                  known ? 0 : end(results.clips, results.firstClip));
}

function drawTimeline(canvas, results, video, part = null) {
  const { context, width, height } = fitCanvas(canvas);
  const { start, length, label, shot } = results.segments;
  const scale = width / durationOf(results, video);
  const first = results.firstSegment[video];
  const stop = results.firstSegment[video + 1];
  for (let row = first; row < stop; row++) {
    context.fillStyle = colourOf(results, label[row]);
    context.fillRect(start[row] * scale, 2, Math.max(length[row] * scale, 1), height - 4);
  }
  context.fillStyle = cssColour("--text");
  for (let row = first + 1; row < stop; row++) {
    if (shot[row] !== shot[row - 1]) context.fillRect(start[row] * scale - 0.5, 0, 1, height);
  }
  if (part) {
    context.strokeStyle = cssColour("--text");
    context.lineWidth = 2;
    const x = part[0] * scale;
    context.strokeRect(x + 1, 1, Math.max(part[1] * scale - 2, 2), height - 2);
  }
}

// The segment of a video at a share of its duration; null where there is none.
function segmentAt(results, video, share) {
  const time = share * durationOf(results, video);
  const { start, length } = results.segments;
  for (let row = results.firstSegment[video]; row < results.firstSegment[video + 1]; row++) {
    if (time >= start[row] && time < start[row] + length[row]) return row;
  }
  return null;
}

const shareAt = (canvas, event) => event.offsetX / Math.max(canvas.clientWidth, 1);

function describeSegment(results, row) {
  const { start, length, label, score } = results.segments;
  const share = (score[row] / results.scoreSteps).toFixed(2);
  return `${formatRange(results, start[row], length[row])} ${labelName(results, label[row])} (${share})`;
}
