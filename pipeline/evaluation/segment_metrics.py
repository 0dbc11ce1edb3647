"""
Metrics of the labels of frames, and of the segments that they form.

Definitions of frame accuracy, edit score and F1@k: Lea et al. 2017, "Temporal Convolutional
Networks for Action Segmentation and Detection" (https://arxiv.org/abs/1611.05267). As in their
evaluation, segments of the background are left out of edit score and F1, but not of the accuracy.

Mean average precision over temporal intersections over union (tIoU): Caba Heilbron et al. 2015,
"ActivityNet", with the interpolated precision of its evaluation
(https://github.com/activitynet/ActivityNet).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from pipeline.recognition.windows import run_length_encode
from pipeline.records import Integers

NOT_LABELLED = -1
"""Label index of a frame without a label."""
TIOU_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
"""Over which the mean average precision is averaged."""

Scores = NDArray[np.floating]
Segment = tuple[int, int, int]
"""Start, stop and label of frames with equal labels, [start, stop)."""


@dataclass(frozen=True, slots=True)
class FrameLabels:
    """True and predicted labels of the frames of one video."""

    target: Integers
    """(T,), negative for frames that are not labelled and ignored; with several labels at once
    (T, K): 1 where a frame has the label, 0 where not, negative where it is not labelled."""
    predicted: Integers
    """As `target`; negative for frames without a prediction, which is wrong."""
    scores: Scores
    """Probability of the predicted label, (T,); with several labels at once of each label,
    (T, K)."""

    def segments(self, background: int | None = None) -> list[Segment]:
        """Give the segments of the true labels, without those of the background."""
        return _segments(self.target, background)

    def detections(self, background: int | None = None) -> list[tuple[Segment, float]]:
        """Give the segments of the predicted labels with their mean scores."""
        labels = np.where(self.target < 0, NOT_LABELLED, self.predicted)
        scores = self.scores.reshape(len(labels), -1)
        return [
            (segment, float(scores[segment[0] : segment[1], segment[2] % scores.shape[1]].mean()))
            for segment in _segments(labels, background)
        ]


def _segments(labels: Integers, background: int | None) -> list[Segment]:
    """Split labels of frames into segments; frames without a label belong to none."""
    if labels.ndim == 2:
        return [
            (start, stop, number)
            for number, column in enumerate(labels.T)
            for start, stop, on in run_length_encode(column)
            if on > 0
        ]
    runs = run_length_encode(labels)
    return [segment for segment in runs if segment[2] >= 0 and segment[2] != background]


@dataclass(frozen=True, slots=True)
class SequenceMetrics:
    """Metrics of temporal segmentation; all in [0, 1]."""

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
    segment_map: float
    """Mean average precision of segments, over labels and tIoU 0.3 to 0.7."""


@dataclass(frozen=True, slots=True)
class MultiLabelMetrics:
    """Metrics of frames with several labels at once; all in [0, 1]."""

    frame_f1: float
    """F1 of the frames of each label, mean over the labels that occur."""
    frame_map: float
    """Average precision of the frames of each label, mean over the labels that occur."""
    f1_at_10: float
    """Segment F1 over all labels and videos, as of `SequenceMetrics`."""
    f1_at_25: float
    f1_at_50: float
    segment_map: float
    """Mean average precision of segments, over labels and tIoU 0.3 to 0.7."""


def sequence_metrics(
    videos: Sequence[FrameLabels], background: int | None = None
) -> SequenceMetrics:
    """
    Compare true and predicted labels of frames.

    Args:
        videos: at least one frame is labelled.
        background: label whose segments are left out of all metrics but the accuracy.
    """
    videos = [video for video in videos if (video.target >= 0).any()]
    labelled = sum(int((video.target >= 0).sum()) for video in videos)
    correct = sum(int(((v.target == v.predicted) & (v.target >= 0)).sum()) for v in videos)
    truth = [video.segments(background) for video in videos]
    detections = [video.detections(background) for video in videos]
    predicted = [[segment for segment, _ in found] for found in detections]
    return SequenceMetrics(
        frame_accuracy=correct / labelled,
        edit_score=_mean([_edit_score(*pair) for pair in zip(truth, predicted, strict=True)]),
        f1_at_10=segment_f1(truth, predicted, 0.10),
        f1_at_25=segment_f1(truth, predicted, 0.25),
        f1_at_50=segment_f1(truth, predicted, 0.50),
        segment_map=segment_map(truth, detections),
    )


def multi_label_metrics(videos: Sequence[FrameLabels]) -> MultiLabelMetrics:
    """Compare true and predicted labels of frames that may have several labels, (T, K) each."""
    target = np.concatenate([video.target for video in videos])
    known = (target >= 0).all(1)
    target = target[known] > 0
    predicted = np.concatenate([video.predicted for video in videos])[known] > 0
    scores = np.concatenate([video.scores for video in videos])[known]
    occurs = np.flatnonzero((target | predicted).any(0)).tolist()
    truth = [video.segments() for video in videos]
    detections = [video.detections() for video in videos]
    segments = [[segment for segment, _ in found] for found in detections]
    true = [label for label in occurs if target[:, label].any()]
    return MultiLabelMetrics(
        frame_f1=_mean([binary_f1(target[:, label], predicted[:, label]) for label in occurs]),
        frame_map=_mean([average_precision(target[:, label], scores[:, label]) for label in true]),
        f1_at_10=segment_f1(truth, segments, 0.10),
        f1_at_25=segment_f1(truth, segments, 0.25),
        f1_at_50=segment_f1(truth, segments, 0.50),
        segment_map=segment_map(truth, detections),
    )


@dataclass(frozen=True, slots=True)
class LabelMetrics:
    """Metrics of one label; 0 where it does not occur."""

    frame_precision: float
    frame_recall: float
    frame_f1: float
    f1_at_50: float
    """Of its segments."""
    segments: int
    """Number of true segments."""


def label_metrics(videos: Sequence[FrameLabels], num_labels: int) -> list[LabelMetrics]:
    """Compute the metrics of each label, over all videos."""
    truth = [video.segments() for video in videos]
    predicted = [[segment for segment, _ in video.detections()] for video in videos]
    found = []
    for label in range(num_labels):
        pairs = [_frames_of(video, label) for video in videos]
        target = np.concatenate([one for one, _ in pairs])
        guess = np.concatenate([one for _, one in pairs])
        hits = int((target & guess).sum())
        own = [[part for part in parts if part[2] == label] for parts in truth]
        seen = [[part for part in parts if part[2] == label] for parts in predicted]
        found.append(
            LabelMetrics(
                frame_precision=hits / max(1, int(guess.sum())),
                frame_recall=hits / max(1, int(target.sum())),
                frame_f1=binary_f1(target, guess),
                f1_at_50=segment_f1(own, seen, 0.50),
                segments=sum(map(len, own)),
            )
        )
    return found


def _frames_of(video: FrameLabels, label: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Give the labelled frames that have a label, truly and as predicted."""
    if video.target.ndim == 2:
        known = video.target[:, label] >= 0
        return video.target[known, label] > 0, video.predicted[known, label] > 0
    known = video.target >= 0
    return video.target[known] == label, video.predicted[known] == label


def binary_f1(target: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> float:
    """Compute F1 = 2 · hits / (true + predicted) of one label; 0 if it does not occur."""
    count = int(target.sum() + predicted.sum())
    return 2 * int((target & predicted).sum()) / count if count else 0.0


def average_precision(target: NDArray[np.bool_], scores: Scores) -> float:
    """Compute the average precision of one label, (n,) both; at least one is true."""
    return float(average_precision_score(target, scores))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def _edit_score(truth: list[Segment], predicted: list[Segment]) -> float:
    """Compute 1 − the Levenshtein distance of the segment labels / the longer length."""
    if not truth and not predicted:
        return 1.0
    labels = np.array([label for *_, label in predicted])
    row = np.arange(len(labels) + 1)
    for count, (*_, label) in enumerate(truth, start=1):
        substituted = row[:-1] + (labels != label)
        above = np.append(count, np.minimum(substituted, row[1:] + 1))
        # each insertion costs 1 per position, so the best start is a running minimum
        positions = np.arange(len(above))
        row = np.minimum.accumulate(above - positions) + positions
    return 1 - float(row[-1]) / max(len(truth), len(predicted))


def segment_f1(
    truth: Sequence[list[Segment]], predicted: Sequence[list[Segment]], threshold: float
) -> float:
    """
    Compute F1 = 2 · matches / (true segments + predicted segments); 0 without segments.

    Args:
        truth: segments of each video.
        predicted: segments of each video.
        threshold: intersection over union from which a predicted segment matches.
    """
    pairs = list(zip(truth, predicted, strict=True))
    matches = sum(_matches(*pair, threshold) for pair in pairs)
    count = sum(len(one) + len(other) for one, other in pairs)
    return 2 * matches / count if count else 0.0


def _matches(truth: list[Segment], predicted: list[Segment], threshold: float) -> int:
    """Count the true segments that a predicted one overlaps with at least the threshold IoU."""
    if not truth:
        return 0
    matched: set[int] = set()
    for segment in predicted:
        overlaps = _intersections_over_union(segment, truth)
        best = int(np.argmax(overlaps))
        if overlaps[best] >= threshold:
            matched.add(best)
    return len(matched)


def _intersections_over_union(one: Segment, others: list[Segment]) -> Scores:
    """Compute the temporal intersection over union with segments of the same label, else 0."""
    start, stop, label = np.array(others).T
    intersection = np.maximum(np.minimum(stop, one[1]) - np.maximum(start, one[0]), 0)
    union = np.maximum(stop, one[1]) - np.minimum(start, one[0])
    return np.asarray(np.where(label == one[2], intersection / union, 0.0))


def segment_map(
    truth: Sequence[list[Segment]],
    detections: Sequence[list[tuple[Segment, float]]],
    thresholds: Sequence[float] = TIOU_THRESHOLDS,
) -> float:
    """
    Compute the mean average precision of segments over labels and thresholds.

    Args:
        truth: segments of each video; labels without a segment are left out.
        detections: predicted segments of each video, with their scores.
        thresholds: intersections over union from which a detection is correct.

    Returns:
        The mean; 0 without true segments.
    """
    labels = sorted({label for segments in truth for *_, label in segments})
    values = []
    for label in labels:
        own = [[segment for segment in segments if segment[2] == label] for segments in truth]
        found = sorted(
            (
                (score, video, segment)
                for video, segments in enumerate(detections)
                for segment, score in segments
                if segment[2] == label
            ),
            key=lambda one: -one[0],
        )
        overlaps = [
            (video, _intersections_over_union(segment, own[video]) if own[video] else np.zeros(0))
            for _, video, segment in found
        ]
        count = sum(map(len, own))
        values += [_interpolated_precision(_hits(overlaps, t), count) for t in thresholds]
    return _mean(values)


def _hits(overlaps: Sequence[tuple[int, Scores]], threshold: float) -> NDArray[np.bool_]:
    """
    Find the correct detections, (n,): each true segment is found once.

    Args:
        overlaps: of each detection by descending score, its video and its intersections over union
            with the true segments of the video.
        threshold: intersection over union from which a detection is correct.
    """
    used: set[tuple[int, int]] = set()
    hits = np.zeros(len(overlaps), np.bool_)
    for number, (video, values) in enumerate(overlaps):
        for index in np.argsort(-values, kind="stable").tolist():
            if values[index] < threshold:
                break
            if (video, index) not in used:
                used.add((video, index))
                hits[number] = True
                break
    return hits


def _interpolated_precision(hits: NDArray[np.bool_], count: int) -> float:
    """Compute the area below the precision-recall curve, where precision does not increase."""
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[hits].sum()) / count
