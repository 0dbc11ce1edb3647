"""Synthetic sequences with a label for each frame, for the tests of training."""

from __future__ import annotations

import numpy as np

from pipeline.temporal.sequences import LabelledSequence

NUM_LABELS = 3


def make_sequence(targets, features, *, group="g", mask=None, name="sequence"):
    """Make a sequence of given targets (T,) or (T, K) and features (T, D), at 8 frames/s."""
    targets = np.asarray(targets)
    features = np.asarray(features, np.float32)
    mask = np.ones(len(features), np.bool_) if mask is None else np.asarray(mask, np.bool_)
    kind = np.bool_ if targets.ndim == 2 else np.int64
    return LabelledSequence(
        name, name, group, features, targets.astype(kind), mask, np.arange(len(features)) / 8
    )


def noisy_segments(count, *, noise=1.0, multi_label=False, seed=0):
    """Make sequences of 8 segments: the feature of the label of a segment is 1 higher."""
    rng = np.random.default_rng(seed)
    sequences = []
    for number in range(count):
        labels = np.repeat(rng.integers(0, NUM_LABELS, 8), rng.integers(6, 16, 8))
        features = np.eye(NUM_LABELS)[labels] + noise * rng.normal(size=(len(labels), NUM_LABELS))
        targets = np.eye(NUM_LABELS, dtype=np.bool_)[labels] if multi_label else labels
        name = f"sequence{number}"
        sequences.append(make_sequence(targets, features, group=f"g{number % 4}", name=name))
    return sequences
