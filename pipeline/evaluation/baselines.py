"""
Baselines of a recurrent model: logistic regression on the same features, pooled over time.

    mean_over_time      the mean over all frames: no temporal order
    temporal_pyramid    means of the positive and negative differences between frames, over the
                        whole clip and each third of it

The regularization strength is fixed, not tuned on the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from pipeline.records import Integers
from pipeline.temporal.calibration import Scores

C = 100.0
"""Inverse of the L2 regularization strength, for vectors with a mean squared norm of 1."""
MIN_PROBABILITY = 1e-9
"""Of a label without a training clip."""

ClipFeatures = NDArray[np.float32]
"""Features of the frames of a clip, (L, D)."""


def mean_over_time(x: ClipFeatures) -> Scores:
    """Average the features of a clip over its frames, (L, D) → (D,), and take signed roots."""
    return signed_sqrt(_mean(x))


def temporal_pyramid(x: ClipFeatures) -> Scores:
    """
    Average positive and negative differences between frames over the clip and each third of it.

    Args:
        x: (L, D).

    Returns:
        Signed square roots of the averages, (8 · D,); zeros for parts without frames.
    """
    differences = np.diff(x, axis=0)  # (L − 1, D)
    edges = [third * len(differences) // 3 for third in range(4)]
    parts = [differences, *(differences[start:stop] for start, stop in pairwise(edges))]
    means = [_mean(np.maximum(sign * part, 0)) for part in parts for sign in (1, -1)]
    return signed_sqrt(np.concatenate(means))  # (8 · D,)


def _mean(x: ClipFeatures) -> Scores:
    means: Scores = x.sum(0, dtype=np.float64) / max(len(x), 1)
    return means


def signed_sqrt(values: Scores) -> Scores:
    """Take the square root of absolute values, and keep their signs."""
    roots: Scores = np.sign(values) * np.sqrt(np.abs(values))
    return roots


BASELINES: Mapping[str, Callable[[ClipFeatures], Scores]] = {
    "linear, mean over time": mean_over_time,
    "linear, pyramid of changes": temporal_pyramid,
}
"""Pooling function of each baseline, by its name in tables and results."""


@dataclass(frozen=True)
class LinearClassifier:
    """A fitted logistic regression, with the standardization of its inputs."""

    mean: Scores
    """(F,)."""
    scale: Scores
    """(F,); 0 for constant features."""
    weights: Scores
    """(F, K)."""
    bias: Scores
    """(K,)."""

    def logits(self, vectors: Scores) -> Scores:
        """Compute logits (n, K) of vectors (n, F)."""
        logits: Scores = (vectors - self.mean) * self.scale @ self.weights + self.bias
        return logits


def fit_logistic_regression(vectors: Scores, labels: Integers, num_labels: int) -> LinearClassifier:
    """
    Fit a logistic regression with an L2 penalty.

    Vectors are standardized and scaled to a mean squared norm of 1, so that `C` means the same for
    every number of features.

    Args:
        vectors: (n, F).
        labels: (n,).
        num_labels: K; labels without a training clip get a constant low logit.
    """
    mean, deviation = vectors.mean(0), vectors.std(0)
    varies = deviation > 1e-9 * np.abs(vectors).max(initial=0.0)
    scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=varies)
    scale /= np.sqrt(max(int(varies.sum()), 1))
    standardized = (vectors - mean) * scale
    # the optimal weights are a linear combination of the vectors: n parameters instead of F
    basis, _ = np.linalg.qr(standardized.T)  # (F, min(F, n))
    weights, bias = _fit(standardized @ basis, labels, num_labels)
    return LinearClassifier(mean, scale, basis @ weights, bias)


def _fit(x: Scores, labels: Integers, num_labels: int) -> tuple[Scores, Scores]:
    """Fit weights (F, K) and bias (K,) to vectors (n, F)."""
    weights = np.zeros((x.shape[1], num_labels))
    bias = prior_logits(labels, num_labels)
    present = np.unique(labels)
    if len(present) > 1:
        # for two labels, scikit-learn penalizes the difference of their weights, so twice as much
        binary = len(present) == 2
        model = LogisticRegression(
            C=2 * C if binary else C, solver="newton-cg", tol=1e-8, max_iter=1000
        )
        model.fit(x, labels)
        coefficients, intercepts = model.coef_, model.intercept_  # (K or 1, F)
        if binary:
            coefficients = np.vstack([-coefficients, coefficients]) / 2
            intercepts = np.append(-intercepts, intercepts) / 2
        weights[:, present] = coefficients.T
        bias[present] = intercepts
    return weights, bias


def prior_logits(labels: Integers, num_labels: int) -> Scores:
    """Compute the logits (K,) of the label frequencies."""
    counts = np.bincount(labels, minlength=num_labels)
    frequencies = np.maximum(counts, MIN_PROBABILITY) / max(len(labels), 1)
    logits: Scores = np.log(frequencies)
    return logits


def pool_clips(pool: Callable[[ClipFeatures], Scores], clips: Sequence[ClipFeatures]) -> Scores:
    """Pool clips, (L, D) each, to vectors (n, F)."""
    return np.stack([pool(x) for x in clips])
