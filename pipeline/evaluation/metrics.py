"""Metrics of predicted clips, computed from their true labels (n,) and scores (n, K)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score

from pipeline.records import Integers
from pipeline.temporal.calibration import Scores

BINS = 15
"""Of the expected calibration error."""


def confusion_matrix(truth: Integers, scores: Scores) -> Scores:
    """
    Count the clips of each true label (row) by predicted label (column), (K, K).

    A clip with several highest scores is divided equally among those labels, so that constant
    scores are not a vote for the first label.

    Args:
        truth: (n,).
        scores: (n, K).
    """
    best = scores == scores.max(1, keepdims=True)
    counts = np.zeros((scores.shape[1],) * 2)
    np.add.at(counts, truth, best / best.sum(1, keepdims=True))
    return counts


def accuracy(counts: Scores) -> float:
    """Compute the share of correct clips from a confusion matrix (K, K)."""
    return float(np.trace(counts) / counts.sum())


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """Metrics of each label; all arrays are (K,)."""

    precision: Scores
    """0 for labels that are never predicted."""
    recall: Scores
    """0 for labels without clips."""
    f1: Scores
    clips: Scores
    """Number of clips with this true label."""


def class_metrics(counts: Scores) -> ClassMetrics:
    """Compute the metrics of each label from a confusion matrix (K, K)."""
    correct, predicted, actual = np.diag(counts), counts.sum(0), counts.sum(1)
    return ClassMetrics(
        precision=_ratio(correct, predicted),
        recall=_ratio(correct, actual),
        f1=_ratio(2 * correct, predicted + actual),
        clips=actual,
    )


def _ratio(numerator: Scores, denominator: Scores) -> Scores:
    """Divide; 0 where the denominator is 0."""
    zeros = np.zeros_like(numerator, np.float64)
    return np.divide(numerator, denominator, out=zeros, where=denominator > 0)


def macro_f1(counts: Scores) -> float:
    """Average F1 over the labels that occur in a confusion matrix (K, K), true or predicted."""
    occurs = counts.sum(0) + counts.sum(1) > 0
    return float(class_metrics(counts).f1[occurs].mean())


def mean_average_precision(truth: Integers, scores: Scores) -> float:
    """
    Average the average precision over the labels that clips have.

    Args:
        truth: (n,).
        scores: (n, K).
    """
    present = np.unique(truth).tolist()
    return float(np.mean([average_precision_score(truth == k, scores[:, k]) for k in present]))


@dataclass(frozen=True, slots=True)
class Reliability:
    """Clips in bins of equal width by the probability of the predicted label; arrays (bins,)."""

    confidence: Scores
    """Mean predicted probability; 0 in empty bins."""
    accuracy: Scores
    """Share of correct clips; 0 in empty bins."""
    clips: Scores

    @property
    def error(self) -> float:
        """Expected calibration error: the mean of |confidence − accuracy| over the clips."""
        gaps = np.abs(self.confidence - self.accuracy)
        return float((gaps * self.clips).sum() / self.clips.sum())


def reliability(truth: Integers, probabilities: Scores, bins: int = BINS) -> Reliability:
    """
    Compute the reliability diagram of predictions.

    Args:
        truth: (n,).
        probabilities: (n, K), each row sums to 1.
        bins: number of bins.
    """
    confidence = probabilities.max(1)
    correct = (probabilities.argmax(1) == truth).astype(np.float64)
    # bins include their upper edge, as in Guo et al. 2017
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    clips = _bin_sums(np.ones_like(confidence), index, bins)
    return Reliability(
        confidence=_ratio(_bin_sums(confidence, index, bins), clips),
        accuracy=_ratio(_bin_sums(correct, index, bins), clips),
        clips=clips,
    )


def _bin_sums(values: Scores, index: Integers, bins: int) -> Scores:
    return np.bincount(index, values, bins).astype(np.float64)
