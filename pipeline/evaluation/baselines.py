"""
Linear models that a recurrent one must beat: they see the same features, but hardly their order.

    mean_over_time        what is there, not when
    change_pyramid        how much of what comes and goes, in the whole clip and in each third of it

Both are read by the same logistic regression. It has nothing to tune: its one number, `SLACK`, is
fixed here and not chosen by anybody's data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipeline.records import Integers
from pipeline.temporal.calibration import Scores

SLACK = 100.0
"""Weight of the loss of a clip against the squared length of the weights (C of other libraries)."""
STEPS = 200
"""Of L-BFGS at most; convex, and settled long before."""

Features = NDArray[np.float32]


def mean_over_time(x: Features) -> Scores:
    """Average the frames of a clip: (L, D) → (D,)."""
    return _signed_root(_mean(x))


def change_pyramid(x: Features) -> Scores:
    """
    Average what grows and what shrinks from frame to frame, in the whole clip and in its thirds.

    Args:
        x: (L, D).

    Returns:
        Signed square roots of the averages, (8 · D,); of a part without changes, zeros.
    """
    change = np.diff(x, axis=0)  # (L − 1, D)
    edges = [number * len(change) // 3 for number in range(4)]
    parts = [change, *(change[start:stop] for start, stop in pairwise(edges))]
    grown = [_mean(np.maximum(way * part, 0)) for part in parts for way in (1, -1)]
    return _signed_root(np.concatenate(grown))  # (8 · D,)


def _mean(x: Features) -> Scores:
    means: Scores = x.sum(0, dtype=np.float64) / max(len(x), 1)
    return means


def _signed_root(values: Scores) -> Scores:
    roots: Scores = np.sign(values) * np.sqrt(np.abs(values))
    return roots


BASELINES: Mapping[str, Callable[[Features], Scores]] = {
    "linear, mean over time": mean_over_time,
    "linear, pyramid of changes": change_pyramid,
}
"""How each baseline reads a clip of shape (L, D)."""


@dataclass(frozen=True)
class Linear:
    """A fitted logistic regression."""

    mean: Scores
    """(F,)."""
    scale: Scores
    """(F,)."""
    weights: Scores
    """(F, K)."""
    bias: Scores
    """(K,)."""

    def logits(self, vectors: Scores) -> Scores:
        """Label vectors (n, F): logits (n, K)."""
        logits: Scores = (vectors - self.mean) * self.scale @ self.weights + self.bias
        return logits


def fit_linear(vectors: Scores, labels: Integers, num_labels: int) -> Linear:
    """
    Fit a multinomial logistic regression with an L2 penalty, in float64.

    Vectors are standardized and scaled to a mean squared length of 1, so that `SLACK` means the
    same for every number of features.

    Args:
        vectors: (n, F).
        labels: (n,).
        num_labels: K.
    """
    mean, deviation = vectors.mean(0), vectors.std(0)
    varies = deviation > 1e-9 * np.abs(vectors).max(initial=0.0)
    scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=varies)
    scale /= np.sqrt(max(int(varies.sum()), 1))
    prepared = (vectors - mean) * scale
    # the best weights lie in the span of the clips: far fewer numbers than features
    basis, _ = np.linalg.qr(prepared.T)  # (F, min(F, n))
    inner, bias = _minimize(prepared @ basis, labels, num_labels)
    return Linear(mean, scale, basis @ inner, bias)


def _minimize(x: Scores, labels: Integers, num_labels: int) -> tuple[Scores, Scores]:
    """Find weights (F, K) and bias (K,)."""
    given, wanted = torch.from_numpy(x), torch.from_numpy(labels)
    weights = torch.zeros(x.shape[1], num_labels, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_labels, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights, bias], max_iter=STEPS, tolerance_grad=1e-7, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        miss = cross_entropy(given @ weights + bias, wanted, reduction="sum")
        total = SLACK * miss + weights.square().sum() / 2
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach().numpy(), bias.detach().numpy()


def prior_logits(labels: Integers, num_labels: int) -> Scores:
    """Give the logits (K,) of somebody who knows how frequent labels are, and nothing else."""
    counts = np.bincount(labels, minlength=num_labels)
    logits: Scores = np.log(np.maximum(counts, 1e-9) / max(len(labels), 1))
    return logits


def read_clips(read: Callable[[Features], Scores], clips: Sequence[Features]) -> Scores:
    """Read clips, (L, D) each, as vectors (n, F)."""
    return np.stack([read(x) for x in clips])
