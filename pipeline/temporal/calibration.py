"""
Make scores frequencies: of the clips labelled with a score of 0.8, 80 % should be right.

One number, the temperature, divides all logits (Guo et al. 2017): no label changes, only how sure
a model claims to be.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.records import Integers

Scores = NDArray[np.float64]

COLDEST, HOTTEST = 0.01, 100.0
"""Temperatures beyond these are not told apart."""
HALVINGS = 60
"""Of the interval that holds the temperature: what is left is below the precision of a float64."""


def softmax(logits: Scores) -> Scores:
    """Turn logits (n, K) into probabilities (n, K)."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    probabilities: Scores = powers / powers.sum(1, keepdims=True)
    return probabilities


def fit_temperature(logits: NDArray[np.floating], labels: Integers) -> float:
    """
    Find the temperature at which clips that were not trained on are most likely.

    The likelihood is convex in the inverse of the temperature, so its slope is searched for the one
    place where it changes sign. Targets leave some room for doubt, less the more clips there are
    (Platt 1999): where all clips are right, the most likely temperature would be 0, which claims
    that none will ever be wrong.

    Args:
        logits: (n, K).
        labels: what the clips are, (n,).

    Returns:
        The temperature, in [0.01, 100]; 1 where there are no clips.

    Raises:
        ValueError: shapes do not match, or logits are no numbers.
    """
    _check(logits, labels)
    if not len(labels):
        return 1.0
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    wanted = (_smoothed(labels, logits.shape[1]) * shifted).sum(1).mean()
    low, high = np.log([1 / HOTTEST, 1 / COLDEST])
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        given = (softmax(np.exp(middle) * shifted) * shifted).sum(1).mean()
        low, high = (low, middle) if given > wanted else (middle, high)
    return float(np.exp(-(low + high) / 2))


def _smoothed(labels: Integers, num_labels: int) -> Scores:
    """Give targets (n, K) that doubt labels as if one clip more were right, and one wrong."""
    count = len(labels)
    doubt = 1 / (count + 2)
    targets = np.full((count, num_labels), doubt / max(1, num_labels - 1))
    targets[np.arange(count), labels] = 1 - doubt
    return targets


def _check(logits: NDArray[np.floating], labels: Integers) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"logits must be (n, K) and labels (n,), got {logits.shape} and {labels.shape}"
        )
    if not np.isfinite(logits).all():
        raise ValueError("logits must be finite numbers")
