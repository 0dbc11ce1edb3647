"""Synthetic labelled clips for the tests of training."""

from __future__ import annotations

import numpy as np

from pipeline.temporal.batching import Example


def make_example(label: int, features, *, group: str = "g", mask=None, name="clip") -> Example:
    """Make an example of given features (L, D)."""
    features = np.asarray(features, np.float32)
    mask = np.ones(len(features), np.bool_) if mask is None else np.asarray(mask, np.bool_)
    end = len(features) / 8
    return Example(name, name, group, label, features, mask, 0.0, end, video=name)


def rising_and_falling(count: int, *, groups: int = 4, length: int = 10) -> list[Example]:
    """
    Make clips with two alternating labels that differ in the order of frames only.

    One feature rises or falls, the other is noise.
    """
    rng = np.random.default_rng(0)
    examples = []
    for number in range(count):
        label = number % 2
        steps = length + number % 3
        line = np.linspace(-1, 1, steps) * (1 if label else -1)
        features = np.stack([line, rng.normal(size=steps)], axis=1)
        name = f"clip{number}"
        examples.append(make_example(label, features, group=f"g{number % groups}", name=name))
    return examples
