"""
Write an evaluation of labels of frames as Parquet tables and JSON.

    EVAL/sequences.parquet   one row per frame, method and seed
    EVAL/segments.parquet    one row per segment: true ones once, predicted ones per method and seed
    EVAL/metrics.json        all metrics with their standard deviation over the seeds, and per fold
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.evaluation.evaluate_frames import FrameEvaluation
from pipeline.evaluation.scores import metric_names
from pipeline.evaluation.segmentation import LabelledFrames
from pipeline.evaluation.tables import NAMES, mean_std_rows
from pipeline.records import Integers
from pipeline.storage import write_json, write_table

SEPARATOR = "|"
"""Between the labels of a frame that has several."""
TRUTH = "truth"
"""Method of the true segments."""
LABEL_COLUMNS = {
    "frame_precision": "precision of frames",
    "frame_recall": "recall of frames",
    "frame_f1": "F1 of frames",
    "f1_at_50": "F1@50",
}
"""Metrics of a label, with their names in tables."""
_VIDEO = [("video", pa.string()), ("video_id", pa.string())]
_METHOD = [("method", pa.string()), ("seed", pa.int64()), ("fold", pa.string())]
SCHEMAS: dict[str, pa.Schema] = {
    "sequences": pa.schema(
        [
            *_VIDEO,
            *_METHOD,
            ("seconds", pa.float64()),
            ("label", pa.string()),
            ("predicted", pa.string()),
        ]
    ),
    "segments": pa.schema(
        [
            *_VIDEO,
            *_METHOD,
            ("start_seconds", pa.float64()),
            ("end_seconds", pa.float64()),
            ("label", pa.string()),
            ("score", pa.float64()),
        ]
    ),
}
"""Columns of each table."""


def write_frame_evaluation(evaluation: FrameEvaluation, out: Path) -> None:
    """Write all tables, then `metrics.json`."""
    tables = {
        "sequences": pa.concat_tables(
            [_frame_table(one, evaluation.labels) for one in evaluation.frames]
        ),
        "segments": pa.Table.from_pylist(list(_segment_rows(evaluation)), SCHEMAS["segments"]),
    }
    for name, table in tables.items():
        write_table(table, out / f"{name}.parquet")
    write_json(frame_metrics(evaluation), out / "metrics.json")


def _frame_table(frames: LabelledFrames, labels: tuple[str, ...]) -> pa.Table:
    count = len(frames.seconds)
    columns = {
        "video": [frames.video] * count,
        "video_id": [frames.video_id] * count,
        "method": [frames.method] * count,
        "seed": [frames.seed] * count,
        "fold": [frames.fold] * count,
        "seconds": frames.seconds,
        "label": _names(frames.target, labels),
        "predicted": _names(frames.predicted, labels),
    }
    return pa.table(columns, SCHEMAS["sequences"])


def _names(values: Integers, labels: tuple[str, ...]) -> list[str | None]:
    """Give the labels of frames by name; several are separated by `SEPARATOR`."""
    if values.ndim == 1:
        return [labels[index] if index >= 0 else None for index in values.tolist()]
    return [
        SEPARATOR.join(labels[k] for k in np.flatnonzero(row > 0).tolist()) or None
        for row in values
    ]


def _segment_rows(evaluation: FrameEvaluation) -> Iterator[dict[str, Any]]:
    seen = set()
    for one in evaluation.frames:
        shared = {"video": one.video, "video_id": one.video_id}
        if one.video not in seen:
            seen.add(one.video)
            truth = {**shared, "method": TRUTH, "seed": 0, "fold": "", "score": 1.0}
            for segment in one.frame_labels.segments():
                yield {**truth, **_times(one, segment, evaluation.labels)}
        method = {**shared, "method": one.method, "seed": one.seed, "fold": one.fold}
        for segment, score in one.frame_labels.detections():
            yield {**method, **_times(one, segment, evaluation.labels), "score": score}


def _times(
    frames: LabelledFrames, segment: tuple[int, int, int], labels: tuple[str, ...]
) -> dict[str, Any]:
    start, stop, label = segment
    seconds = frames.seconds
    gap = float(np.median(np.diff(seconds))) if len(seconds) > 1 else 0.0
    end = seconds[stop] if stop < len(seconds) else seconds[-1] + gap
    return {
        "start_seconds": float(seconds[start]),
        "end_seconds": float(end),
        "label": labels[label],
    }


def frame_metrics(evaluation: FrameEvaluation) -> dict[str, Any]:
    """Collect all metrics and metadata as plain JSON."""
    model = evaluation.methods[0].method
    first = [one for one in evaluation.frames if one.method == model]
    videos = {one.video: len(one.seconds) for one in first}
    return {
        **evaluation.metadata,
        "labels": list(evaluation.labels),
        "background": evaluation.background,
        "videos": len(videos),
        "frames": sum(videos.values()),
        "groups": evaluation.groups,
        "warnings": list(evaluation.warnings),
        "methods": {one.method: mean_std_rows(one.seeds) for one in evaluation.methods},
        "classes": [
            {"label": label} | dataclasses.asdict(metrics)
            for label, metrics in zip(evaluation.labels, evaluation.classes, strict=True)
        ],
        "fold_metrics": [
            {"fold": one.fold, "seed": one.seed, "videos": one.videos}
            | dataclasses.asdict(one.metrics)
            for one in evaluation.folds
        ],
    }


def label_table(evaluation: FrameEvaluation) -> list[list[str]]:
    """Make a table of the metrics of the model per label, as cells with a header row."""
    rows = [
        [label, *(f"{getattr(metrics, name):.3f}" for name in LABEL_COLUMNS), str(metrics.segments)]
        for label, metrics in zip(evaluation.labels, evaluation.classes, strict=True)
    ]
    return [["label", *LABEL_COLUMNS.values(), "segments"], *rows]


def fold_table(evaluation: FrameEvaluation) -> list[list[str]]:
    """Make a table of the metrics of the model per fold and seed, as cells with a header row."""
    if not evaluation.folds:
        return []
    names = metric_names(evaluation.folds[0].metrics)
    rows = [
        [one.fold, str(one.seed), str(one.videos)]
        + [f"{getattr(one.metrics, name):.3f}" for name in names]
        for one in evaluation.folds
    ]
    return [["fold", "seed", "videos", *(NAMES[name] for name in names)], *rows]
