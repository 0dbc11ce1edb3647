"""Clips whose labels can be learned: what the tests of training share."""

from __future__ import annotations

import numpy as np

from pipeline.temporal.batching import Example


def make_example(label: int, features, *, group: str = "g", counts=None, name="clip") -> Example:
    """An example of given features (L, D)."""
    features = np.asarray(features, np.float32)
    known = np.ones(len(features), np.bool_) if counts is None else np.asarray(counts, np.bool_)
    return Example(name, name, group, label, features, known, 0.0, len(features) / 8)


def rises_and_falls(count: int, *, groups: int = 4, length: int = 10) -> list[Example]:
    """
    Clips of two labels that only the order of frames tells apart, in turn.

    One feature rises or falls, another is noise.
    """
    chance = np.random.default_rng(0)
    examples = []
    for number in range(count):
        label = number % 2
        steps = length + number % 3
        line = np.linspace(-1, 1, steps) * (1 if label else -1)
        features = np.stack([line, chance.normal(size=steps)], axis=1)
        name = f"clip{number}"
        examples.append(make_example(label, features, group=f"g{number % groups}", name=name))
    return examples
