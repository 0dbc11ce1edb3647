"""
Baselines on sequences with a label for each frame: the label frequencies, and logistic regression.

The logistic regression reads each frame by itself. Its labels are compared as they are, and decoded
with durations and transitions of labels as those of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.baselines import (
    LinearClassifier,
    fit_logistic_regression,
    signed_sqrt,
)
from pipeline.evaluation.predictions import PRIOR
from pipeline.evaluation.segmentation import LabelledFrames
from pipeline.recognition.frame_labels import median_gap_seconds
from pipeline.recognition.segment_model import SegmentModel
from pipeline.records import Integers
from pipeline.temporal.calibration import Scores, softmax
from pipeline.temporal.sequences import IGNORED, LabelledSequence

LINEAR = "linear, single frames"
LINEAR_SMOOTHED = "linear, single frames, smoothed"
MAX_FRAMES = 10_000
"""Frames that the logistic regression is fitted to, evenly spaced."""
MAX_VALUES = 40_000_000
"""Features of all these frames together, which limits their number too."""


def targets_of(item: LabelledSequence) -> Integers:
    """Give the target of each frame, (T,) or (T, K), -1 where it is ignored."""
    known = item.mask[:, None] if item.multi_label else item.has_target
    return np.asarray(np.where(known, item.targets.astype(np.int64), IGNORED))


def labelled_frames(
    item: LabelledSequence, predicted: Integers, probabilities: NDArray[np.floating]
) -> LabelledFrames:
    """
    Join true and predicted labels of one sequence.

    Args:
        item: the sequence.
        predicted: (T,), or with several labels at once (T, K).
        probabilities: (T, K).
    """
    rows = np.arange(len(predicted))
    return LabelledFrames(
        video=item.video or item.name,
        video_id=item.video_id,
        seed=0,
        fold="",
        seconds=item.seconds,
        target=targets_of(item),
        predicted=predicted,
        scores=probabilities if item.multi_label else probabilities[rows, predicted],
    )


@dataclass(frozen=True)
class FrameClassifier:
    """Logistic regressions of the labels of single frames."""

    models: tuple[LinearClassifier, ...]
    """One of all labels, or with several labels at once one of each label."""

    @classmethod
    def fit(cls, items: Sequence[LabelledSequence], num_labels: int) -> FrameClassifier:
        """Fit to the labelled frames of sequences."""
        known = [item.has_target for item in items]
        size = items[0].features.shape[1]
        limit = max(1, min(MAX_FRAMES, MAX_VALUES // size))
        step = max(1, -(-sum(int(mask.sum()) for mask in known) // limit))
        pairs = list(zip(items, known, strict=True))
        frames = np.concatenate([item.features[mask][::step] for item, mask in pairs])
        targets = np.concatenate([item.targets[mask][::step] for item, mask in pairs])
        vectors = signed_sqrt(frames.astype(np.float64))
        columns = targets.astype(np.int64).T if targets.ndim == 2 else [targets]
        states = 2 if targets.ndim == 2 else num_labels
        return cls(tuple(fit_logistic_regression(vectors, column, states) for column in columns))

    def probabilities(self, item: LabelledSequence) -> Scores:
        """Compute the probabilities of the labels of each frame, (T, K)."""
        vectors = signed_sqrt(item.features.astype(np.float64))
        found = [softmax(model.logits(vectors)) for model in self.models]
        return np.stack([one[:, 1] for one in found], axis=1) if item.multi_label else found[0]


def predict_frame_baselines(
    train: Sequence[LabelledSequence],
    test: Sequence[LabelledSequence],
    num_labels: int,
) -> dict[str, list[LabelledFrames]]:
    """
    Predict sequences by baselines that are fitted to other sequences.

    Returns:
        Predictions by method.
    """
    classifier, segments = (
        FrameClassifier.fit(train, num_labels),
        SegmentModel.of(train, num_labels),
    )
    found: dict[str, list[LabelledFrames]] = {LINEAR_SMOOTHED: [], LINEAR: [], PRIOR: []}
    frequencies = _frequencies(train, num_labels)
    for item in test:
        probabilities = classifier.probabilities(item)
        smoothed = segments.decode(probabilities, median_gap_seconds(item.seconds))
        found[LINEAR_SMOOTHED].append(labelled_frames(item, smoothed, probabilities))
        labels = _most_likely(item, probabilities)
        found[LINEAR].append(labelled_frames(item, labels, probabilities))
        constant = np.tile(frequencies, (len(item.features), 1))
        found[PRIOR].append(labelled_frames(item, _most_likely(item, constant), constant))
    return found


def _most_likely(item: LabelledSequence, probabilities: Scores) -> Integers:
    if item.multi_label:
        return (probabilities >= 0.5).astype(np.int64)
    return np.asarray(probabilities.argmax(1))


def _frequencies(items: Sequence[LabelledSequence], num_labels: int) -> Scores:
    """Give the share of frames with each label, (K,)."""
    counts, frames = np.zeros(num_labels), 0
    for item in items:
        for label, count in item.label_counts().items():
            counts[label] += count
        frames += int(item.has_target.sum())
    return counts / max(frames, 1)
