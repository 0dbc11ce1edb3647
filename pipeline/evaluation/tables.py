"""
Write an evaluation as tables that pandas reads, and its figures as JSON.

    EVAL/predictions.parquet   one an answer: clip, method, seed
    EVAL/classes.parquet       one a label and method
    EVAL/confusion.parquet     one a pair of labels and method
    EVAL/sequences.parquet     one a frame of a video with several labelled parts, and seed
    EVAL/metrics.json          all figures, each with its spread over the seeds
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.evaluation.evaluate import Evaluation
from pipeline.evaluation.metrics import class_figures
from pipeline.evaluation.predictions import MODEL, Answers
from pipeline.evaluation.scores import SequenceVerdict, Verdict, figure_names, over_seeds
from pipeline.evaluation.segmentation import video_of
from pipeline.storage import write_json, write_table
from pipeline.temporal.calibration import softmax

_ASKED = [("method", pa.string()), ("seed", pa.int64()), ("fold", pa.string())]

SCHEMAS: dict[str, pa.Schema] = {
    "predictions": pa.schema(
        [
            ("video", pa.string()),
            ("video_id", pa.string()),
            ("start_seconds", pa.float64()),
            ("end_seconds", pa.float64()),
            ("group", pa.string()),
            ("label", pa.string()),
            *_ASKED,
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
            *_ASKED[1:],
            ("seconds", pa.float64()),
            ("label", pa.string()),
            ("predicted", pa.string()),
        ]
    ),
}
"""Columns of every table."""

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
}
"""What figures are called where people read them."""

Rows = list[dict[str, Any]]


def write_evaluation(evaluation: Evaluation, out: Path) -> None:
    """Write the tables, then `metrics.json`."""
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
    return [row for given in evaluation.answers for row in _answers(evaluation, given)]


def _answers(evaluation: Evaluation, given: Answers) -> Iterator[dict[str, Any]]:
    labels = evaluation.examples.labels
    scores = softmax(given.logits / given.temperature)  # (n, K)
    for number, row in zip(given.clips.tolist(), scores, strict=True):
        item = evaluation.examples.items[number]
        yield {
            "video": video_of(item),
            "video_id": item.video_id,
            "start_seconds": item.start_seconds,
            "end_seconds": item.end_seconds,
            "group": item.group,
            "label": labels[item.label],
            "method": given.method,
            "seed": given.seed,
            "fold": given.fold,
            "predicted": labels[int(row.argmax())],
            "score": float(row.max()),
            "scores": row.tolist(),
        }


def _classes(evaluation: Evaluation) -> Rows:
    return [
        {"method": verdict.method, **row}
        for verdict in evaluation.verdicts
        for row in class_rows(evaluation.examples.labels, verdict.confusion)
    ]


def class_rows(labels: Sequence[str], counts: np.ndarray[Any, np.dtype[np.float64]]) -> Rows:
    """Give the figures of each label from a confusion matrix (K, K)."""
    figures = class_figures(counts)
    columns = figure_names(figures)
    return [
        {"label": label} | {name: float(getattr(figures, name)[k]) for name in columns}
        for k, label in enumerate(labels)
    ]


def _confusion(evaluation: Evaluation) -> Rows:
    labels = evaluation.examples.labels
    return [
        {"method": v.method, "label": label, "predicted": said, "clips": float(v.confusion[i, j])}
        for v in evaluation.verdicts
        for i, label in enumerate(labels)
        for j, said in enumerate(labels)
    ]


def _sequences(evaluation: Evaluation) -> Rows:
    names = [*evaluation.examples.labels, None]  # -1 is the last
    return [
        {
            "video": video.video,
            "video_id": video.video_id,
            "seed": video.seed,
            "fold": video.fold,
            "seconds": seconds,
            "label": names[label],
            "predicted": names[said],
        }
        for video in evaluation.frames
        for seconds, label, said in zip(
            video.seconds.tolist(), video.truth.tolist(), video.said.tolist(), strict=True
        )
    ]


def metrics(evaluation: Evaluation) -> dict[str, Any]:
    """Give every figure as plain JSON."""
    labels = evaluation.examples.labels
    model = next(v for v in evaluation.verdicts if v.method == MODEL)
    return {
        **evaluation.facts,
        "labels": list(labels),
        "clips": len(evaluation.examples.items),
        "groups": len({item.group for item in evaluation.examples.items}),
        "warnings": list(evaluation.warnings),
        "methods": {verdict.method: _figures(verdict.seeds) for verdict in evaluation.verdicts},
        "classes": class_rows(labels, model.confusion),
        "sequences": {verdict.method: _figures(verdict.seeds) for verdict in evaluation.sequences},
    }


def _figures(seeds: Sequence[Any]) -> dict[str, Any]:
    said = {}
    for name in figure_names(seeds[0]):
        mean, spread = over_seeds(seeds, name)
        values = [getattr(figures, name) for figures in seeds]
        said[name] = {"mean": mean, "spread": spread, "seeds": values}
    return said


def tell(seeds: Sequence[Any], figure: str) -> str:
    """Say a figure as people read it: 0.853, or 0.853 ± 0.012 over several seeds."""
    mean, spread = over_seeds(seeds, figure)
    return f"{mean:.3f}" if spread is None else f"{mean:.3f} ± {spread:.3f}"


def method_table(verdicts: Sequence[Verdict | SequenceVerdict]) -> list[list[str]]:
    """Give the figures of methods as cells, a header first."""
    if not verdicts:
        return []
    names = figure_names(verdicts[0].seeds[0])
    rows = [[v.method, *(tell(v.seeds, name) for name in names)] for v in verdicts]
    return [["", *(NAMES[name] for name in names)], *rows]


def class_table(evaluation: Evaluation) -> list[list[str]]:
    """Give the figures of the labels, as the model has them, as cells, a header first."""
    numbers = ("precision", "recall", "f1")
    rows = [
        [row["label"], *(f"{row[name]:.3f}" for name in numbers), f"{row['clips']:g}"]
        for row in class_rows(evaluation.examples.labels, evaluation.verdicts[0].confusion)
    ]
    return [["label", "precision", "recall", "F1", "clips"], *rows]
