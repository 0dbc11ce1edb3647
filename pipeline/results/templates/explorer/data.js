// Reads the columns of the page: compressed, little-endian, encoded as base64.

const ARRAYS = { Uint8Array, Uint16Array, Uint32Array, Float32Array };

async function decompress(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

async function readColumn(column) {
  const buffer = await decompress(column.data);
  if (column.array === "texts") {
    return column.empty ? [] : new TextDecoder().decode(buffer).split("\0");
  }
  const values = new ARRAYS[column.array](buffer);
  if (column.differences) {
    // typed arrays wrap around, as the differences did
    for (let row = 1; row < values.length; row++) values[row] += values[row - 1];
  }
  return values;
}

async function readTable(columns) {
  const names = Object.keys(columns);
  const values = await Promise.all(names.map((name) => readColumn(columns[name])));
  return Object.fromEntries(names.map((name, number) => [name, values[number]]));
}

// The first row of each video in a table sorted by video; one more for the end. A video without
// rows begins where the next one does.
function firstRows(videoOfRow, numVideos) {
  const first = new Uint32Array(numVideos + 1).fill(videoOfRow.length);
  for (let row = videoOfRow.length - 1; row >= 0; row--) {
    if (videoOfRow[row] < numVideos) first[videoOfRow[row]] = row;
  }
  for (let video = numVideos - 1; video >= 0; video--) {
    if (first[video] > first[video + 1]) first[video] = first[video + 1];
  }
  return first;
}

// The folder that all names begin with; empty for a single one.
function commonFolder(names) {
  if (names.length < 2) return "";
  let [first, last] = [names[0], names[0]];
  for (const name of names) {
    if (name < first) first = name;
    if (name > last) last = name;
  }
  let length = 0;
  while (length < first.length && first[length] === last[length]) length++;
  return first.slice(0, first.lastIndexOf("/", length - 1) + 1);
}

async function readResults(page) {
  const { videos, clips, segments } = page.tables;
  const [videoTable, clipTable, segmentTable] = await Promise.all(
    [videos, clips, segments].map(readTable),
  );
  const numVideos = videoTable.name.length;
  return {
    ...page,
    videos: videoTable,
    clips: clipTable,
    segments: segmentTable,
    numVideos,
    numClips: clipTable.video.length,
    firstClip: firstRows(clipTable.video, numVideos),
    firstSegment: firstRows(segmentTable.video, numVideos),
    folder: commonFolder(videoTable.name),
    searchText: videoTable.name.map((name) => name.toLowerCase()),
  };
}

const labelName = (results, label) =>
  label === results.noLabel ? "no label" : results.labels[label];
const colourOf = (results, label) =>
  label === results.noLabel ? "#888888" : results.colours[label % results.colours.length];
const seconds = (results, ticks) => ticks / results.ticksPerSecond;
const formatRange = (results, start, length) =>
  `${seconds(results, start).toFixed(2)}–${seconds(results, start + length).toFixed(2)} s`;
const formatCount = (number) => number.toLocaleString("en");
