"""
Keep features: each frame is decoded and encoded once.

The store is a folder for one set of features (sampling, pictures, backbone and its weights,
arithmetic). Its Parquet files hold whole chunks of videos, known by content: a second recognizer,
or a second run on renamed files, finds everything there.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config import fingerprint
from pipeline.errors import DamagedFileError
from pipeline.records import TRANSIENT, DecodeReport, FrameFeatures
from pipeline.storage import read_schema, read_table, set_aside, write_table

METADATA_KEY = b"clipline"
_TIMES = ("sample_index", "frame_index", "pts_seconds")

logger = logging.getLogger(__name__)


def features_folder(out: Path, chosen: str | None) -> Path:
    """Give the folder of the stores of a results folder, where no other one was chosen."""
    return Path(chosen).expanduser() if chosen else out / "features"


def features_schema(size: int) -> pa.Schema:
    """
    Give the columns of the feature store for `size` features a frame.

    Nothing in them may be null: where numbers could be, reading takes twice as long.
    """
    number = pa.field("element", pa.float16(), nullable=False)
    return pa.schema(
        [
            pa.field("video_id", pa.string(), nullable=False),
            pa.field("sample_index", pa.int64(), nullable=False),
            pa.field("frame_index", pa.int64(), nullable=False),
            pa.field("pts_seconds", pa.float64(), nullable=False),
            pa.field("feature", pa.list_(number, size), nullable=False),
        ]
    )


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where one chunk lies."""

    path: Path
    row: int
    rows: int
    start: int
    stop: int
    num_samples: int
    report: DecodeReport


class FeatureStore:
    """A folder of features, found by video and read as arrays."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.size = size
        self._lock = threading.Lock()
        self._recent = threading.local()
        self._entries: dict[str, list[_Entry]] = defaultdict(list)
        for path in sorted(folder.glob("part-*.parquet")):
            try:
                found = _read_entries(path)
            except DamagedFileError as error:  # its frames are encoded again
                logger.warning("%s is damaged and not used: %s", path, error.detail)
                continue
            self._learn(path, [entry for entry in found if not _transient(entry)])

    def _learn(self, path: Path, entries: list[dict[str, Any]]) -> None:
        with self._lock:
            for video_id in {entry["video_id"] for entry in entries}:  # the file may replace one
                known = self._entries[video_id]
                self._entries[video_id] = [entry for entry in known if entry.path != path]
            for entry in entries:
                found = _Entry(
                    path=path,
                    row=entry["row"],
                    rows=entry["rows"],
                    start=entry["start"],
                    stop=entry["stop"],
                    num_samples=entry["num_samples"],
                    report=DecodeReport.from_json(entry["report"]),
                )
                kept = self._entries[entry["video_id"]]
                kept.append(found)
                kept.sort(key=lambda e: e.start)

    def chunks(self, video_id: str) -> list[tuple[int, int]]:
        """Tell which ranges of samples of a video are there, in order."""
        return sorted({(entry.start, entry.stop) for entry in self._entries.get(video_id, [])})

    def has(self, video_id: str) -> bool:
        """Whether all of a video is there."""
        return self._cover(video_id) is not None

    def _cover(self, video_id: str) -> list[_Entry] | None:
        """Give chunks that follow each other from the first sample to the last."""
        covers: dict[int, list[_Entry]] = {}
        entries = self._entries.get(video_id, [])
        for entry in entries:  # by their starts: whatever leads to one was seen before it
            if entry.start == 0 or entry.start in covers:
                covers.setdefault(entry.stop, [*covers.get(entry.start, []), entry])
        return covers.get(entries[0].num_samples) if entries else None

    def forget(self, video_ids: Collection[str]) -> None:
        """Treat videos as not there, now and by later runs, so that they are decoded again."""
        with self._lock:
            forgotten = [e for name in video_ids for e in self._entries.pop(name, [])]
        for path in {entry.path for entry in forgotten}:
            try:
                table = read_table(path)
            except DamagedFileError as error:
                self._remove_damaged(error)
                continue
            left = [entry for entry in _read_entries(path) if entry["video_id"] not in video_ids]
            # rows stay where they are: others may be reading the file by their numbers
            write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps(left)}), path)

    def _remove_damaged(self, error: DamagedFileError) -> None:
        """Remove a damaged file from the store, so that its frames are encoded again."""
        with self._lock:
            for video_id, entries in self._entries.items():
                self._entries[video_id] = [entry for entry in entries if entry.path != error.path]
        renamed = set_aside(error.path)
        logger.warning(
            "%s is damaged (%s) and was renamed to %s", error.path, error.detail, renamed.name
        )

    def reports(self, video_id: str) -> list[DecodeReport]:
        """
        Give the verdicts on the chunks of a video.

        Raises:
            KeyError: not all of the video is there.
        """
        return [entry.report for entry in self._whole(video_id)]

    def stream(self, video_id: str) -> Iterator[FrameFeatures]:
        """
        Read the chunks of a video one by one, so that memory does not grow with its length.

        Raises:
            KeyError: not all of the video is there.
            DamagedFileError: a file is damaged; its videos are removed from the store.
        """
        for entry in self._whole(video_id):
            yield self._load(video_id, entry)

    def frames_at_once(self, video_id: str) -> int:
        """
        Tell how many frames of a video `stream` gives at once, at most.

        Raises:
            KeyError: not all of the video is there.
        """
        return max(entry.rows for entry in self._whole(video_id))

    def _whole(self, video_id: str) -> list[_Entry]:
        cover = self._cover(video_id)
        if cover is None:
            raise KeyError(video_id)
        return cover

    def _load(self, video_id: str, entry: _Entry) -> FrameFeatures:
        columns = self._read(entry.path)
        rows = slice(entry.row, entry.row + entry.rows)
        return FrameFeatures(
            video_id=video_id,
            start=entry.start,
            stop=entry.stop,
            num_samples=entry.num_samples,
            report=entry.report,
            # copies: torch takes no memory that may not be written to, and a view would keep the
            # features of all other videos of the file
            **{name: column[rows].copy() for name, column in columns.items()},
        )

    def _read(self, path: Path) -> dict[str, NDArray[Any]]:
        """
        Read the columns of a file: fields of `FrameFeatures`, of all its chunks.

        They are kept: a thread most likely asks for more of the same next.
        """
        now = path.stat()
        version = (path, now.st_ino, now.st_mtime_ns)
        if getattr(self._recent, "version", None) != version:
            try:
                table = read_table(path)
            except DamagedFileError as error:
                self._remove_damaged(error)
                raise
            values = table["feature"].combine_chunks().flatten().to_numpy().reshape(-1, self.size)
            times = {name: table[name].to_numpy() for name in _TIMES}
            self._recent.columns, self._recent.version = {**times, "values": values}, version
        columns: dict[str, NDArray[Any]] = self._recent.columns
        return columns

    def write(self, features: Sequence[FrameFeatures]) -> Path:
        """Keep chunks in one new file, whole or not at all."""
        entries, row = [], 0
        for part in features:
            entries.append(
                {
                    "video_id": part.video_id,
                    "row": row,
                    "rows": len(part.values),
                    "start": part.start,
                    "stop": part.stop,
                    "num_samples": part.num_samples,
                    "report": part.report.to_json(),
                }
            )
            row += len(part.values)
        name = fingerprint([[e["video_id"], e["start"], e["stop"]] for e in entries])
        path = self.folder / f"part-{name}.parquet"
        write_table(_table(features, self.size, entries), path)
        self._learn(path, entries)
        return path


def _table(features: Sequence[FrameFeatures], size: int, entries: list[dict[str, Any]]) -> pa.Table:
    values = np.concatenate([part.values for part in features])
    schema = features_schema(size).with_metadata({METADATA_KEY: json.dumps(entries)})
    kind = schema.field("feature").type
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=kind)
    ids = pa.array([p.video_id for p in features for _ in range(len(p.values))], pa.string())
    columns = [
        ids,
        pa.array(np.concatenate([part.sample_index for part in features])),
        pa.array(np.concatenate([part.frame_index for part in features])),
        pa.array(np.concatenate([part.pts_seconds for part in features])),
        lists,
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _transient(entry: dict[str, Any]) -> bool:
    """Whether a chunk was kept only for the run that could not decode it."""
    return entry["report"]["status"] in TRANSIENT


def _read_entries(path: Path) -> list[dict[str, Any]]:
    metadata = read_schema(path).metadata or {}
    try:
        entries: list[dict[str, Any]] = json.loads(metadata.get(METADATA_KEY, b"[]"))
    except ValueError as error:  # metadata have no checksum
        raise DamagedFileError(path, f"metadata {METADATA_KEY.decode()}: {error}") from error
    return entries
