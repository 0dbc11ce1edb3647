"""
The result contract: Parquet tables in a folder, written whole, and read back as pandas.

    OUT/clips  OUT/segments  OUT/frames  OUT/videos      part-<config>-<shard>.parquet
    OUT/run.json

The parts of one shard have the same name in every table. `videos` is written last: with it the
shard is done, and parts that are not there in every table are swept away. Rows of another
configuration are kept apart by the column `config_id`; `load` gives those of the newest run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import fingerprint
from pipeline.encode.feature_store import FeatureStore, features_folder
from pipeline.errors import SourceError
from pipeline.records import DecodeReport, Video
from pipeline.storage import exclusive, printable, remove_leftovers, write_json, write_table

if TYPE_CHECKING:
    from pipeline.recognition.recognize import Recognition

_WHO = [("video", pa.string()), ("video_id", pa.string())]
_WHAT = [("label", pa.string()), ("score", pa.float32())]
_NOVELTY = ("novelty", pa.float32())
_MADE_BY = [("recognizer", pa.string()), ("config_id", pa.string())]

SCHEMAS: dict[str, pa.Schema] = {
    "clips": pa.schema(
        [
            *_WHO,
            ("clip_index", pa.int32()),
            ("shot_index", pa.int32()),
            ("start_seconds", pa.float64()),
            ("end_seconds", pa.float64()),
            ("num_frames", pa.int32()),
            *_WHAT,
            ("scores", pa.list_(pa.float32())),
            _NOVELTY,
            ("embedding", pa.list_(pa.float32())),
            *_MADE_BY,
        ]
    ),
    "segments": pa.schema(
        [
            *_WHO,
            ("segment_index", pa.int32()),
            ("shot_index", pa.int32()),
            ("start_seconds", pa.float64()),
            ("end_seconds", pa.float64()),
            *_WHAT,
            *_MADE_BY,
        ]
    ),
    "frames": pa.schema(
        [
            *_WHO,
            ("sample_index", pa.int64()),
            ("frame_index", pa.int64()),
            ("pts_seconds", pa.float64()),
            ("shot_index", pa.int32()),
            *_WHAT,
            _NOVELTY,
            *_MADE_BY,
        ]
    ),
    "videos": pa.schema(
        [
            *_WHO,
            ("path", pa.string()),
            ("copy_of", pa.string()),
            ("status", pa.string()),
            ("error", pa.string()),
            ("decoder", pa.string()),
            ("attempts", pa.string()),
            ("codec", pa.string()),
            ("pixel_format", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("rotation", pa.int16()),
            ("duration_seconds", pa.float64()),
            ("frame_rate", pa.float64()),
            ("variable_frame_rate", pa.bool_()),
            ("longest_gap_seconds", pa.float64()),
            ("edit_list", pa.bool_()),
            ("video_streams", pa.int16()),
            ("packets", pa.int64()),
            ("packets_discarded", pa.int64()),
            ("frames_from_header", pa.int64()),
            ("frames_expected", pa.int64()),
            ("frames_decoded", pa.int64()),
            ("frames_duplicated", pa.int64()),
            ("frames_missing", pa.int64()),
            ("frames_damaged", pa.int64()),
            ("frames_sampled", pa.int64()),
            ("clips", pa.int32()),
            ("size_bytes", pa.int64()),
            *_MADE_BY,
        ]
    ),
}
"""Columns of every table."""
COMMIT = "videos"
"""The table that is written last."""


@dataclass(frozen=True, slots=True)
class VideoRows:
    """What one video adds to the tables."""

    video: Video
    report: DecodeReport
    recognition: Recognition | None
    """None where nothing could be recognized."""


@dataclass(frozen=True, slots=True)
class RowOptions:
    """What is written beside the clips."""

    labels: tuple[str, ...]
    recognizer: str
    config_id: str
    frames: bool = False
    embeddings: bool = False

    @property
    def tables(self) -> tuple[str, ...]:
        """Tables that a shard has a part of, in the order in which they are written."""
        return ("clips", "segments", *(("frames",) if self.frames else ()), COMMIT)


def write_rows(out: Path, rows: Sequence[VideoRows], options: RowOptions) -> int:
    """
    Write one shard: its part of every table, `videos` last.

    Returns:
        Clips written.
    """
    name = fingerprint([[r.video.video_id, r.video.path] for r in rows])
    part = f"part-{options.config_id}-{name}.parquet"
    made_by = {"recognizer": options.recognizer, "config_id": options.config_id}
    columns = {table: _COLUMNS[table](rows, options) for table in options.tables}
    for table in options.tables:
        write_table(_table(table, columns[table] | made_by), out / table / part)
    return len(columns["clips"]["video"])


Columns = dict[str, Any]


def _table(name: str, columns: Columns) -> pa.Table:
    """Make a table: columns that are not lists are the same in every row, missing ones are null."""
    schema = SCHEMAS[name]
    count = len(columns["video"])
    arrays = []
    for column in schema:
        values = columns.get(column.name)
        values = values if isinstance(values, list) else [values] * count
        arrays.append(pa.array(values, column.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _named(rows: Sequence[VideoRows]) -> Iterable[tuple[VideoRows, str]]:
    """Give every video under each of its names."""
    for row in rows:
        yield row, row.video.path
        for path, _ in row.video.copies:
            yield row, path


def _clips(rows: Sequence[VideoRows], options: RowOptions) -> Columns:
    found = [
        (name, row.video.video_id, number, clip)
        for row, name in _named(rows)
        if row.recognition
        for number, clip in enumerate(row.recognition.clips)
    ]
    best = [int(clip.probabilities.argmax()) for *_, clip in found]
    return {
        "video": [name for name, *_ in found],
        "video_id": [video_id for _, video_id, *_ in found],
        "clip_index": [number for _, _, number, _ in found],
        "shot_index": [clip.shot for *_, clip in found],
        "start_seconds": [clip.start_seconds for *_, clip in found],
        "end_seconds": [clip.end_seconds for *_, clip in found],
        "num_frames": [clip.num_frames for *_, clip in found],
        "label": [options.labels[label] for label in best],
        "score": [clip.probabilities[b] for (*_, clip), b in zip(found, best, strict=True)],
        "scores": [clip.probabilities for *_, clip in found],
        "novelty": [clip.novelty for *_, clip in found],
        "embedding": [clip.embedding if options.embeddings else None for *_, clip in found],
    }


def _segments(rows: Sequence[VideoRows], options: RowOptions) -> Columns:
    found = [
        (name, row.video.video_id, number, run)
        for row, name in _named(rows)
        if row.recognition
        for number, run in enumerate(row.recognition.segments)
    ]
    return {
        "video": [name for name, *_ in found],
        "video_id": [video_id for _, video_id, *_ in found],
        "segment_index": [number for _, _, number, _ in found],
        "shot_index": [run.shot for *_, run in found],
        "start_seconds": [run.start_seconds for *_, run in found],
        "end_seconds": [run.end_seconds for *_, run in found],
        "label": [options.labels[run.label] for *_, run in found],
        "score": [run.score for *_, run in found],
    }


def _frames(rows: Sequence[VideoRows], options: RowOptions) -> Columns:
    columns: Columns = {column.name: [] for column in SCHEMAS["frames"]}
    for row, name in _named(rows):
        if row.recognition is None or not row.recognition.labels:
            continue
        found = row.recognition
        labels = np.concatenate(found.labels)
        columns["video"] += [name] * len(labels)
        columns["video_id"] += [found.video_id] * len(labels)
        columns["sample_index"] += np.concatenate(found.sample_index).tolist()
        columns["frame_index"] += np.concatenate(found.frame_index).tolist()
        columns["pts_seconds"] += np.concatenate(found.pts_seconds).tolist()
        columns["shot_index"] += np.concatenate(found.shots).tolist()
        columns["label"] += [options.labels[n] if n >= 0 else None for n in labels.tolist()]
        columns["score"] += np.concatenate(found.scores).tolist()
        novelty = np.concatenate(found.novelty) if found.novelty else np.full(len(labels), np.nan)
        columns["novelty"] += [value if np.isfinite(value) else None for value in novelty.tolist()]
    return columns


def _videos(rows: Sequence[VideoRows], options: RowOptions) -> Columns:
    named = [
        (row, path, location, copy_of)
        for row in rows
        for path, location, copy_of in [
            (row.video.path, row.video.location, None),
            *((path, location, row.video.path) for path, location in row.video.copies),
        ]
    ]
    columns: Columns = {
        "video": [path for _, path, _, _ in named],
        "video_id": [row.video.video_id for row, *_ in named],
        "path": [printable(location) for _, _, location, _ in named],
        "copy_of": [copy_of for *_, copy_of in named],
        "clips": [len(row.recognition.clips) if row.recognition else 0 for row, *_ in named],
        "size_bytes": [row.video.size_bytes for row, *_ in named],
        "attempts": ["; ".join(row.report.attempts) for row, *_ in named],
    }
    facts = set(DecodeReport.__dataclass_fields__) - {"attempts"}
    for fact in sorted(facts):
        columns[fact] = [getattr(row.report, fact) for row, *_ in named]
    return columns


_COLUMNS = {"clips": _clips, "segments": _segments, "frames": _frames, "videos": _videos}


def hold(out: Path, *, wait: bool = False) -> AbstractContextManager[None]:
    """Hold a results folder, as `files.exclusive` does: one run at a time writes to it."""
    return exclusive(out / ".lock", f"results folder {out}", wait=wait)


def parts(out: Path, table: str, config_id: str) -> list[Path]:
    """List the parts of a table that belong to a configuration, in a stable order."""
    return sorted((out / table).glob(f"part-{config_id}-*.parquet"))


def sweep(out: Path, options: RowOptions) -> int:
    """
    Delete half files, and parts of shards that lack a table: the writer was killed, or it was lost.

    It is not known which tables another configuration has: of those only `videos` counts.
    """
    folders = [out, *(out / table for table in SCHEMAS), *(out / "features").glob("*")]
    swept = sum(map(remove_leftovers, folders))
    finished = {path.name for path in (out / COMMIT).glob("part-*.parquet")}
    for table in options.tables:
        there = {path.name for path in parts(out, table, options.config_id) if _whole(path)}
        ours = {name for name in finished if name.startswith(f"part-{options.config_id}-")}
        finished -= ours - there
    for table in SCHEMAS:
        for path in (out / table).glob("part-*.parquet"):
            if path.name not in finished:
                path.unlink()
                swept += 1
    return swept


def _whole(path: Path) -> bool:
    """Whether a part can be read: a disk that failed may have kept no more than its name."""
    try:
        pq.read_schema(path)
    except pa.ArrowInvalid:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Done:
    """A row of `videos` that is there already."""

    video: str
    path: str
    video_id: str
    status: str


def done_videos(out: Path, config_id: str) -> list[Done]:
    """List the videos that were finished with a configuration."""
    columns = ["video", "path", "video_id", "status"]
    found: list[Done] = []
    for part in parts(out, COMMIT, config_id):
        rows = pq.read_table(part, columns=columns).to_pylist()
        found += [Done(**row) for row in rows]
    return found


def drop_rows(out: Path, config_id: str, video_ids: set[str]) -> int:
    """
    Delete the rows of some videos from every table.

    Args:
        out: results folder.
        config_id: only rows of this configuration.
        video_ids: whose rows go.

    Returns:
        Rows of `videos` dropped.
    """
    gone = pa.array(video_ids, pa.string())
    dropped = 0
    for part in parts(out, COMMIT, config_id):
        found = pc.is_in(pq.read_table(part, columns=["video_id"])["video_id"], gone)
        if not pc.any(found).as_py():
            continue
        dropped += pc.sum(found).as_py()
        # a crash between two of these files is mended by doing the same again: `videos` is last
        for name in sorted(SCHEMAS, key=lambda name: name == COMMIT):
            path = out / name / part.name
            if path.exists():
                rows = pq.read_table(path)
                write_table(rows.filter(pc.invert(pc.is_in(rows["video_id"], gone))), path)
    return dropped


def read_run(out: Path) -> dict[str, Any]:
    """Read `run.json`; empty where there was no run."""
    path = out / "run.json"
    if not path.exists():
        return {}
    run: dict[str, Any] = json.loads(path.read_text())
    return run


def write_run(out: Path, run: dict[str, Any]) -> None:
    """Write `run.json`, remembering the configurations that were run before."""
    before = read_run(out).get("configurations", {})
    others = {key: value for key, value in before.items() if key != run["config_id"]}
    configurations = {**others, run["config_id"]: run["configuration"]}
    write_json({**run, "configurations": configurations}, out / "run.json")


def load(out: str | Path, table: str = "clips", config_id: str | None = None) -> pd.DataFrame:
    """
    Read a table of results.

    Args:
        out: results folder.
        table: `clips`, `segments`, `frames`, or `videos`; or `features`, those of the newest run,
            one row per sampled frame of each video, D float16 numbers in the column `feature`.
        config_id: the configuration; the newest run's by default.

    Raises:
        SourceError: no such table, or no results there.
    """
    out = Path(out)
    if table == "features":
        return _load_features(out)
    if table not in SCHEMAS:
        raise SourceError(f"no table {table!r}; there are {', '.join(SCHEMAS)}, features")
    config_id = config_id or read_run(out).get("config_id")
    if config_id is None:
        raise SourceError(f"{out} holds no results: no run.json")
    found = [pq.read_table(path) for path in parts(out, table, config_id)]
    rows = pa.concat_tables(found) if found else SCHEMAS[table].empty_table()
    return rows.to_pandas()


def _load_features(out: Path) -> pd.DataFrame:
    videos = load(out, "videos")
    run = read_run(out)
    made_by = run["configuration"]
    chosen = run["options"]["features"]  # counts from where the run was started
    stores = features_folder(out, chosen and str(Path(run["working_folder"], chosen)))
    store = FeatureStore(stores / made_by["features_id"], made_by["feature_size"])
    kept = videos[videos.copy_of.isna() & (videos.frames_sampled > 0)]
    rows = [
        pd.DataFrame(
            {
                "video": video.video,
                "video_id": video.video_id,
                "sample_index": part.sample_index,
                "frame_index": part.frame_index,
                "pts_seconds": part.pts_seconds,
                "feature": list(part.values),
            }
        )
        for video in kept.itertuples()
        for part in store.stream(str(video.video_id))
    ]
    columns = ["video", "video_id", "sample_index", "frame_index", "pts_seconds", "feature"]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=columns)
