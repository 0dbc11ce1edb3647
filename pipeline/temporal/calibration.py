"""
Temperature scaling: of the clips with a score of 0.8, about 80 % should be correct.

All logits are divided by one number, the temperature (Guo et al. 2017). This changes the scores but
never the predicted label.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.records import Integers

Scores = NDArray[np.float64]

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0
BISECTION_STEPS = 60
"""Enough to reach the precision of float64."""


def softmax(logits: Scores) -> Scores:
    """Convert logits (n, K) to probabilities (n, K)."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    probabilities: Scores = powers / powers.sum(1, keepdims=True)
    return probabilities


def fit_temperature(logits: NDArray[np.floating], labels: Integers) -> float:
    """
    Find the temperature with the highest likelihood on a validation set.

    The log-likelihood is concave in the inverse temperature, so its derivative is bisected. The
    targets are smoothed (Platt 1999): if all clips are correct, the unsmoothed optimum would be a
    temperature of 0. The more clips, the weaker the smoothing.

    Args:
        logits: (n, K).
        labels: true labels of the clips, (n,).

    Returns:
        The temperature, in [0.01, 100]; 1 if there are no clips.

    Raises:
        ValueError: shapes do not match, or logits are not finite.
    """
    _check(logits, labels)
    if not len(labels):
        return 1.0
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    target = (_smoothed_targets(labels, logits.shape[1]) * shifted).sum(1).mean()
    low, high = np.log([1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE])
    for _ in range(BISECTION_STEPS):
        middle = (low + high) / 2
        expected = (softmax(np.exp(middle) * shifted) * shifted).sum(1).mean()
        low, high = (low, middle) if expected > target else (middle, high)
    return float(np.exp(-(low + high) / 2))


def _smoothed_targets(labels: Integers, num_labels: int) -> Scores:
    """Give target probabilities (n, K) as if one more clip were correct and one more wrong."""
    count = len(labels)
    error = 1 / (count + 2)
    targets = np.full((count, num_labels), error / max(1, num_labels - 1))
    targets[np.arange(count), labels] = 1 - error
    return targets


def _check(logits: NDArray[np.floating], labels: Integers) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"logits must be (n, K) and labels (n,), got {logits.shape} and {labels.shape}"
        )
    if not np.isfinite(logits).all():
        raise ValueError("logits must be finite")
