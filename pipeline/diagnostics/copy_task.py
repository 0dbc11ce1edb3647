"""The copy task: synthetic sequences in which the distance to the relevant frame is known."""

from __future__ import annotations

import numpy as np

from pipeline.temporal.batching import Example

LABELS = 4
NOISE_STD = 0.3
"""Standard deviation of the noise; the label adds 1."""


def make_copy_task(
    count: int, length: int, *, lag: int | None = None, labels: int = LABELS, seed: int = 0
) -> list[Example]:
    """
    Make sequences with the label in one frame, to be predicted at the last frame.

    Args:
        count: number of sequences.
        length: frames per sequence, L.
        lag: frames from the label to the end, less than L; None chooses it at random for each
            sequence, since training on short lags helps with long ones.
        labels: K; the features are K of noise, to which the label is added, and one that marks
            the frame.
        seed: of the random generator.
    """
    rng = np.random.default_rng(seed)
    examples = []
    for number in range(count):
        label = int(rng.integers(labels))
        frame = length - 1 - (int(rng.integers(length)) if lag is None else lag)
        features = NOISE_STD * rng.normal(size=(length, labels + 1))
        features[frame, [label, labels]] += 1
        examples.append(_example(f"copy task {number}", label, features.astype(np.float32)))
    return examples


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
