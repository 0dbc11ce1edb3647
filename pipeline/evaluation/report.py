"""
The report of an evaluation as an HTML page: metrics, baselines, errors, folds, configuration.

The page is one HTML file without scripts; its plots are PNG files beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.evaluation.evaluate import Evaluation
from pipeline.evaluation.plots import plot_confusion, plot_methods, plot_reliability
from pipeline.evaluation.predictions import MODEL
from pipeline.evaluation.segmentation import LabelledFrames
from pipeline.evaluation.tables import class_table, format_mean_std, method_table
from pipeline.recognition.windows import run_length_encode
from pipeline.records import Integers
from pipeline.results.html import label_colours, write_page
from pipeline.temporal.calibration import softmax

MAX_ERRORS = 12
MAX_VIDEOS = 40
PLOTS = {
    "methods": "methods.png",
    "confusion": "confusion.png",
    "reliability": "reliability.png",
}
METRICS = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "mean_average_precision": "mean average precision",
    "calibration_error": "expected calibration error",
}
"""Metrics at the top of the page, with their captions."""


def write_report(evaluation: Evaluation, out: Path) -> Path:
    """Write `EVAL/report.html` and its plots. Returns the path of the page."""
    _draw_plots(evaluation, out)
    model = evaluation.methods[0]
    metadata = evaluation.metadata
    return write_page(
        "evaluation.html.j2",
        out / "report.html",
        title=str(metadata.get("recognizer", "recognizer")),
        procedure=_procedure(evaluation),
        num_clips=len(evaluation.examples.items),
        has_spread=len(model.seeds) > 1,
        metrics={caption: format_mean_std(model.seeds, name) for name, caption in METRICS.items()},
        warnings=evaluation.warnings,
        plots=PLOTS,
        method_rows=method_table(evaluation.methods),
        label_rows=class_table(evaluation),
        errors=_errors(evaluation),
        errors_shown=MAX_ERRORS,
        colours=label_colours(evaluation.examples.labels),
        sequence_rows=method_table(evaluation.sequence_methods),
        sequences=_sequences(evaluation),
        folds=_folds(evaluation),
        facts={name: value for name, value in metadata.items() if name != "folds"},
    )


def _draw_plots(evaluation: Evaluation, out: Path) -> None:
    model = evaluation.methods[0]
    seeds = {v.method: [metrics.accuracy for metrics in v.seeds] for v in evaluation.methods}
    plot_methods(seeds, out / PLOTS["methods"])
    plot_confusion(model.confusion, evaluation.examples.labels, out / PLOTS["confusion"])
    bins = model.reliability
    plot_reliability(bins.confidence, bins.accuracy, bins.clips, out / PLOTS["reliability"])


def _procedure(evaluation: Evaluation) -> str:
    """Describe how the predictions were made."""
    folds, seeds = len(evaluation.metadata["folds"]), len(evaluation.methods[0].seeds)
    if not folds:
        return "saved recognizer, without training"
    return f"cross-validation with {folds} folds, {seeds} training{'s' * (seeds > 1)} per fold"


def _errors(evaluation: Evaluation) -> list[dict[str, Any]]:
    """List the clips with a wrong prediction of the model, most confident first, each once."""
    worst: dict[int, tuple[float, str]] = {}
    labels, items = evaluation.examples.labels, evaluation.examples.items
    for predictions in evaluation.predictions:
        if predictions.method != MODEL:
            continue
        scores = softmax(predictions.logits / predictions.temperature)  # (n, K)
        for clip, row in zip(predictions.clips.tolist(), scores, strict=True):
            best = int(row.argmax())
            if best != items[clip].label and row[best] > worst.get(clip, (0.0, ""))[0]:
                worst[clip] = float(row[best]), labels[best]
    return [
        {
            "clip": items[clip].name,
            "label": labels[items[clip].label],
            "predicted": predicted,
            "score": score,
        }
        for clip, (score, predicted) in sorted(worst.items(), key=lambda error: -error[1][0])
    ]


def _sequences(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return the timelines of the first videos, as one of the trainings predicts them."""
    labels = evaluation.examples.labels
    first = [video for video in evaluation.sequences if video.seed == evaluation.sequences[0].seed]
    return [_sequence(video, labels) for video in first[:MAX_VIDEOS]]


def _sequence(video: LabelledFrames, labels: Sequence[str]) -> dict[str, Any]:
    return {
        "name": video.video,
        "num_frames": len(video.target),
        "labels": _label_runs(video.target, labels),
        "predictions": _label_runs(video.predicted, labels),
    }


def _label_runs(frames: Integers, labels: Sequence[str]) -> list[tuple[int, int, str]]:
    """Join frames of equal labels: (start, stop, label); frames without a label are left out."""
    return [(start, stop, labels[n]) for start, stop, n in run_length_encode(frames) if n >= 0]


def _folds(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return the accuracy of the model in each fold, over all trainings."""
    labels = np.array([item.label for item in evaluation.examples.items])
    folds = evaluation.metadata["folds"]
    correct: dict[str, list[bool]] = {fold["name"]: [] for fold in folds}
    for predictions in evaluation.predictions:
        if folds and predictions.method == MODEL:
            predicted = predictions.logits.argmax(1)
            correct[predictions.fold] += (predicted == labels[predictions.clips]).tolist()
    return [
        {
            "name": fold["name"],
            "groups": fold["groups"],
            "training_clips": fold["clips_learned"],
            "test_clips": fold["clips_judged"],
            "accuracy": float(np.mean(correct[fold["name"]])),
        }
        for fold in folds
    ]
