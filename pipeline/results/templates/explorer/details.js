// The panel that shows one clip or video.

const MAX_LISTED_PARTS = 12;

function addFact(list, name, value, className = "") {
  if (value === "" || value === null || value === undefined) return;
  const text = makeElement("dd", className, String(value));
  text.dir = "auto";
  list.append(makeElement("dt", "", name), text);
}

// The address of a file, at a part of it; null for names with bytes that are not UTF-8.
function fileAddress(path, part) {
  if (!path.startsWith("/") || path.includes("\\x")) return null;
  const address = `file://${path.split("/").map(encodeURIComponent).join("/")}`;
  return part ? `${address}#t=${part.map((time) => time.toFixed(2)).join(",")}` : address;
}

function addLink(panel, results, video, part) {
  const address = fileAddress(results.videos.path[video] ?? "", part);
  if (!address) return;
  const link = makeElement("a", "", part ? "open the video at this time" : "open the video");
  link.href = address;
  link.target = "_blank";
  link.rel = "noreferrer";
  panel.append(link);
}

function addTimeline(panel, results, video, part, onSegment) {
  if (results.firstSegment[video] === results.firstSegment[video + 1]) return;
  const canvas = makeElement("canvas", "timeline");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "segments of the video");
  canvas.addEventListener("click", (event) => {
    const row = segmentAt(results, video, shareAt(canvas, event));
    if (row !== null) onSegment(video, row);
  });
  canvas.addEventListener("mousemove", (event) => {
    const row = segmentAt(results, video, shareAt(canvas, event));
    canvas.title = row === null ? "" : describeSegment(results, row);
  });
  panel.append(canvas);
  requestAnimationFrame(() => drawTimeline(canvas, results, video, part));
}

function startPanel(panel, name, onClose) {
  panel.replaceChildren();
  panel.hidden = false;
  const close = makeElement("button", "close", "×");
  close.setAttribute("aria-label", "close");
  close.addEventListener("click", onClose);
  const heading = makeElement("h2", "", name);
  heading.dir = "auto";
  panel.append(close, heading);
}

function showClip(panel, results, row, actions) {
  const { video, start, length, label, score, novelty } = results.clips;
  const number = video[row];
  const part = [seconds(results, start[row]), seconds(results, start[row] + length[row])];
  startPanel(panel, results.videos.name[number] ?? "", actions.close);
  panel.dataset.row = row;
  addTimeline(panel, results, number, [start[row], length[row]], actions.showSegment);
  const facts = makeElement("dl");
  addFact(facts, "label", labelName(results, label[row]));
  addFact(facts, "score", (score[row] / results.scoreSteps).toFixed(4));
  if (novelty) addFact(facts, "novelty", formatNovelty(novelty[row]));
  addFact(facts, "time", formatRange(results, start[row], length[row]));
  addFact(facts, "clip_index", row - results.firstClip[number]);
  addFact(facts, "status", results.videos.status[number]);
  panel.append(facts);
  if (!results.served) addLink(panel, results, number, part);
  const all = makeElement("button", "", "clips of this video");
  all.addEventListener("click", () => actions.showVideo(number));
  panel.append(all);
  if (results.served) addServedDetails(panel, results, row, actions.showClip);
}

function showVideo(panel, results, video, actions) {
  const { name, status, error, decoder, frames, duration } = results.videos;
  startPanel(panel, name[video], actions.close);
  addTimeline(panel, results, video, null, actions.showSegment);
  const facts = makeElement("dl");
  addFact(facts, "status", status[video]);
  if (status[video] !== "ok") addFact(facts, "meaning", results.statuses[status[video]]);
  addFact(facts, "error", error[video], "error");
  addFact(facts, "duration", `${seconds(results, duration[video]).toFixed(2)} s`);
  addFact(facts, "decoded frames", formatCount(frames[video]));
  addFact(facts, "decoder", decoder[video]);
  panel.append(facts);
  const first = results.firstSegment[video];
  const stop = Math.min(results.firstSegment[video + 1], first + MAX_LISTED_PARTS);
  const parts = makeElement("ol", "parts");
  for (let row = first; row < stop; row++) {
    const item = makeElement("li");
    const button = makeElement("button", "link", describeSegment(results, row));
    button.addEventListener("click", () => actions.showSegment(video, row));
    item.append(button);
    parts.append(item);
  }
  panel.append(parts);
  if (!results.served) addLink(panel, results, video, null);
  if (results.firstClip[video] < results.firstClip[video + 1]) {
    const all = makeElement("button", "", "clips of this video");
    all.addEventListener("click", () => actions.showVideo(video));
    panel.append(all);
  }
}

const formatNovelty = (value) => (Number.isNaN(value) ? "–" : value.toPrecision(4));
