"""
Write an evaluation as Parquet tables and JSON.

    EVAL/predictions.parquet   one row per prediction: clip, method and seed
    EVAL/classes.parquet       one row per label and method
    EVAL/confusion.parquet     one row per pair of labels and method
    EVAL/sequences.parquet     one row per frame of videos with several labelled parts, and seed
    EVAL/metrics.json          all metrics with their standard deviation over the seeds
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.evaluation.evaluate import Evaluation
from pipeline.evaluation.metrics import class_metrics
from pipeline.evaluation.predictions import MODEL, Predictions
from pipeline.evaluation.scores import MethodScores, SequenceScores, mean_std, metric_names
from pipeline.storage import write_json, write_table
from pipeline.temporal.calibration import softmax

_METHOD = [("method", pa.string()), ("seed", pa.int64()), ("fold", pa.string())]

SCHEMAS: dict[str, pa.Schema] = {
    "predictions": pa.schema(
        [
            ("video", pa.string()),
            ("video_id", pa.string()),
            ("start_seconds", pa.float64()),
            ("end_seconds", pa.float64()),
            ("group", pa.string()),
            ("label", pa.string()),
            *_METHOD,
            ("predicted", pa.string()),
            ("score", pa.float64()),
            ("scores", pa.list_(pa.float64())),
        ]
    ),
    "classes": pa.schema(
        [
            ("method", pa.string()),
            ("label", pa.string()),
            ("precision", pa.float64()),
            ("recall", pa.float64()),
            ("f1", pa.float64()),
            ("clips", pa.float64()),
        ]
    ),
    "confusion": pa.schema(
        [
            ("method", pa.string()),
            ("label", pa.string()),
            ("predicted", pa.string()),
            ("clips", pa.float64()),
        ]
    ),
    "sequences": pa.schema(
        [
            ("video", pa.string()),
            ("video_id", pa.string()),
            *_METHOD[1:],
            ("seconds", pa.float64()),
            ("label", pa.string()),
            ("predicted", pa.string()),
        ]
    ),
}
"""Columns of each table."""

NAMES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "mean_average_precision": "mean average precision",
    "calibration_error": "calibration error",
    "calibration_error_before": "calibration error at temperature 1",
    "frame_accuracy": "frame accuracy",
    "edit_score": "edit score",
    "f1_at_10": "F1@10",
    "f1_at_25": "F1@25",
    "f1_at_50": "F1@50",
    "segment_map": "mAP of segments",
    "frame_f1": "F1 of frames",
    "frame_map": "mAP of frames",
}
"""Names of metrics in tables and on the page."""

Rows = list[dict[str, Any]]


def write_evaluation(evaluation: Evaluation, out: Path) -> None:
    """Write all tables, then `metrics.json`."""
    tables = {
        "predictions": _predictions(evaluation),
        "classes": _classes(evaluation),
        "confusion": _confusion(evaluation),
        "sequences": _sequences(evaluation),
    }
    for name, rows in tables.items():
        write_table(pa.Table.from_pylist(rows, SCHEMAS[name]), out / f"{name}.parquet")
    write_json(metrics(evaluation), out / "metrics.json")


def _predictions(evaluation: Evaluation) -> Rows:
    return [row for one in evaluation.predictions for row in _prediction_rows(evaluation, one)]


def _prediction_rows(evaluation: Evaluation, predictions: Predictions) -> Iterator[dict[str, Any]]:
    labels = evaluation.examples.labels
    scores = softmax(predictions.logits / predictions.temperature)  # (n, K)
    for index, row in zip(predictions.clips.tolist(), scores, strict=True):
        item = evaluation.examples.items[index]
        yield {
            "video": item.video,
            "video_id": item.video_id,
            "start_seconds": item.start_seconds,
            "end_seconds": item.end_seconds,
            "group": item.group,
            "label": labels[item.label],
            "method": predictions.method,
            "seed": predictions.seed,
            "fold": predictions.fold,
            "predicted": labels[int(row.argmax())],
            "score": float(row.max()),
            "scores": row.tolist(),
        }


def _classes(evaluation: Evaluation) -> Rows:
    return [
        {"method": scores.method, **row}
        for scores in evaluation.methods
        for row in class_rows(evaluation.examples.labels, scores.confusion)
    ]


def class_rows(labels: Sequence[str], counts: np.ndarray[Any, np.dtype[np.float64]]) -> Rows:
    """Compute the metrics of each label from a confusion matrix (K, K)."""
    metrics = class_metrics(counts)
    columns = metric_names(metrics)
    return [
        {"label": label} | {name: float(getattr(metrics, name)[k]) for name in columns}
        for k, label in enumerate(labels)
    ]


def _confusion(evaluation: Evaluation) -> Rows:
    labels = evaluation.examples.labels
    return [
        {"method": v.method, "label": label, "predicted": other, "clips": float(v.confusion[i, j])}
        for v in evaluation.methods
        for i, label in enumerate(labels)
        for j, other in enumerate(labels)
    ]


def _sequences(evaluation: Evaluation) -> Rows:
    names = [*evaluation.examples.labels, None]  # index -1 means no label
    return [
        {
            "video": video.video,
            "video_id": video.video_id,
            "seed": video.seed,
            "fold": video.fold,
            "seconds": seconds,
            "label": names[label],
            "predicted": names[predicted],
        }
        for video in evaluation.sequences
        for seconds, label, predicted in zip(
            video.seconds.tolist(), video.target.tolist(), video.predicted.tolist(), strict=True
        )
    ]


def metrics(evaluation: Evaluation) -> dict[str, Any]:
    """Collect all metrics and metadata as plain JSON."""
    labels = evaluation.examples.labels
    model = next(scores for scores in evaluation.methods if scores.method == MODEL)
    return {
        **evaluation.metadata,
        "labels": list(labels),
        "clips": len(evaluation.examples.items),
        "groups": len({item.group for item in evaluation.examples.items}),
        "warnings": list(evaluation.warnings),
        "methods": {one.method: mean_std_rows(one.seeds) for one in evaluation.methods},
        "classes": class_rows(labels, model.confusion),
        "sequences": {one.method: mean_std_rows(one.seeds) for one in evaluation.sequence_methods},
    }


def mean_std_rows(seeds: Sequence[Any]) -> dict[str, Any]:
    """Collect the metrics of one method: mean, standard deviation and values of all seeds."""
    rows = {}
    for name in metric_names(seeds[0]):
        mean, std = mean_std(seeds, name)
        values = [getattr(metrics, name) for metrics in seeds]
        rows[name] = {"mean": mean, "spread": std, "seeds": values}
    return rows


def format_mean_std(seeds: Sequence[Any], name: str) -> str:
    """Format a metric: `0.853`, or `0.853 ± 0.012` for several seeds."""
    mean, std = mean_std(seeds, name)
    return f"{mean:.3f}" if std is None else f"{mean:.3f} ± {std:.3f}"


def method_table(scores: Sequence[MethodScores | SequenceScores]) -> list[list[str]]:
    """Make a table of the metrics of methods, as cells with a header row."""
    if not scores:
        return []
    names = metric_names(scores[0].seeds[0])
    rows = [[one.method, *(format_mean_std(one.seeds, name) for name in names)] for one in scores]
    return [["", *(NAMES[name] for name in names)], *rows]


def class_table(evaluation: Evaluation) -> list[list[str]]:
    """Make a table of the metrics of the model per label, as cells with a header row."""
    columns = ("precision", "recall", "f1")
    rows = [
        [row["label"], *(f"{row[name]:.3f}" for name in columns), f"{row['clips']:g}"]
        for row in class_rows(evaluation.examples.labels, evaluation.methods[0].confusion)
    ]
    return [["label", "precision", "recall", "F1", "clips"], *rows]
