"""
Metrics of predictions, computed from numpy arrays.

Clips:      true labels (n,) and scores (n, K); the predicted label has the highest score
Sequences:  true and predicted label of every frame, (T,); frames with a negative true label are
            not labelled and are ignored
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score

from pipeline.recognition.windows import run_length_encode
from pipeline.records import Integers
from pipeline.temporal.calibration import Scores

NOT_LABELLED = -1
"""Label index of a frame without a label."""
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


@dataclass(frozen=True, slots=True)
class SequenceMetrics:
    """Metrics of temporal segmentation (Lea et al. 2017); all in [0, 1]."""

    frame_accuracy: float
    """Share of labelled frames whose label is correct."""
    edit_score: float
    """Mean over videos of 1 − edit distance of the sequences of segment labels / the longer
    length."""
    f1_at_10: float
    """Segment F1 over all videos; a predicted segment is correct if its intersection over union
    with a segment of the same label is at least 10 %."""
    f1_at_25: float
    f1_at_50: float


def sequence_metrics(videos: Sequence[tuple[Integers, Integers]]) -> SequenceMetrics:
    """
    Compare true and predicted labels of frames.

    Args:
        videos: true and predicted labels of each video, (T,) both; at least one frame is labelled.
    """
    masked = [(truth, np.where(truth < 0, NOT_LABELLED, pred)) for truth, pred in videos]
    segments = [(_segments(truth), _segments(pred)) for truth, pred in masked if max(truth) >= 0]
    labelled = sum(int((truth >= 0).sum()) for truth, _ in videos)
    correct = sum(int(((truth == pred) & (truth >= 0)).sum()) for truth, pred in videos)
    return SequenceMetrics(
        frame_accuracy=correct / labelled,
        edit_score=float(np.mean([_edit_score(*both) for both in segments])),
        f1_at_10=_segment_f1(segments, 0.10),
        f1_at_25=_segment_f1(segments, 0.25),
        f1_at_50=_segment_f1(segments, 0.50),
    )


Segment = tuple[int, int, int]
"""Start, stop and label of frames with equal labels, [start, stop)."""


def _segments(labels: Integers) -> list[Segment]:
    """Split labels of frames into segments; frames without a label belong to none."""
    return [segment for segment in run_length_encode(labels) if segment[2] >= 0]


def _edit_score(truth: list[Segment], predicted: list[Segment]) -> float:
    """Compute 1 − the Levenshtein distance of the segment labels / the longer length."""
    labels = np.array([label for *_, label in predicted])
    row = np.arange(len(labels) + 1)
    for count, (*_, label) in enumerate(truth, start=1):
        substituted = row[:-1] + (labels != label)
        above = np.append(count, np.minimum(substituted, row[1:] + 1))
        # each insertion costs 1 per position, so the best start is a running minimum
        positions = np.arange(len(above))
        row = np.minimum.accumulate(above - positions) + positions
    return 1 - float(row[-1]) / max(len(truth), len(predicted))


def _segment_f1(videos: Sequence[tuple[list[Segment], list[Segment]]], threshold: float) -> float:
    """Compute F1 = 2 · matches / (true segments + predicted segments)."""
    matches = sum(_matches(truth, predicted, threshold) for truth, predicted in videos)
    return 2 * matches / sum(len(truth) + len(predicted) for truth, predicted in videos)


def _matches(truth: list[Segment], predicted: list[Segment], threshold: float) -> int:
    """Count the true segments that a predicted one overlaps with at least the threshold IoU."""
    matched: set[int] = set()
    for segment in predicted:
        overlaps = [_intersection_over_union(segment, other) for other in truth]
        best = int(np.argmax(overlaps))
        if overlaps[best] >= threshold:
            matched.add(best)
    return len(matched)


def _intersection_over_union(one: Segment, other: Segment) -> float:
    if one[2] != other[2]:
        return 0.0
    intersection = min(one[1], other[1]) - max(one[0], other[0])
    return max(0, intersection) / (max(one[1], other[1]) - min(one[0], other[0]))
