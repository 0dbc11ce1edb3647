// Shows one clip after another, and sends the answers.

const byId = (id) => document.getElementById(id);
const { colours } = JSON.parse(byId("data").textContent);
const DIGITS = 9;

async function post(path, values = {}) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(values),
  });
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

class Labelling {
  constructor() {
    this.clip = null;
    this.state = { labels: [], counts: {} };
    this.done = []; // what can be undone, newest last
    this.player = null;
    this.busy = false;
    byId("skip").addEventListener("click", () => this.skip());
    byId("undo").addEventListener("click", () => this.undo());
    byId("replay").addEventListener("click", () => this.player?.restart());
    byId("new-label").addEventListener("submit", (event) => {
      event.preventDefault();
      const name = byId("new-name").value.trim();
      byId("new-name").value = "";
      byId("new-name").blur();
      if (name) this.label(name);
    });
    window.addEventListener("keydown", (event) => this.onKey(event));
    window.addEventListener("resize", () => this.drawTimeline());
    this.watchTimeline();
    this.run(() => this.next());
  }

  // One request at a time; errors are shown.
  async run(action) {
    if (this.busy) return;
    this.busy = true;
    byId("message").textContent = "";
    try {
      await action();
    } catch (error) {
      byId("message").textContent = `not saved: ${error.message}`;
    }
    this.busy = false;
  }

  async next() {
    this.show(await post("next"));
  }

  show({ clip, state }) {
    this.clip = clip;
    this.state = state;
    this.part = clip && [clip.start, clip.end];
    this.showState();
    byId("name").textContent = clip ? clip.name : "Every clip has an answer.";
    this.play();
  }

  showState() {
    const { labels, counts, answered, open, accuracy, untilProbe, command } = this.state;
    byId("progress").textContent =
      `${answered.toLocaleString("en")} answers · ${open.toLocaleString("en")} clips left`;
    const buttons = labels.map((name, number) => {
      const button = makeElement("button", "choice");
      const swatch = makeElement("i", "swatch");
      swatch.style.background = colours[number % colours.length];
      button.append(makeElement("kbd", "", number < DIGITS ? String(number + 1) : ""), swatch,
                    makeElement("bdi", "", name), makeElement("b", "", String(counts[name] ?? 0)));
      button.addEventListener("click", () => this.label(name));
      return button;
    });
    byId("labels").replaceChildren(...buttons);
    byId("sure").textContent =
      accuracy !== null ? `A linear probe is right on ${Math.round(100 * accuracy)} % of the ` +
        "answers of videos that it was not fitted to; it chooses the clips that it is least sure of." :
      untilProbe ? `After ${untilProbe} more answers, a linear probe chooses the clips.` : "";
    byId("command").textContent = command;
    byId("undo").disabled = !this.done.length;
  }

  play() {
    if (!this.clip) {
      byId("player").replaceChildren();
      byId("part").textContent = "";
      return;
    }
    const { video, row, start, end } = this.clip;
    const isWhole = this.part[0] === start && this.part[1] === end;
    const query = `start=${this.part[0]}&end=${this.part[1]}`;
    this.player = new Player({
      file: `videos/${video}`,
      part: this.part,
      converted: isWhole ? `clips/${row}.mp4` : `videos/${video}/part.mp4?${query}`,
    });
    byId("player").replaceChildren(this.player.element);
    byId("part").textContent = `${this.part.map((time) => time.toFixed(2)).join("–")} s`;
    this.drawTimeline();
  }

  label(name) {
    if (!this.clip) return;
    this.run(async () => {
      const [start, end] = this.part;
      const answer = { row: this.clip.row, label: name, start_seconds: start, end_seconds: end };
      this.done.push(await post("label", answer));
      await this.next();
    });
  }

  skip() {
    if (!this.clip) return;
    this.run(async () => {
      this.done.push(await post("skip", { row: this.clip.row }));
      await this.next();
    });
  }

  undo() {
    if (!this.done.length) return;
    this.run(async () => {
      const { row, number } = this.done.at(-1);
      const answer = await post("undo", { row, number });
      this.done.pop();
      this.show(answer);
    });
  }

  onKey(event) {
    if (event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const name = this.state.labels[Number(event.key) - 1];
    const video = this.player?.element;
    if (Number(event.key) <= DIGITS && name) this.label(name);
    else if (event.key === "s") this.skip();
    else if (event.key === "u") this.undo();
    else if (event.key === "r") this.player?.restart();
    else if (event.key === "n") byId("new-name").focus();
    else if (event.key === " " && video) video.paused ? video.play() : video.pause();
    else return;
    event.preventDefault();
  }

  // Drag on the timeline to choose another part of the video.
  watchTimeline() {
    const canvas = byId("timeline");
    const timeAt = (event) =>
      Math.min(1, Math.max(0, event.offsetX / Math.max(1, canvas.clientWidth))) * this.clip.duration;
    let from = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (!this.clip) return;
      from = timeAt(event);
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (from === null) return;
      this.part = [from, timeAt(event)].sort((a, b) => a - b);
      this.drawTimeline();
    });
    canvas.addEventListener("pointerup", (event) => {
      if (from === null) return;
      const part = [from, timeAt(event)].sort((a, b) => a - b);
      from = null;
      const isClick = part[1] - part[0] < 0.01 * this.clip.duration;
      this.part = isClick ? [this.clip.start, this.clip.end] : part.map(round);
      this.play();
    });
  }

  drawTimeline() {
    const { context, width, height } = fitCanvas(byId("timeline"));
    if (!this.clip) return;
    const x = (time) => (time / this.clip.duration) * width;
    context.fillStyle = cssColour("--line");
    context.fillRect(x(this.clip.start), 8, x(this.clip.end) - x(this.clip.start), height - 16);
    context.fillStyle = cssColour("--accent");
    const [start, end] = this.part;
    context.fillRect(x(start), 4, Math.max(2, x(end) - x(start)), height - 8);
  }
}

const round = (time) => Math.round(time * 1000) / 1000;

window.labelling = new Labelling();
