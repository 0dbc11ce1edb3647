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
DEFAULT_THRESHOLD = 0.5
"""Probability from which a label applies, where no validation set tells."""
MIN_THRESHOLD = 0.01
"""A label that never or always applies is not a threshold: they lie in [0.01, 0.99]."""


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


def fit_binary_temperature(logits: NDArray[np.floating], targets: Integers) -> float:
    """
    As `fit_temperature`, for labels that are independent of each other.

    Args:
        logits: (n, K).
        targets: 1 where a row has a label, else 0, (n, K).
    """
    if not len(targets):
        return 1.0
    _check_binary(logits, targets)
    flat = logits.reshape(-1)
    pairs = np.stack([np.zeros_like(flat), flat], axis=1)  # softmax of (0, z) is the sigmoid of z
    return fit_temperature(pairs, targets.reshape(-1))


def fit_thresholds(logits: NDArray[np.floating], targets: Integers) -> tuple[float, ...]:
    """
    Find for each label the probability from which F1 is highest on a validation set.

    Args:
        logits: (n, K).
        targets: 1 where a row has a label, else 0, (n, K).

    Returns:
        K thresholds in (0, 1); 0.5 for labels that no row has, or that all rows have.
    """
    if not len(targets):
        return (DEFAULT_THRESHOLD,) * int(logits.shape[1])
    _check_binary(logits, targets)
    probabilities: Scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
    columns = zip(probabilities.T, targets.T, strict=True)
    return tuple(_best_threshold(scores, truth) for scores, truth in columns)


def _best_threshold(scores: Scores, truth: Integers) -> float:
    """Find the threshold with the highest F1, in the middle between two scores (n,)."""
    if not 0 < truth.sum() < len(truth):
        return DEFAULT_THRESHOLD
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    hits = np.cumsum(truth[order])
    f1 = 2 * hits / (np.arange(1, len(scores) + 1) + truth.sum())
    f1[:-1][ranked[:-1] == ranked[1:]] = -1  # equal scores are on the same side
    best = int(f1.argmax())
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    threshold = (ranked[best] + below) / 2
    return float(np.clip(threshold, MIN_THRESHOLD, 1 - MIN_THRESHOLD))


def _check_binary(logits: NDArray[np.floating], targets: Integers) -> None:
    if logits.ndim != 2 or targets.shape != logits.shape:
        raise ValueError(
            f"logits and targets must be (n, K), got {logits.shape} and {targets.shape}"
        )
