"""
Metrics of each method, with their standard deviation over the training seeds.

    results = cross_validate(examples, make_folds(examples, 0), TemporalOptions(), options, seeds=3)
    scores = score_methods(examples, [p for result in results for p in result.predictions])
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from pipeline.evaluation.metrics import (
    Reliability,
    accuracy,
    confusion_matrix,
    macro_f1,
    mean_average_precision,
    reliability,
)
from pipeline.evaluation.predictions import METHODS, MODEL, Predictions
from pipeline.evaluation.segment_metrics import (
    FrameLabels,
    MultiLabelMetrics,
    SequenceMetrics,
    multi_label_metrics,
    sequence_metrics,
)
from pipeline.evaluation.segmentation import LabelledFrames
from pipeline.records import Integers
from pipeline.temporal.batching import Examples
from pipeline.temporal.calibration import Scores, softmax


@dataclass(frozen=True, slots=True)
class ClipMetrics:
    """Metrics of one method with one seed; all in [0, 1]."""

    accuracy: float
    macro_f1: float
    mean_average_precision: float
    calibration_error: float
    """Expected calibration error at the temperature fitted on the validation set."""
    calibration_error_before: float
    """Expected calibration error at temperature 1."""


@dataclass(frozen=True, slots=True)
class MethodScores:
    """Metrics of one method on clips."""

    method: str
    seeds: tuple[ClipMetrics, ...]
    """One per seed, over the test clips of all folds."""
    confusion: Scores
    """Clips by true (row) and predicted label (column), mean over the seeds, (K, K)."""
    reliability: Reliability
    """At the fitted temperature, over all seeds."""


@dataclass(frozen=True, slots=True)
class SequenceScores:
    """Metrics of one method on sequences."""

    method: str
    seeds: tuple[SequenceMetrics | MultiLabelMetrics, ...]
    """One per seed, over the videos of all folds."""


@dataclass(frozen=True, slots=True)
class FoldScores:
    """Metrics of the model on the test sequences of one fold, with one seed."""

    fold: str
    seed: int
    videos: int
    metrics: SequenceMetrics | MultiLabelMetrics


def mean_std(seeds: Sequence[Any], name: str) -> tuple[float, float | None]:
    """Compute the mean of a metric and its sample standard deviation, None for a single seed."""
    values = [getattr(metrics, name) for metrics in seeds]
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return float(np.mean(values)), std


def metric_names(metrics: object) -> list[str]:
    """List the fields of a dataclass of metrics."""
    return [each.name for each in fields(metrics)]  # type: ignore[arg-type]


def score_methods(examples: Examples, predictions: Sequence[Predictions]) -> list[MethodScores]:
    """Compute the metrics of each method, in the order of `METHODS`."""
    by_method: dict[str, dict[int, list[Predictions]]] = defaultdict(lambda: defaultdict(list))
    for one in predictions:
        by_method[one.method][one.seed].append(one)
    methods = [method for method in METHODS if method in by_method]
    return [_score(examples, method, list(by_method[method].values())) for method in methods]


def _score(examples: Examples, method: str, seeds: Sequence[Sequence[Predictions]]) -> MethodScores:
    joined = [_join(examples, predictions) for predictions in seeds]
    truth = np.concatenate([one.truth for one in joined])
    probabilities = np.concatenate([one.probabilities for one in joined])
    return MethodScores(
        method,
        tuple(_metrics(one) for one in joined),
        np.mean([one.counts for one in joined], axis=0),
        reliability(truth, probabilities),
    )


@dataclass(frozen=True)
class _Joined:
    """The predictions of all folds of one seed."""

    truth: Integers
    """(n,)."""
    logits: Scores
    """(n, K)."""
    temperatures: Scores
    """(n,)."""
    num_clips: int
    """Distinct clips: fewer than predictions if frames were shuffled several times."""

    @property
    def probabilities(self) -> Scores:
        """Probabilities at the fitted temperatures, (n, K)."""
        return softmax(self.logits / self.temperatures[:, None])

    @property
    def counts(self) -> Scores:
        """Confusion matrix (K, K); each clip has a total weight of 1."""
        return confusion_matrix(self.truth, self.logits) * (self.num_clips / len(self.truth))


def _join(examples: Examples, predictions: Sequence[Predictions]) -> _Joined:
    labels = np.array([item.label for item in examples.items])
    clips = np.concatenate([one.clips for one in predictions])
    return _Joined(
        truth=labels[clips],
        logits=np.concatenate([one.logits for one in predictions]),
        temperatures=np.concatenate([np.full(len(p.clips), p.temperature) for p in predictions]),
        num_clips=len(np.unique(clips)),
    )


def _metrics(joined: _Joined) -> ClipMetrics:
    return ClipMetrics(
        accuracy=accuracy(joined.counts),
        macro_f1=macro_f1(joined.counts),
        # unlike logits, probabilities of different folds are comparable
        mean_average_precision=mean_average_precision(joined.truth, joined.probabilities),
        calibration_error=reliability(joined.truth, joined.probabilities).error,
        calibration_error_before=reliability(joined.truth, softmax(joined.logits)).error,
    )


def score_sequences(
    sequences: Sequence[LabelledFrames], background: int | None = None
) -> list[SequenceScores]:
    """
    Compute the metrics of each method on sequences, in the order in which the methods occur.

    Args:
        sequences: of all methods and seeds.
        background: label whose segments are left out of all metrics but the accuracy.
    """
    methods: dict[str, dict[int, list[FrameLabels]]] = defaultdict(lambda: defaultdict(list))
    for one in sequences:
        methods[one.method][one.seed].append(one.frame_labels)
    return [
        SequenceScores(method, tuple(_sequence_metrics(v, background) for v in seeds.values()))
        for method, seeds in methods.items()
    ]


def score_folds(
    sequences: Sequence[LabelledFrames], background: int | None = None
) -> list[FoldScores]:
    """Compute the metrics of the model in each fold and with each seed."""
    folds: dict[tuple[str, int], list[FrameLabels]] = defaultdict(list)
    for one in sequences:
        if one.method == MODEL:
            folds[one.fold, one.seed].append(one.frame_labels)
    return [
        FoldScores(fold, seed, len(videos), _sequence_metrics(videos, background))
        for (fold, seed), videos in folds.items()
        if any((video.target >= 0).any() for video in videos)
    ]


def _sequence_metrics(
    videos: Sequence[FrameLabels], background: int | None
) -> SequenceMetrics | MultiLabelMetrics:
    if videos[0].target.ndim == 2:
        return multi_label_metrics(videos)
    return sequence_metrics(videos, background)
