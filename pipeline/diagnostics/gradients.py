"""
Gradients by lag: how much the loss of the last frame depends on each frame before it.

L_T is the cross-entropy of the last frame. The norm of its gradient with respect to the features of
the frame k steps before measures the influence of that frame: it decays or grows exponentially with
k in a plain RNN, while gates and attention preserve it. Everything is computed in float64, in which
a gradient of 1e-200 is not yet 0.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipeline.records import Integers
from pipeline.temporal.batching import Batch, Example, batches_by_length, collate
from pipeline.temporal.models import TemporalModel, move_valid_to_front

BATCH_SIZE = 16


@dataclass(frozen=True)
class GradientByLag:
    """Norms of gradients with respect to the features of earlier frames."""

    norms: NDArray[np.float64]
    """‖∂L_T/∂x_{T−k}‖ for k = 0, 1, …, a mean over sequences. x is in standard deviations, after
    the signed square root if the model takes it."""
    sequences: Integers
    """Number of sequences that are long enough for each lag."""

    @cached_property
    def relative(self) -> NDArray[np.float64]:
        """Norms as shares of the greatest."""
        return self.norms / max(float(self.norms.max(initial=0)), np.finfo(np.float64).tiny)

    @property
    def effective_memory(self) -> float:
        """
        The mean lag in frames, weighted by gradient norm.

        It is 0 if only the last frame has influence, half the length if all frames have the same,
        and k if only the frame k steps before has.
        """
        return float((self.relative * np.arange(len(self.norms))).sum() / self.relative.sum())


def without_signed_sqrt(
    model: TemporalModel, examples: Sequence[Example]
) -> tuple[TemporalModel, list[Example]]:
    """
    Copy a model in float64, and move its signed square root from the model to the examples.

    The derivative of the square root is infinite at 0, so gradients are taken after it.
    """
    exact = copy.deepcopy(model).double().eval().requires_grad_(False)
    exact.inputs.options = replace(exact.inputs.options, signed_root=False)
    roots = [
        replace(
            example, features=model.inputs.signed_sqrt(torch.from_numpy(example.features)).numpy()
        )
        for example in examples
    ]
    return exact, roots


def measure_gradients(model: TemporalModel, examples: Sequence[Example]) -> GradientByLag:
    """Measure the gradients of a model in float64 from `without_signed_sqrt`."""
    longest = max(int(example.mask.sum()) for example in examples)
    total, count = np.zeros(longest), np.zeros(longest, np.int64)
    for batch in compact_batches(examples, model):
        norms, lengths = _gradient_norms(model, batch)
        for row, length in zip(norms, lengths.tolist(), strict=True):
            total[:length] += row[:length].flip(0).numpy()  # the last frame first
            count[:length] += 1
    return GradientByLag(total / np.maximum(count, 1), count)


def compact_batches(examples: Sequence[Example], model: TemporalModel) -> Iterator[Batch]:
    """Yield batches in the dtype of a model, with valid frames first."""
    dtype = model.head.weight.dtype
    for numbers in batches_by_length(examples, BATCH_SIZE):
        batch = collate([examples[number] for number in numbers])
        moved, lengths = move_valid_to_front(batch.x.to(dtype), batch.mask)
        mask = torch.arange(moved.shape[1]) < lengths.unsqueeze(1)
        yield Batch(moved, mask, batch.labels)


def _gradient_norms(model: TemporalModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Give the norms by frame (N, L), and the number of valid frames (N,)."""
    x = batch.x.clone().requires_grad_()
    frames = model(x, batch.mask).frames  # (N, L, K); padding repeats the last valid frame
    loss = functional.cross_entropy(frames[:, -1], batch.labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    scale = model.inputs.scale
    std = torch.where(scale > 0, 1 / scale, 0)  # (D,), 0 for constant features
    return (gradient * std).norm(dim=2), batch.mask.sum(1)
