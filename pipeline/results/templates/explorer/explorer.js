// Connects the state, the controls and the list.

const byId = (id) => document.getElementById(id);
const page = JSON.parse(byId("data").textContent);
byId("data").textContent = ""; // the columns are read once
const IMAGE_DELAY = 120; // milliseconds
const narrow = window.matchMedia("(max-width: 56rem)");

class Explorer {
  constructor(results) {
    this.results = results;
    this.state = readState();
    this.panel = byId("details");
    this.list = new VirtualList(byId("rows"), {
      makeRow: () => this.makeRow(),
      fillRow: (element, row) => this.fillRow(element, row),
      onSelect: (row) => this.onSelect(row),
    });
    this.actions = {
      close: () => this.closeDetails(),
      showVideo: (video) => this.showClipsOf(video, null),
      showClip: (row) => this.showClip(row),
      showSegment: (video, row) => {
        const { start, length } = results.segments;
        const part = [start[row], start[row] + length[row]];
        this.showClipsOf(video, part.map((ticks) => seconds(results, ticks)));
      },
    };
    this.makeFilters();
    this.listen();
    byId("filters").open = !narrow.matches;
    this.update({ keepRow: true });
  }

  makeFilters() {
    const { results } = this;
    const toggle = (set) => (name) => {
      if (!set().delete(name)) set().add(name);
      this.update();
    };
    const used = new Set(results.clips.label);
    const names = results.labels.filter((_, index) => used.has(index));
    this.labels = new Chips(byId("labels"), names, {
      colour: (name) => colourOf(results, results.labels.indexOf(name)),
      onChange: toggle(() => this.state.labels),
    });
    const statuses = [...new Set(results.videos.status)].sort();
    this.statuses = new Chips(byId("statuses"), statuses, {
      title: (name) => results.statuses[name] ?? name,
      onChange: toggle(() => this.state.statuses),
    });
    const setRange = (name) => (range) => {
      this.state[name] = range;
      this.update();
    };
    const { score, novelty } = results.clips;
    this.ranges = {};
    const formatScore = (value) => (value / results.scoreSteps).toFixed(2);
    this.addRange("score", score, [0, results.scoreSteps], formatScore, setRange("score"));
    this.addRange("novelty", novelty, results.noveltyExtent, formatNovelty, setRange("novelty"));
  }

  addRange(name, values, extentOfValues, format, onChange) {
    byId(name).hidden = !values?.length;
    if (!values?.length) return;
    this.ranges[name] = new RangeFilter(byId(name), values, extentOfValues, format, onChange);
  }

  listen() {
    for (const view of VIEWS) byId(`tab-${view}`).addEventListener("click", () => this.open(view));
    byId("search").addEventListener("input", (event) => {
      this.state.search = event.target.value;
      this.update();
    });
    byId("sort").addEventListener("change", (event) => {
      this.state.sort = event.target.value;
      this.update();
    });
    byId("reset").addEventListener("click", () => {
      this.state = { ...initialState(), view: this.state.view };
      this.update();
    });
    byId("whole").addEventListener("click", () => {
      Object.assign(this.state, { video: "", part: null });
      this.update();
    });
    byId("download").addEventListener("click", () => this.download());
    byId("show-keys").addEventListener("click", () => byId("keys").showModal());
    window.addEventListener("hashchange", () => {
      this.state = readState();
      this.update({ keepRow: true });
    });
    window.addEventListener("keydown", (event) => this.onKey(event));
    window.addEventListener("resize", () => this.drawRanges());
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.list.draw();
      this.drawRanges();
    });
  }

  onKey(event) {
    const isTyping = event.target.matches("input[type=search], select");
    if (event.key === "Escape") {
      if (isTyping) event.target.blur();
      else this.closeDetails();
      return;
    }
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey || byId("keys").open) return;
    const view = VIEWS[Number(event.key) - 1];
    if (event.key === "/") byId("search").focus();
    else if (event.key === "?") byId("keys").showModal();
    else if (view) this.open(view);
    else if (event.target.matches("input")) return; // arrows move the handle of a range
    else if (event.key === "Enter" && event.target === this.list.container) this.openSelected();
    else if (!this.list.move(event.key)) return;
    event.preventDefault();
  }

  open(view) {
    const sort = this.state.sort in SORTS[view] ? this.state.sort : "found";
    Object.assign(this.state, { view, sort, row: null });
    this.update();
  }

  openSelected() {
    if (this.list.selected < 0) return;
    const row = this.list.rows[this.list.selected];
    this.showClipsOf(this.state.view === "clips" ? this.results.clips.video[row] : row, null);
  }

  showClipsOf(video, part) {
    this.state = { ...initialState(), video: this.results.videos.name[video], part };
    this.update();
  }

  // Selects a clip, of the current selection if it is part of it.
  showClip(row) {
    if (!this.selection.rows.includes(row)) this.state = initialState();
    this.state.row = row;
    this.update({ keepRow: true });
  }

  update({ keepRow = false } = {}) {
    const { state, results } = this;
    if (!keepRow) state.row = null;
    this.selection = select(results, state);
    this.showControls();
    this.showColumns();
    this.list.show(this.selection.rows);
    this.showResult();
    const position = state.row === null ? -1 : this.selection.rows.indexOf(state.row);
    if (position >= 0) this.list.select(position, { scroll: true });
    else this.closeDetails();
    writeState(state);
  }

  showControls() {
    const { state, results, selection } = this;
    for (const view of VIEWS) {
      const isCurrent = view === state.view;
      byId(`tab-${view}`).setAttribute("aria-selected", isCurrent);
      byId(`tab-${view}`).tabIndex = isCurrent ? 0 : -1;
    }
    document.body.dataset.view = state.view;
    document.body.classList.toggle("served", results.served);
    byId("panel-run").hidden = state.view !== "run";
    byId("panel-list").hidden = byId("filters").hidden = state.view === "run";
    if (byId("search").value !== state.search) byId("search").value = state.search;
    const options = Object.entries(SORTS[state.view])
      .filter(([name]) => name !== "novel" || results.clips.novelty)
      .map(([name, text]) => new Option(text, name, false, name === state.sort));
    byId("sort").replaceChildren(...options);
    byId("part").hidden = !state.video;
    const range = state.part?.map((time) => time.toFixed(2)).join("–");
    byId("part").firstElementChild.textContent = state.video + (range ? ` at ${range} s` : "");
    this.labels.show(state.labels, this.countLabels());
    this.statuses.show(state.statuses, this.countStatuses());
    this.drawRanges();
    byId("clip-count").textContent = formatCount(selection.clips.length);
    byId("video-count").textContent = formatCount(selection.numVideos);
    byId("failure-count").textContent = formatCount(selection.numFailures);
    const active = [state.search, state.video, state.labels.size, state.statuses.size,
                    state.score.join() !== "0,1", state.novelty.join() !== "0,1"];
    const count = active.filter(Boolean).length;
    byId("filter-summary").textContent = count ? `(${count} active)` : "";
  }

  countLabels() {
    const { label } = this.results.clips;
    const counts = new Uint32Array(this.results.noLabel + 1);
    for (const row of this.selection.clips) counts[label[row]]++;
    return new Map(this.results.labels.map((name, index) => [name, counts[index]]));
  }

  countStatuses() {
    const counts = new Map();
    for (const status of this.results.videos.status) {
      counts.set(status, (counts.get(status) ?? 0) + 1);
    }
    return counts;
  }

  drawRanges() {
    for (const [name, range] of Object.entries(this.ranges)) {
      range.show(this.state[name], this.selection.clips);
    }
  }

  showColumns() {
    const score = this.results.clips.novelty ? "score · novelty" : "score";
    const columns = {
      clips: { name: "video", time: "time", label: "label", score },
      videos: { name: "video", timeline: "segments", time: "duration", label: "status", score: "clips" },
      failures: { name: "video", time: "duration", label: "status", score: "reason" },
      run: {},
    }[this.state.view];
    const cells = Object.entries(columns).map(([name, text]) => makeElement("span", `row-${name}`, text));
    byId("columns").replaceChildren(...cells);
  }

  showResult() {
    const { view } = this.state;
    const count = formatCount(this.selection.rows.length);
    const total = view === "clips" ? this.results.numClips : this.results.numVideos;
    const noun = view === "clips" ? "clips" : "videos";
    const { folder } = this.results;
    byId("result").textContent =
      this.selection.rows.length
        ? `${count} of ${formatCount(total)} ${noun}${folder && ` in \u2068${folder}\u2069`}` :
      total ? `No ${noun} match. ` : `There are no ${noun}.`;
  }

  makeRow() {
    const row = document.createElement("div");
    const name = makeElement("span", "row-name");
    name.append(makeElement("bdi", "folder"), makeElement("bdi", "file"));
    const timeline = makeElement("canvas", "row-timeline");
    timeline.addEventListener("click", (event) => {
      const video = Number(row.dataset.row);
      const found = segmentAt(this.results, video, shareAt(timeline, event));
      if (found === null || this.state.view !== "videos") return;
      event.stopPropagation();
      this.actions.showSegment(video, found);
    });
    timeline.addEventListener("mousemove", (event) => {
      const found = segmentAt(this.results, Number(row.dataset.row), shareAt(timeline, event));
      timeline.title = found === null ? "" : describeSegment(this.results, found);
    });
    const label = makeElement("span", "row-label");
    label.append(makeElement("i", "swatch"), makeElement("bdi"));
    row.append(name, timeline, makeElement("span", "row-time"), label,
               makeElement("span", "row-score"));
    if (this.results.served) row.append(makeElement("img", "row-image"));
    return row;
  }

  // Images are requested once scrolling pauses: each costs the server a decoded frame.
  requestImages() {
    clearTimeout(this.imageTimer);
    this.imageTimer = setTimeout(() => {
      for (const image of byId("rows").querySelectorAll(".row-image")) {
        if (image.dataset.address && image.getAttribute("src") !== image.dataset.address) {
          image.src = image.dataset.address;
        }
      }
    }, IMAGE_DELAY);
  }

  showImage(element, address) {
    const image = element.querySelector(".row-image");
    if (!image || image.dataset.address === address) return;
    image.removeAttribute("src");
    image.alt = "";
    image.dataset.address = address;
    this.requestImages();
  }

  fillRow(element, row) {
    element.dataset.row = row;
    if (this.state.view === "clips") this.fillClip(element, row);
    else this.fillVideo(element, row);
  }

  fillClip(element, row) {
    const { results } = this;
    const { video, start, length, label, score, novelty } = results.clips;
    const [name, , time, labelCell, scoreCell] = element.children;
    showName(name, results.videos.name[video[row]] ?? "", results.folder);
    time.textContent = formatRange(results, start[row], length[row]);
    labelCell.firstChild.style.background = colourOf(results, label[row]);
    labelCell.lastChild.textContent = labelCell.title = labelName(results, label[row]);
    const share = (score[row] / results.scoreSteps).toFixed(2);
    scoreCell.textContent = novelty ? `${share} · ${formatNovelty(novelty[row])}` : share;
    this.showImage(element, `clips/${row}/0-of-1.webp`);
  }

  fillVideo(element, video) {
    const { results } = this;
    const { name, status, error, duration } = results.videos;
    const [nameCell, timeline, time, labelCell, count] = element.children;
    showName(nameCell, name[video], results.folder);
    const isFailure = this.state.view === "failures";
    time.textContent = `${seconds(results, duration[video]).toFixed(1)} s`;
    labelCell.firstChild.style.background = "none";
    labelCell.lastChild.textContent = status[video] === "ok" && !isFailure ? "" : status[video];
    labelCell.title = results.statuses[status[video]] ?? "";
    count.textContent = isFailure ? error[video]
      : formatCount(this.selection.clipsOf[video]);
    count.title = isFailure ? error[video] : "";
    if (!isFailure) drawTimeline(timeline, results, video);
    const middle = seconds(results, duration[video] / 2);
    this.showImage(element, isFailure ? "" : `videos/${video}/image.webp?seconds=${middle}`);
  }

  onSelect(row) {
    this.state.row = row;
    const show = this.state.view === "clips" ? showClip : showVideo;
    show(this.panel, this.results, row, this.actions);
    writeState(this.state);
  }

  closeDetails() {
    this.panel.hidden = true;
    this.panel.replaceChildren();
    if (this.list.selected >= 0) {
      this.list.selected = -1;
      this.list.draw();
    }
    this.state.row = null;
    writeState(this.state);
  }

  csvOfSelection() {
    const { results, selection, state } = this;
    const sort = state.view === "clips" ? state.sort : "found";
    return makeCsv(results, sortClips(results, selection.clips, sort));
  }

  download() {
    const text = this.csvOfSelection();
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = "clips.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }
}

// Shows a name without the folder of all, so that the file stays visible where it is cut off.
function showName(cell, name, folder) {
  const slash = name.lastIndexOf("/") + 1;
  cell.firstChild.textContent = name.slice(folder.length, slash);
  cell.firstChild.hidden = slash === folder.length;
  cell.lastChild.textContent = name.slice(slash);
  cell.title = name;
}

function makeCsv(results, rows) {
  const quote = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const { video, start, length, label, score, novelty } = results.clips;
  const header = ["video", "clip_index", "start_seconds", "end_seconds", "label", "score"];
  const lines = [[...header, ...(novelty ? ["novelty"] : [])].join(",")];
  for (const row of rows) {
    const values = [
      quote(results.videos.name[video[row]] ?? ""),
      row - results.firstClip[video[row]],
      seconds(results, start[row]),
      seconds(results, start[row] + length[row]),
      label[row] === results.noLabel ? "" : quote(results.labels[label[row]]),
      score[row] / results.scoreSteps,
    ];
    if (novelty) values.push(Number.isNaN(novelty[row]) ? "" : novelty[row]);
    lines.push(values.join(","));
  }
  return `${lines.join("\n")}\n`;
}

const results = await readResults(page);
results.noveltyExtent = extent(results.clips.novelty ?? []);
window.explorer = new Explorer(results);
window.explorer.readyMilliseconds = performance.now();
document.body.dataset.ready = "true";
