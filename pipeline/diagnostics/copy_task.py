"""Sequences drawn by chance, in which it is known how far back one has to look."""

from __future__ import annotations

import numpy as np

from pipeline.temporal.batching import Example

LABELS = 4
NOISE = 0.3
"""Standard deviation; the label stands out by 1."""


def draw_recall(
    count: int, length: int, *, lag: int | None = None, labels: int = LABELS, seed: int = 0
) -> list[Example]:
    """
    Draw the copy task: a label is shown in one frame, and asked for in the last.

    Args:
        count: sequences.
        length: frames a sequence, L.
        lag: frames from the label to the end, less than L; None draws it for each sequence, so that
            what is learned from short lags helps with long ones.
        labels: K; features are K of noise, to which the label is added, and a mark where it is.
        seed: of what is drawn.
    """
    chance = np.random.default_rng(seed)
    drawn = []
    for number in range(count):
        label = int(chance.integers(labels))
        place = length - 1 - (int(chance.integers(length)) if lag is None else lag)
        features = NOISE * chance.normal(size=(length, labels + 1))
        features[place, [label, labels]] += 1
        drawn.append(_example(f"recall {number}", label, features.astype(np.float32)))
    return drawn


def _example(name: str, label: int, features: np.ndarray) -> Example:
    return Example(
        name=name,
        video_id=name,
        group=name,
        label=label,
        features=features,
        mask=np.ones(len(features), np.bool_),
        start_seconds=0.0,
        end_seconds=float(len(features)),
    )
