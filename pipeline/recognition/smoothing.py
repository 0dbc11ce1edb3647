"""Smooth the labels of frames with the Viterbi algorithm."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.records import Integers


def smooth(log_probabilities: NDArray[np.float64], switch_penalty: float) -> Integers:
    """
    Find the most likely sequence of labels, with a penalty for each change (Viterbi algorithm).

    Args:
        log_probabilities: (T, K).
        switch_penalty: cost of a change of label, in nats.

    Returns:
        Labels, (T,).
    """
    steps, num_labels = log_probabilities.shape
    if steps == 0 or num_labels == 1:
        return np.zeros(steps, np.int64)
    most_likely: Integers = log_probabilities.argmax(1)
    if (most_likely == most_likely[0]).all():  # best at every step without a change
        return most_likely
    previous_label = np.empty((steps, num_labels), np.int32)
    score = log_probabilities[0].copy()
    same_label = np.arange(num_labels)
    for step in range(1, steps):
        best = int(score.argmax())
        switch = score[best] - switch_penalty
        previous_label[step] = np.where(score >= switch, same_label, best)
        score = np.maximum(score, switch) + log_probabilities[step]
    path = np.empty(steps, np.int64)
    path[-1] = score.argmax()
    for step in range(steps - 1, 0, -1):
        path[step - 1] = previous_label[step, path[step]]
    return path
