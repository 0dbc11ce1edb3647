"""
How good answers are, as figures. All of it is plain numpy on arrays that anybody can make.

Of clips:      true labels (n,) and scores (n, K), whose order within a row is what counts
Of sequences:  true and predicted labels of every frame, (T,); frames whose true label is negative
               are not labelled and count nowhere
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score

from pipeline.recognition.smoothing import runs
from pipeline.records import Integers
from pipeline.temporal.calibration import Scores

NOT_LABELLED = -1
"""In the place of the label of a frame."""
BINS = 15
"""Of the expected calibration error."""


def confusion(truth: Integers, scores: Scores) -> Scores:
    """
    Count how often each label (row) was taken for each (column), (K, K).

    Labels that share the best score of a clip share the clip: constant scores are a guess, not a
    vote for the first label.
    """
    best = scores == scores.max(1, keepdims=True)
    counts = np.zeros((scores.shape[1],) * 2)
    np.add.at(counts, truth, best / best.sum(1, keepdims=True))
    return counts


def accuracy(counts: Scores) -> float:
    """Give the share of clips that are right, from a confusion matrix (K, K)."""
    return float(np.trace(counts) / counts.sum())


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """How good the answers are for each label; all arrays are (K,)."""

    precision: Scores
    """Of the clips said to be it, the share that are; 0 where none was."""
    recall: Scores
    """Of the clips that are it, the share that were said to be; 0 where there are none."""
    f1: Scores
    clips: Scores
    """Clips that are it."""


def class_figures(counts: Scores) -> ClassFigures:
    """Read the figures of each label from a confusion matrix (K, K)."""
    right, said, there = np.diag(counts), counts.sum(0), counts.sum(1)
    return ClassFigures(
        precision=_ratio(right, said),
        recall=_ratio(right, there),
        f1=_ratio(2 * right, said + there),
        clips=there,
    )


def _ratio(part: Scores, whole: Scores) -> Scores:
    return np.divide(part, whole, out=np.zeros_like(part, np.float64), where=whole > 0)


def macro_f1(counts: Scores) -> float:
    """Average F1 over the labels that occur, as truth or as answer, each counting the same."""
    occurs = counts.sum(0) + counts.sum(1) > 0
    return float(class_figures(counts).f1[occurs].mean())


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
    """Clips by how sure the answer claims to be; all arrays are (bins,)."""

    confidence: Scores
    """Mean claimed probability; 0 where there are no clips."""
    accuracy: Scores
    """Share that are right; 0 where there are no clips."""
    clips: Scores

    @property
    def error(self) -> float:
        """Expected calibration error: the mean distance between claim and truth, over clips."""
        gaps = np.abs(self.confidence - self.accuracy)
        return float((gaps * self.clips).sum() / self.clips.sum())


def reliability(truth: Integers, probabilities: Scores, bins: int = BINS) -> Reliability:
    """
    Sort clips into bins of equal width by the probability of their best label.

    Args:
        truth: (n,).
        probabilities: (n, K), each row summing to 1.
        bins: how many.
    """
    claimed = probabilities.max(1)
    right = (probabilities.argmax(1) == truth).astype(np.float64)
    # a bin holds its upper edge, as in Guo et al. 2017
    place = np.clip(np.ceil(claimed * bins).astype(np.int64) - 1, 0, bins - 1)
    clips = _sums(np.ones_like(claimed), place, bins)
    return Reliability(
        confidence=_ratio(_sums(claimed, place, bins), clips),
        accuracy=_ratio(_sums(right, place, bins), clips),
        clips=clips,
    )


def _sums(values: Scores, place: Integers, bins: int) -> Scores:
    return np.bincount(place, values, bins).astype(np.float64)


@dataclass(frozen=True, slots=True)
class SequenceFigures:
    """How good the labels of sequences are (Lea et al. 2017); all in [0, 1]."""

    frame_accuracy: float
    """Share of labelled frames that are right."""
    edit_score: float
    """Mean over videos of 1 − edit distance between the orders of labels / the longer of them."""
    f1_at_10: float
    """Of segments over all videos; one is found by a claim of its label that it overlaps by 10 %,
    intersection over union."""
    f1_at_25: float
    f1_at_50: float


def sequence_figures(videos: Sequence[tuple[Integers, Integers]]) -> SequenceFigures:
    """
    Judge the labels of frames.

    Args:
        videos: truth and prediction of each, (T,) both; at least one frame is labelled.
    """
    masked = [(truth, np.where(truth < 0, NOT_LABELLED, said)) for truth, said in videos]
    segments = [(_segments(truth), _segments(said)) for truth, said in masked if max(truth) >= 0]
    known = sum(int((truth >= 0).sum()) for truth, _ in videos)
    right = sum(int(((truth == said) & (truth >= 0)).sum()) for truth, said in videos)
    return SequenceFigures(
        frame_accuracy=right / known,
        edit_score=float(np.mean([_edit_score(*both) for both in segments])),
        f1_at_10=_segment_f1(segments, 0.10),
        f1_at_25=_segment_f1(segments, 0.25),
        f1_at_50=_segment_f1(segments, 0.50),
    )


Run = tuple[int, int, int]
"""Start, stop and label of equal frames, [start, stop)."""


def _segments(labels: Integers) -> list[Run]:
    """Join equal neighbours; what is not labelled parts them, and is none itself."""
    return [run for run in runs(labels) if run[2] >= 0]


def _edit_score(there: list[Run], claims: list[Run]) -> float:
    """Give 1 − the Levenshtein distance of the orders of labels over the longer one's length."""
    order = np.array([label for *_, label in claims])
    row = np.arange(len(order) + 1)
    for count, (*_, label) in enumerate(there, start=1):
        changed = row[:-1] + (order != label)
        above = np.append(count, np.minimum(changed, row[1:] + 1))
        # an insertion costs 1 a place: the best place to begin inserting is a running minimum
        places = np.arange(len(above))
        row = np.minimum.accumulate(above - places) + places
    return 1 - float(row[-1]) / max(len(there), len(claims))


def _segment_f1(videos: Sequence[tuple[list[Run], list[Run]]], overlap: float) -> float:
    """Give F1 = 2 found / (segments there + segments claimed)."""
    found = sum(_matches(there, claims, overlap) for there, claims in videos)
    return 2 * found / sum(len(there) + len(claims) for there, claims in videos)


def _matches(there: list[Run], claims: list[Run], overlap: float) -> int:
    """Count the claims that overlap a segment of their label enough; each is found once."""
    found: set[int] = set()
    for claim in claims:
        ratios = [_intersection_over_union(claim, run) for run in there]
        best = int(np.argmax(ratios))
        if ratios[best] >= overlap:
            found.add(best)
    return len(found)


def _intersection_over_union(one: Run, other: Run) -> float:
    if one[2] != other[2]:
        return 0.0
    common = min(one[1], other[1]) - max(one[0], other[0])
    return max(0, common) / (max(one[1], other[1]) - min(one[0], other[0]))
