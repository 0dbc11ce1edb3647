"""
Encode decoded frames, and keep what comes out: each frame is decoded and encoded once.

The store is a folder for one set of features (sampling, pictures, backbone and its weights,
arithmetic). Its Parquet files hold whole segments of videos, known by content: a second recognizer,
or a second run on renamed files, finds everything there.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import fingerprint
from pipeline.encode.engines import Engine
from pipeline.files import write_table
from pipeline.records import TRANSIENT, DecodeReport, FrameBatch, FrameFeatures, Pictures

CHUNK_BYTES = 32 << 20
"""Decoded pictures cut to size at once."""
METADATA_KEY = b"clipline"
Lock = contextlib.AbstractContextManager[Any]


def encode_frames(engine: Engine, batches: Sequence[FrameBatch], lock: Lock) -> list[FrameFeatures]:
    """
    Encode the frames of a shard, in batches that run on from one video to the next.

    Args:
        engine: what computes.
        batches: the segments of the shard.
        lock: held while the engine computes, not while pictures are cut to size.

    Returns:
        Features of each segment, without its context.
    """
    rows: list[NDArray[np.float32]] = []
    pending: list[Tensor] = []
    for pictures in fit_batches(engine, batches):
        pending.append(pictures)
        pending = _run(engine, pending, rows, lock, last=False)
    _run(engine, pending, rows, lock, last=True)
    size = engine.backbone.feature_size
    values = np.concatenate([np.zeros((0, size), np.float32), *rows])
    return _split(values, batches)


def _run(
    engine: Engine,
    pending: list[Tensor],
    rows: list[NDArray[np.float32]],
    lock: Lock,
    *,
    last: bool,
) -> list[Tensor]:
    """Run whole batches; give back the pictures that are left over, none the last time."""
    if not pending:
        return []
    pictures = torch.cat(pending) if len(pending) > 1 else pending[0]
    whole = len(pictures) if last else len(pictures) - len(pictures) % engine.batch_size
    if whole:
        with lock:
            rows.append(engine.run(pictures[:whole]))
    return [pictures[whole:]] if whole < len(pictures) else []


def fit_batches(engine: Engine, batches: Sequence[FrameBatch]) -> Iterator[Tensor]:
    """Give the pictures of all segments, (n, H, W, 3 · (1 + context)), chunk by chunk."""
    for batch in batches:
        previous: Tensor | None = None
        for frames in _chunks(batch.pictures):
            pictures = engine.fit(frames)
            if engine.backbone.context:
                before = torch.cat([pictures[:1] if previous is None else previous, pictures[:-1]])
                previous = pictures[-1:]
                pictures = torch.cat([before, pictures], dim=3)
            yield pictures


def _chunks(pictures: Pictures) -> Iterator[Pictures]:
    if not len(pictures):
        return
    step = max(1, CHUNK_BYTES // pictures[0].nbytes)
    for start in range(0, len(pictures), step):
        yield pictures[start : start + step]


def _split(values: NDArray[np.float32], batches: Sequence[FrameBatch]) -> list[FrameFeatures]:
    features, row = [], 0
    for batch in batches:
        here = values[row : row + len(batch.pictures)]
        row += len(batch.pictures)
        kept = batch.sample_index >= batch.segment.start
        features.append(
            FrameFeatures(
                video_id=batch.segment.video.video_id,
                start=batch.segment.start,
                stop=batch.segment.stop,
                num_samples=batch.segment.num_samples,
                # float16 holds what a network of bounded features gives; beyond it there is no row
                values=np.clip(here[kept], -65504, 65504).astype(np.float16),
                sample_index=batch.sample_index[kept],
                frame_index=batch.frame_index[kept],
                pts_seconds=batch.pts_seconds[kept],
                report=batch.report,
            )
        )
    return features


def features_schema(size: int) -> pa.Schema:
    """Give the columns of the feature store for `size` features a frame."""
    return pa.schema(
        [
            ("video_id", pa.string()),
            ("sample_index", pa.int64()),
            ("frame_index", pa.int64()),
            ("pts_seconds", pa.float64()),
            ("feature", pa.list_(pa.float16(), size)),
        ]
    )


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where one segment lies."""

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
            self._learn(path, [e for e in _read_entries(path) if not _transient(e)])

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

    def segments(self, video_id: str) -> list[tuple[int, int]]:
        """Tell which ranges of samples of a video are there, in order."""
        return sorted({(entry.start, entry.stop) for entry in self._entries.get(video_id, [])})

    def has(self, video_id: str) -> bool:
        """Whether all of a video is there."""
        return self._cover(video_id) is not None

    def _cover(self, video_id: str) -> list[_Entry] | None:
        """Give segments that follow each other from the first sample to the last."""
        covers: dict[int, list[_Entry]] = {}
        entries = self._entries.get(video_id, [])
        for entry in entries:  # by their starts: whatever leads to one was seen before it
            if entry.start == 0 or entry.start in covers:
                covers.setdefault(entry.stop, [*covers.get(entry.start, []), entry])
        return covers.get(entries[0].num_samples) if entries else None

    def forget(self, video_id: str) -> None:
        """Treat a video as not there, now and by later runs, so that it is decoded again."""
        with self._lock:
            forgotten = self._entries.pop(video_id, [])
        for path in {entry.path for entry in forgotten}:
            table = pq.read_table(path)
            left = [entry for entry in _read_entries(path) if entry["video_id"] != video_id]
            # rows stay where they are: others may be reading the file by their numbers
            write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps(left)}), path)

    def reports(self, video_id: str) -> list[DecodeReport]:
        """
        Give the verdicts on the segments of a video.

        Raises:
            KeyError: not all of the video is there.
        """
        return [entry.report for entry in self._whole(video_id)]

    def stream(self, video_id: str) -> Iterator[FrameFeatures]:
        """
        Read the segments of a video one by one, so that memory does not grow with its length.

        Raises:
            KeyError: not all of the video is there.
        """
        for entry in self._whole(video_id):
            yield self._load(video_id, entry)

    def _whole(self, video_id: str) -> list[_Entry]:
        cover = self._cover(video_id)
        if cover is None:
            raise KeyError(video_id)
        return cover

    def _load(self, video_id: str, entry: _Entry) -> FrameFeatures:
        table = self._read(entry.path).slice(entry.row, entry.rows)
        values = np.asarray(table["feature"].combine_chunks().flatten(), dtype=np.float16)
        return FrameFeatures(
            video_id=video_id,
            start=entry.start,
            stop=entry.stop,
            num_samples=entry.num_samples,
            values=values.reshape(entry.rows, self.size),
            sample_index=table["sample_index"].to_numpy(),
            frame_index=table["frame_index"].to_numpy(),
            pts_seconds=table["pts_seconds"].to_numpy(),
            report=entry.report,
        )

    def _read(self, path: Path) -> pa.Table:
        """Read a file, and keep it: a thread most likely asks for more of the same next."""
        now = path.stat()
        version = (path, now.st_ino, now.st_mtime_ns)
        if getattr(self._recent, "version", None) != version:
            self._recent.table = pq.read_table(path)
            self._recent.version = version
        table: pa.Table = self._recent.table
        return table

    def write(self, features: Sequence[FrameFeatures]) -> Path:
        """Keep segments in one new file, whole or not at all."""
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
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), size)
    ids = pa.array([p.video_id for p in features for _ in range(len(p.values))], pa.string())
    columns = [
        ids,
        pa.array(np.concatenate([part.sample_index for part in features])),
        pa.array(np.concatenate([part.frame_index for part in features])),
        pa.array(np.concatenate([part.pts_seconds for part in features])),
        lists,
    ]
    schema = features_schema(size).with_metadata({METADATA_KEY: json.dumps(entries)})
    return pa.Table.from_arrays(columns, schema=schema)


def _transient(entry: dict[str, Any]) -> bool:
    """Whether a segment was kept only for the run that could not decode it."""
    return entry["report"]["status"] in TRANSIENT


def _read_entries(path: Path) -> list[dict[str, Any]]:
    metadata = pq.read_schema(path).metadata or {}
    entries: list[dict[str, Any]] = json.loads(metadata.get(METADATA_KEY, b"[]"))
    return entries
