// What a server adds to the details of a clip: the video, frames, all scores, similar clips.

const STRIP = 8;
const MAX_SCORES = 12;
const SEEK_MARGIN = 0.04; // browsers seek to the frame before a time

// Plays a part of a video in a loop. What the browser cannot play is converted by the server.
class Player {
  // file, converted: addresses of the video and of its converted part; part: [start, end] in seconds.
  constructor({ file, part, converted }) {
    this.part = part;
    this.converted = converted;
    this.offset = 0; // of the time of the element to the time of the video
    this.element = makeElement("video", "player");
    Object.assign(this.element, { controls: true, muted: true, playsInline: true, autoplay: true });
    this.element.addEventListener("error", () => this.convert());
    this.element.addEventListener("loadedmetadata", () => {
      if (!this.element.videoWidth) this.convert(); // only the sound can be played
      else this.seek();
    });
    this.element.addEventListener("ended", () => this.restart());
    this.element.addEventListener("timeupdate", () => this.limit());
    this.element.src = `${file}#t=${this.part.join(",")}`;
    this.watch();
  }

  convert() {
    if (this.element.src.endsWith(this.converted)) {
      this.fail();
      return;
    }
    this.offset = this.part[0];
    this.element.src = this.converted;
  }

  async fail() {
    const message = makeElement("p", "error", "cannot be shown");
    this.element.replaceWith(message);
    const answer = await fetch(this.converted);
    if (!answer.ok) message.textContent = await answer.text();
  }

  seek() {
    const time = this.part[0] - this.offset + (this.offset ? 0 : SEEK_MARGIN);
    this.element.currentTime = Math.min(time, this.element.duration || time);
  }

  restart() {
    this.seek();
    this.element.play().catch(() => {}); // the user may have to start it
  }

  // Jumps back to the start of the clip at its end.
  limit() {
    const time = this.element.currentTime + this.offset;
    if (time >= this.part[1] && !this.element.paused) this.restart();
    if (time < this.part[0] - SEEK_MARGIN && !this.element.seeking) this.seek();
  }

  // Events of the element are too rare to end exactly.
  watch() {
    const check = () => {
      if (!this.element.isConnected && this.wasConnected) return;
      this.wasConnected ||= this.element.isConnected;
      this.limit();
      requestAnimationFrame(check);
    };
    requestAnimationFrame(check);
  }
}

function makeStrip(row) {
  const strip = makeElement("div", "strip");
  for (let number = 0; number < STRIP; number++) {
    const image = makeElement("img");
    image.alt = "";
    image.src = `clips/${row}/${number}-of-${STRIP}.webp`;
    strip.append(image);
  }
  return strip;
}

function makeScores(results, scores) {
  const table = makeElement("table", "scores");
  const best = Object.entries(scores).sort((a, b) => b[1] - a[1]).slice(0, MAX_SCORES);
  for (const [label, score] of best) {
    const row = makeElement("tr");
    const cell = makeElement("td");
    const meter = makeElement("meter");
    meter.value = score;
    const name = makeElement("bdi", "", label);
    cell.append(name);
    const bar = makeElement("td");
    bar.append(meter);
    row.append(cell, bar, makeElement("td", "number", score.toFixed(3)));
    table.append(row);
  }
  return table;
}

function makeSimilar(results, rows, onSelect) {
  const strip = makeElement("div", "strip similar");
  for (const row of rows) {
    const button = makeElement("button", "thumb");
    const image = makeElement("img");
    image.src = `clips/${row}/0-of-1.webp`;
    image.alt = results.videos.name[results.clips.video[row]];
    button.title = `${image.alt} ${labelName(results, results.clips.label[row])}`;
    button.append(image);
    button.addEventListener("click", () => onSelect(row));
    strip.append(button);
  }
  return strip;
}

async function addServedDetails(panel, results, row, onSelect) {
  const { video, start, length } = results.clips;
  const player = new Player({
    file: `videos/${video[row]}`,
    part: [seconds(results, start[row]), seconds(results, start[row] + length[row])],
    converted: `clips/${row}.mp4`,
  });
  panel.querySelector("h2").after(player.element, makeStrip(row));
  const answer = await fetch(`clips/${row}`);
  if (!answer.ok) return;
  const { scores, similar } = await answer.json();
  if (panel.dataset.row !== String(row)) return; // another clip was selected meanwhile
  panel.append(makeElement("h3", "", "Scores"), makeScores(results, scores));
  panel.append(makeElement("h3", "", "Similar clips"));
  if (similar === null) {
    panel.append(makeElement("p", "note", "Runs with --embeddings find similar clips."));
  } else {
    panel.append(makeSimilar(results, similar, onSelect));
  }
}
