// The state of the page (kept in its address), and the rows that it selects.

const VIEWS = ["clips", "videos", "failures", "run"];
const SORTS = {
  clips: { found: "as found", least: "lowest score first", most: "highest score first",
           novel: "highest novelty first", name: "name" },
  videos: { found: "as found", name: "name", longest: "longest first", clips: "most clips first" },
  failures: { found: "as found", name: "name", status: "status" },
  run: { found: "as found" },
};
const WHOLE_RANGE = [0, 1];

function initialState() {
  return { view: "clips", search: "", labels: new Set(), statuses: new Set(), sort: "found",
           score: WHOLE_RANGE, novelty: WHOLE_RANGE, video: "", part: null, row: null };
}

function parseRange(text, fallback) {
  const numbers = (text ?? "").split("~").map(Number);
  return numbers.length === 2 && numbers.every(Number.isFinite) ? numbers : fallback;
}

function readState() {
  const given = new URLSearchParams(location.hash.slice(1));
  const state = initialState();
  if (VIEWS.includes(given.get("view"))) state.view = given.get("view");
  state.search = given.get("search") ?? "";
  state.labels = new Set(given.getAll("label"));
  state.statuses = new Set(given.getAll("status"));
  if (given.get("sort") in SORTS[state.view]) state.sort = given.get("sort");
  state.score = parseRange(given.get("score"), WHOLE_RANGE);
  state.novelty = parseRange(given.get("novelty"), WHOLE_RANGE);
  state.video = given.get("video") ?? "";
  state.part = parseRange(given.get("part"), null);
  state.row = given.has("row") ? Number(given.get("row")) : null;
  return state;
}

function writeState(state) {
  const written = new URLSearchParams();
  const isWhole = ([low, high]) => low === 0 && high === 1;
  if (state.view !== "clips") written.set("view", state.view);
  if (state.search) written.set("search", state.search);
  for (const label of state.labels) written.append("label", label);
  for (const status of state.statuses) written.append("status", status);
  if (state.sort !== "found") written.set("sort", state.sort);
  if (!isWhole(state.score)) written.set("score", state.score.join("~"));
  if (!isWhole(state.novelty)) written.set("novelty", state.novelty.join("~"));
  if (state.video) written.set("video", state.video);
  if (state.part) written.set("part", state.part.join("~"));
  if (state.row !== null) written.set("row", state.row);
  const hash = written.toString();
  history.replaceState(null, "", hash ? `#${hash}` : location.pathname);
}

// The least and greatest finite value; [0, 1] without one.
function extent(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high && value < Infinity) high = value;
  }
  return low <= high ? [low, high > low ? high : low + 1] : [0, 1];
}

// Which videos pass the filters of videos: 1 or 0 for each.
function selectVideos(results, state) {
  const { name, status } = results.videos;
  const search = state.search.trim().toLowerCase();
  const passes = new Uint8Array(results.numVideos);
  for (let video = 0; video < passes.length; video++) {
    passes[video] =
      (!state.video || name[video] === state.video) &&
      (!state.statuses.size || state.statuses.has(status[video])) &&
      (!search || results.searchText[video].includes(search));
  }
  return passes;
}

// Which labels are selected: 1 or 0 by index, those without a label last.
function selectLabels(results, state) {
  const all = !state.labels.size;
  const passes = new Uint8Array(results.noLabel + 1).fill(all ? 1 : 0);
  results.labels.forEach((label, index) => {
    if (state.labels.has(label)) passes[index] = 1;
  });
  return passes;
}

function selectClips(results, state, videoPasses) {
  const { video, start, length, label, score, novelty } = results.clips;
  const labelPasses = selectLabels(results, state);
  const [lowScore, highScore] = state.score.map((share) => share * results.scoreSteps);
  const [least, most] = results.noveltyExtent;
  const [lowNovelty, highNovelty] = state.novelty.map((share) => least + share * (most - least));
  const limited = novelty && (state.novelty[0] > 0 || state.novelty[1] < 1);
  const [from, to] = (state.part ?? [0, Infinity]).map((time) => time * results.ticksPerSecond);
  const rows = new Uint32Array(video.length);
  let count = 0;
  for (let row = 0; row < video.length; row++) {
    if (
      labelPasses[label[row]] && videoPasses[video[row]] !== 0 &&
      score[row] >= lowScore && score[row] <= highScore &&
      (!limited || (novelty[row] >= lowNovelty && novelty[row] <= highNovelty)) &&
      start[row] < to && (start[row] + length[row] > from || length[row] === 0)
    ) {
      rows[count++] = row;
    }
  }
  return rows.subarray(0, count);
}

const compareTexts = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

const MAX_KEY = 0xffffffff;

// Sorts rows by an unsigned 32-bit integer each; rows with equal keys keep their order. Key and
// position are packed into one number, which sorts much faster than with a function that compares.
function sortBy(rows, key) {
  const count = rows.length;
  const packed = new Float64Array(count);
  for (let position = 0; position < count; position++) {
    packed[position] = key(rows[position]) * count + position;
  }
  packed.sort();
  return Uint32Array.from(packed, (value) => rows[value % count]);
}

// Unsigned integers in the order of float32 values; NaN is 0.
function orderedBits(values) {
  const bits = new Uint32Array(values.length);
  bits.set(new Uint32Array(values.buffer, values.byteOffset, values.length));
  for (let row = 0; row < bits.length; row++) {
    if (Number.isNaN(values[row])) bits[row] = 0;
    else bits[row] = bits[row] & 0x80000000 ? ~bits[row] : bits[row] | 0x80000000;
  }
  return bits;
}

function nameRanks(results) {
  if (!results.ranks) {
    const { name } = results.videos;
    const order = Array.from(name.keys()).sort((a, b) => compareTexts(name[a], name[b]) || a - b);
    results.ranks = new Uint32Array(order.length);
    order.forEach((video, rank) => { results.ranks[video] = rank; });
  }
  return results.ranks;
}

function sortClips(results, rows, sort) {
  const { video, score, novelty } = results.clips;
  if (sort === "least") return sortBy(rows, (row) => score[row]);
  if (sort === "most") return sortBy(rows, (row) => MAX_KEY - score[row]);
  if (sort === "novel" && novelty) {
    const bits = orderedBits(novelty);
    return sortBy(rows, (row) => MAX_KEY - bits[row]);
  }
  if (sort === "name") {
    const ranks = nameRanks(results);
    return sortBy(rows, (row) => ranks[video[row]]);
  }
  return rows;
}

function sortVideos(results, rows, sort, clipsOf) {
  const { duration, status } = results.videos;
  if (sort === "name") {
    const ranks = nameRanks(results);
    return sortBy(rows, (video) => ranks[video]);
  }
  if (sort === "longest") return sortBy(rows, (video) => MAX_KEY - duration[video]);
  if (sort === "clips") return sortBy(rows, (video) => MAX_KEY - clipsOf[video]);
  if (sort === "status") {
    return Uint32Array.from(rows).sort((a, b) => compareTexts(status[a], status[b]) || a - b);
  }
  return rows;
}

// The rows of the current view: clips, or videos.
function select(results, state) {
  const videoPasses = selectVideos(results, state);
  const clips = selectClips(results, state, videoPasses);
  const clipsOf = new Uint32Array(results.numVideos);
  for (const row of clips) clipsOf[results.clips.video[row]]++;
  const limits = state.labels.size || state.part || state.score.join() !== "0,1" ||
    state.novelty.join() !== "0,1";
  const videos = [];
  const failures = [];
  for (let video = 0; video < results.numVideos; video++) {
    if (!videoPasses[video]) continue;
    if (!limits || clipsOf[video]) videos.push(video);
    if (results.videos.status[video] !== "ok") failures.push(video);
  }
  const rows = {
    clips: () => sortClips(results, clips, state.sort),
    videos: () => sortVideos(results, Uint32Array.from(videos), state.sort, clipsOf),
    failures: () => sortVideos(results, Uint32Array.from(failures), state.sort, clipsOf),
    run: () => new Uint32Array(0),
  }[state.view]();
  return { rows, clips, clipsOf, numVideos: videos.length, numFailures: failures.length };
}
