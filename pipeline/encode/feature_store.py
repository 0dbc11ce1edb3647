"""
Store features on disk, so that each frame is decoded and encoded once.

A store is a folder for one `features_id`: sampling, preprocessing, backbone, weights and precision.
Its Parquet files contain whole chunks of videos, identified by content: another recognizer, or
another run on renamed files, finds everything there.
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

from pipeline.config import Sampling, fingerprint
from pipeline.errors import DamagedFileError
from pipeline.records import NOT_STORED, DecodeReport, FrameFeatures
from pipeline.storage import (
    read_schema,
    read_table,
    remove_temporary_files,
    set_aside,
    write_table,
)

FEATURES_VERSION = 1
"""Increase it if decoding, preprocessing or encoding changes the features of the same frames: those
of earlier versions are then computed again."""
METADATA_KEY = b"clipline"
_INDEX_COLUMNS = ("sample_index", "frame_index", "pts_seconds")

logger = logging.getLogger(__name__)


def features_id(
    backbone_identity: str, sampling: Sampling, precision: str, version: int = FEATURES_VERSION
) -> str:
    """Return the id of all that determines features, the name of the folder of a store."""
    # the ids of version 1 were made before there were versions
    versions = () if version == 1 else (version,)
    return fingerprint("features", backbone_identity, sampling, precision, *versions)


def features_folder(out: Path | None, chosen: str | None) -> Path:
    """Return the folder of the feature stores of a run: the chosen one, or one in its results."""
    if chosen:
        return Path(chosen).expanduser()
    assert out is not None
    return out / "features"


def features_schema(size: int) -> pa.Schema:
    """
    Return the columns of a feature store with `size` features a frame.

    No column is nullable: for nullable values, Parquet stores levels that double the reading time.
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
class StoredChunk:
    """Position of one chunk of a video in the store."""

    video_id: str
    path: Path
    row: int
    """First row in the file."""
    rows: int
    start: int
    stop: int
    num_samples: int
    report: DecodeReport

    def to_json(self) -> dict[str, Any]:
        """Return the metadata of the chunk in its file."""
        return {
            "video_id": self.video_id,
            "row": self.row,
            "rows": self.rows,
            "start": self.start,
            "stop": self.stop,
            "num_samples": self.num_samples,
            "report": self.report.to_json(),
        }

    @classmethod
    def from_json(cls, path: Path, values: dict[str, Any]) -> StoredChunk:
        """Read metadata, of any version: unknown fields are ignored."""
        names = ("video_id", "row", "rows", "start", "stop", "num_samples")
        known = {name: values[name] for name in names}
        return cls(path=path, report=DecodeReport.from_json(values["report"]), **known)


class FeatureStore:
    """
    Read and write the features of one folder. Threads may share it.

    Args:
        folder: folder of one `features_id`; it need not exist.
        size: features a frame.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.size = size
        self._lock = threading.Lock()
        self._last_read = threading.local()
        self._chunks: dict[str, list[StoredChunk]] = defaultdict(list)
        for path in sorted(folder.glob("part-*.parquet")):
            try:
                found = _read_metadata(path)
            except DamagedFileError as error:  # its frames are encoded again
                logger.warning("%s is damaged and not used: %s", path, error.detail)
                continue
            # another run, or one with other limits, may avoid these failures
            self.add_chunks([chunk for chunk in found if chunk.report.status not in NOT_STORED])

    def add_chunks(self, chunks: Sequence[StoredChunk]) -> None:
        """
        Add chunks that were written to the folder, by this process or another one.

        A file may replace an earlier one of the same name.
        """
        with self._lock:
            for path, video_id in {(chunk.path, chunk.video_id) for chunk in chunks}:
                known = self._chunks[video_id]
                self._chunks[video_id] = [chunk for chunk in known if chunk.path != path]
            for chunk in chunks:
                of_video = self._chunks[chunk.video_id]
                of_video.append(chunk)
                of_video.sort(key=lambda c: c.start)

    def chunks(self, video_id: str) -> list[tuple[int, int]]:
        """Return the stored ranges of samples of a video, in order."""
        return sorted({(chunk.start, chunk.stop) for chunk in self._chunks.get(video_id, [])})

    def has(self, video_id: str) -> bool:
        """Whether all samples of a video are stored."""
        return self._find_cover(video_id) is not None

    def _find_cover(self, video_id: str) -> list[StoredChunk] | None:
        """Find consecutive chunks from the first sample of a video to the last."""
        covers: dict[int, list[StoredChunk]] = {}
        chunks = self._chunks.get(video_id, [])
        for chunk in chunks:  # sorted by start: all that can precede a chunk come before it
            if chunk.start == 0 or chunk.start in covers:
                covers.setdefault(chunk.stop, [*covers.get(chunk.start, []), chunk])
        return covers.get(chunks[0].num_samples) if chunks else None

    def forget(self, video_ids: Collection[str]) -> None:
        """Remove videos from the store, for later runs too, so that they are decoded again."""
        with self._lock:
            forgotten = [c for name in video_ids for c in self._chunks.pop(name, [])]
        for path in {chunk.path for chunk in forgotten}:
            try:
                table, chunks = read_table(path), _read_metadata(path)
            except DamagedFileError as error:
                self._remove_damaged(error)
                continue
            left = [chunk for chunk in chunks if chunk.video_id not in video_ids]
            # rows keep their positions: other processes may read the file by row number
            write_table(table.replace_schema_metadata(_to_metadata(left)), path)

    def _remove_damaged(self, error: DamagedFileError) -> None:
        """Remove a damaged file from the store, so that its frames are encoded again."""
        with self._lock:
            for video_id, chunks in self._chunks.items():
                self._chunks[video_id] = [chunk for chunk in chunks if chunk.path != error.path]
        renamed = set_aside(error.path)
        logger.warning(
            "%s is damaged (%s) and was renamed to %s", error.path, error.detail, renamed.name
        )

    def remove_abandoned_files(self) -> int:
        """Delete temporary files whose writers were killed. Returns their number."""
        return remove_temporary_files(self.folder, shared=True)

    def reports(self, video_id: str) -> list[DecodeReport]:
        """
        Return the decode reports of the chunks of a video.

        Raises:
            KeyError: not all samples of the video are stored.
        """
        return [chunk.report for chunk in self._require_cover(video_id)]

    def cover(self, video_id: str) -> list[tuple[int, int]]:
        """
        Return consecutive ranges of samples that are stored, from the first sample to the last.

        Raises:
            KeyError: not all samples of the video are stored.
        """
        return [(chunk.start, chunk.stop) for chunk in self._require_cover(video_id)]

    def stored_reports(self, video_id: str) -> list[DecodeReport]:
        """Return the decode reports of all stored chunks of a video, complete or not."""
        return [chunk.report for chunk in self._chunks.get(video_id, [])]

    def stream(self, video_id: str) -> Iterator[FrameFeatures]:
        """
        Read the features of a video chunk by chunk: memory does not grow with its length.

        Raises:
            KeyError: not all samples of the video are stored.
            DamagedFileError: a file is damaged; its videos are removed from the store.
        """
        for chunk in self._require_cover(video_id):
            yield self._load(chunk)

    def frames_at_once(self, video_id: str) -> int:
        """
        Return the largest number of frames that `stream` yields at once.

        Raises:
            KeyError: not all samples of the video are stored.
        """
        return max(chunk.rows for chunk in self._require_cover(video_id))

    def _require_cover(self, video_id: str) -> list[StoredChunk]:
        cover = self._find_cover(video_id)
        if cover is None:
            raise KeyError(video_id)
        return cover

    def _load(self, chunk: StoredChunk) -> FrameFeatures:
        columns = self._read(chunk.path)
        rows = slice(chunk.row, chunk.row + chunk.rows)
        return FrameFeatures(
            video_id=chunk.video_id,
            start=chunk.start,
            stop=chunk.stop,
            num_samples=chunk.num_samples,
            report=chunk.report,
            # copies: Arrow's memory is read-only, which torch does not accept, and a view would
            # keep the features of all videos of the file in memory
            **{name: column[rows].copy() for name, column in columns.items()},
        )

    def _read(self, path: Path) -> dict[str, NDArray[Any]]:
        """
        Read the columns of a file as fields of `FrameFeatures`, of all its chunks.

        Each thread keeps the last file: it usually reads more of the same file next.
        """
        status = path.stat()
        version = (path, status.st_ino, status.st_mtime_ns)
        if getattr(self._last_read, "version", None) != version:
            try:
                table = read_table(path)
            except DamagedFileError as error:
                self._remove_damaged(error)
                raise
            values = table["feature"].combine_chunks().flatten().to_numpy().reshape(-1, self.size)
            index = {name: table[name].to_numpy() for name in _INDEX_COLUMNS}
            self._last_read.columns, self._last_read.version = {**index, "values": values}, version
        columns: dict[str, NDArray[Any]] = self._last_read.columns
        return columns

    def write(self, features: Sequence[FrameFeatures]) -> list[StoredChunk]:
        """
        Write chunks to one file, atomically.

        The same chunks are written to the same path, so that a retry replaces the file.

        Returns:
            Where the chunks are.

        Raises:
            MachineError: the file cannot be written, for example because the disk is full.
        """
        name = fingerprint([[part.video_id, part.start, part.stop] for part in features])
        path = self.folder / f"part-{name}.parquet"
        chunks, row = [], 0
        for part in features:
            chunks.append(
                StoredChunk(
                    video_id=part.video_id,
                    path=path,
                    row=row,
                    rows=len(part.values),
                    start=part.start,
                    stop=part.stop,
                    num_samples=part.num_samples,
                    report=part.report,
                )
            )
            row += len(part.values)
        write_table(_to_table(features, self.size, chunks), path)
        self.add_chunks(chunks)
        return chunks


def _to_table(
    features: Sequence[FrameFeatures], size: int, chunks: Sequence[StoredChunk]
) -> pa.Table:
    values = np.concatenate([part.values for part in features])
    schema = features_schema(size).with_metadata(_to_metadata(chunks))
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


def _to_metadata(chunks: Sequence[StoredChunk]) -> dict[bytes, str]:
    return {METADATA_KEY: json.dumps([chunk.to_json() for chunk in chunks])}


def _read_metadata(path: Path) -> list[StoredChunk]:
    """
    Read the chunks of a file from its metadata.

    Raises:
        DamagedFileError: the file is damaged, or its metadata are of an unknown version.
    """
    metadata = read_schema(path).metadata or {}
    try:
        entries = json.loads(metadata.get(METADATA_KEY, b"[]"))
        return [StoredChunk.from_json(path, entry) for entry in entries]
    except KeyError as error:
        raise DamagedFileError(path, f"its metadata have no field {error}") from error
    except (ValueError, TypeError) as error:  # Parquet has no checksum of metadata
        raise DamagedFileError(path, f"its metadata cannot be read: {error}") from error
