"""Smooth the labels of frames, and join equal ones to segments."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.records import Integers


def smooth(log_probabilities: NDArray[np.float64], switch_penalty: float) -> Integers:
    """
    Choose the most likely labels of a sequence in which labels seldom change (Viterbi).

    Args:
        log_probabilities: (T, K).
        switch_penalty: what a change of label costs, in nats: a label must be that much more likely
            over its frames than the one around it.

    Returns:
        Labels, (T,).
    """
    steps, labels = log_probabilities.shape
    if steps == 0 or labels == 1:
        return np.zeros(steps, np.int64)
    leading: Integers = log_probabilities.argmax(1)
    if (leading == leading[0]).all():  # one label leads everywhere: no transition can be better
        return leading
    came_from = np.empty((steps, labels), np.int32)
    score = log_probabilities[0].copy()
    stay = np.arange(labels)
    for step in range(1, steps):
        best = int(score.argmax())
        switch = score[best] - switch_penalty
        came_from[step] = np.where(score >= switch, stay, best)
        score = np.maximum(score, switch) + log_probabilities[step]
    path = np.empty(steps, np.int64)
    path[-1] = score.argmax()
    for step in range(steps - 1, 0, -1):
        path[step - 1] = came_from[step, path[step]]
    return path


def runs(labels: Integers) -> list[tuple[int, int, int]]:
    """Join equal neighbours: (start, stop, label) of each run, [start, stop)."""
    if not len(labels):
        return []
    edges = [0, *(int(n) for n in np.flatnonzero(np.diff(labels)) + 1), len(labels)]
    return [(a, b, int(labels[a])) for a, b in pairwise(edges)]
