"""Convert the results of a shard to the rows of every table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.records import DecodeReport, Video
from pipeline.results.schemas import COMMIT_TABLE, SCHEMAS
from pipeline.storage import printable

if TYPE_CHECKING:
    from pipeline.encode.shot_store import Shots
    from pipeline.recognition.predictions import Recognition


@dataclass(frozen=True, slots=True)
class VideoRows:
    """Results of one video, before they become rows."""

    video: Video
    report: DecodeReport
    recognition: Recognition | None
    """None if there is no recognizer, or if no frame could be decoded."""
    shots: Shots | None = None
    """None if shots were not looked for, or if no frame could be decoded."""


@dataclass(frozen=True, slots=True)
class RowOptions:
    """Values shared by all rows of a run, and which tables and columns are written."""

    labels: tuple[str, ...]
    recognizer: str
    config_id: str
    frames: bool = False
    """Write the table `frames`."""
    embeddings: bool = False
    """Fill the column `embedding` of `clips`."""
    shots: bool = False
    """Write the table `shots`."""

    @property
    def tables(self) -> tuple[str, ...]:
        """Tables that every shard has a part of, in the order of writing."""
        return (
            "clips",
            "segments",
            *(("frames",) if self.frames else ()),
            *(("shots",) if self.shots else ()),
            COMMIT_TABLE,
        )


Columns = dict[str, Any]
"""Values by column: a list with one value per row, or a scalar for all rows."""


def build_tables(rows: Sequence[VideoRows], options: RowOptions) -> dict[str, pa.Table]:
    """Build the part of a shard for every table of `options.tables`, in that order."""
    provenance = {"recognizer": options.recognizer, "config_id": options.config_id}
    return {
        name: _build_table(name, _COLUMNS[name](rows, options) | provenance)
        for name in options.tables
    }


def _build_table(name: str, columns: Columns) -> pa.Table:
    """Build a table by its schema; columns without values are null."""
    schema = SCHEMAS[name]
    num_rows = len(columns["video"])
    arrays = []
    for field in schema:
        values = columns.get(field.name)
        values = values if isinstance(values, list) else [values] * num_rows
        arrays.append(pa.array(values, field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _with_copies(rows: Sequence[VideoRows]) -> Iterable[tuple[VideoRows, str]]:
    """Yield every video once for each path with this content."""
    for row in rows:
        yield row, row.video.path
        for path, _ in row.video.copies:
            yield row, path


def _clips(rows: Sequence[VideoRows], options: RowOptions) -> Columns:
    clips = [
        (path, row.video.video_id, clip_index, clip)
        for row, path in _with_copies(rows)
        if row.recognition
        for clip_index, clip in enumerate(row.recognition.clips)
    ]
    return {
        "video": [path for path, *_ in clips],
        "video_id": [video_id for _, video_id, *_ in clips],
        "clip_index": [clip_index for _, _, clip_index, _ in clips],
        "shot_index": [clip.shot for *_, clip in clips],
        "start_seconds": [clip.start_seconds for *_, clip in clips],
        "end_seconds": [clip.end_seconds for *_, clip in clips],
        "num_frames": [clip.num_frames for *_, clip in clips],
        "label": [None if clip.label is None else options.labels[clip.label] for *_, clip in clips],
        "score": [
            None if clip.label is None else clip.probabilities[clip.label] for *_, clip in clips
        ],
        "scores": [clip.probabilities for *_, clip in clips],
        "novelty": [clip.novelty for *_, clip in clips],
        "embedding": [clip.embedding if options.embeddings else None for *_, clip in clips],
    }


def _segments(rows: Sequence[VideoRows], options: RowOptions) -> Columns:
    segments = [
        (path, row.video.video_id, segment_index, segment)
        for row, path in _with_copies(rows)
        if row.recognition
        for segment_index, segment in enumerate(row.recognition.segments)
    ]
    return {
        "video": [path for path, *_ in segments],
        "video_id": [video_id for _, video_id, *_ in segments],
        "segment_index": [segment_index for _, _, segment_index, _ in segments],
        "shot_index": [segment.shot for *_, segment in segments],
        "start_seconds": [segment.start_seconds for *_, segment in segments],
        "end_seconds": [segment.end_seconds for *_, segment in segments],
        "label": [options.labels[segment.label] for *_, segment in segments],
        "score": [segment.score for *_, segment in segments],
    }


def _frames(rows: Sequence[VideoRows], options: RowOptions) -> Columns:
    columns: Columns = {name: [] for name in SCHEMAS["frames"].names}
    for row, path in _with_copies(rows):
        if row.recognition is None or not row.recognition.labels:
            continue
        frames = row.recognition
        labels = np.concatenate(frames.labels)  # (T,), -1: in no clip
        columns["video"] += [path] * len(labels)
        columns["video_id"] += [frames.video_id] * len(labels)
        columns["sample_index"] += np.concatenate(frames.sample_index).tolist()
        columns["frame_index"] += np.concatenate(frames.frame_index).tolist()
        columns["pts_seconds"] += np.concatenate(frames.pts_seconds).tolist()
        columns["shot_index"] += np.concatenate(frames.shots).tolist()
        columns["label"] += [options.labels[n] if n >= 0 else None for n in labels.tolist()]
        columns["score"] += _without_nan(np.concatenate(frames.scores))
        novelty = np.concatenate(frames.novelty) if frames.novelty else np.full(len(labels), np.nan)
        columns["novelty"] += _without_nan(novelty)
    return columns


def _without_nan(values: NDArray[np.floating]) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values.tolist()]


def _shots(rows: Sequence[VideoRows], options: RowOptions) -> Columns:
    columns: Columns = {name: [] for name in SCHEMAS["shots"].names}
    for row, path in _with_copies(rows):
        if row.shots is None:
            continue
        starts = row.shots.start_seconds.tolist()
        ends = [*starts[1:], max(row.report.duration_seconds or 0.0, starts[-1])]
        for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
            transition = row.shots.transitions[number - 1] if number else None
            columns["video"].append(path)
            columns["video_id"].append(row.video.video_id)
            columns["shot_index"].append(number)
            columns["start_seconds"].append(start)
            columns["end_seconds"].append(end)
            columns["start_frame"].append(int(row.shots.start_frames[number]))
            columns["kind"].append(transition and transition.kind)
            columns["score"].append(transition and transition.score)
            columns["transition_seconds"].append(transition and transition.duration_seconds)
            columns["timing"].append("exact" if row.shots.exact else "sampled")
    return columns


def _videos(rows: Sequence[VideoRows], options: RowOptions) -> Columns:
    files = [
        (row, path, location, copy_of)
        for row in rows
        for path, location, copy_of in [
            (row.video.path, row.video.location, None),
            *((path, location, row.video.path) for path, location in row.video.copies),
        ]
    ]
    columns: Columns = {
        "video": [path for _, path, _, _ in files],
        "video_id": [row.video.video_id for row, *_ in files],
        "path": [printable(location) for _, _, location, _ in files],
        "copy_of": [copy_of for *_, copy_of in files],
        "clips": [len(row.recognition.clips) if row.recognition else 0 for row, *_ in files],
        "size_bytes": [row.video.size_bytes for row, *_ in files],
        "attempts": ["; ".join(row.report.attempts) for row, *_ in files],
    }
    for name in DecodeReport.__dataclass_fields__:
        if name != "attempts":
            columns[name] = [getattr(row.report, name) for row, *_ in files]
    return columns


_COLUMNS = {
    "clips": _clips,
    "segments": _segments,
    "frames": _frames,
    "shots": _shots,
    "videos": _videos,
}
