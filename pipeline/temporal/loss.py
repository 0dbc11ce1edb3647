"""
What training makes small: how surprised a model is by the labels of clips and of frames.

Temporal models are small and compute in float32 whatever the device: reduced precision would win
nothing, and cuDNN runs their cells in float16 then, whose gradients vanish without being scaled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.temporal.batching import Batch
from pipeline.temporal.models import Logits, State, TemporalModel
from pipeline.temporal.options import TrainingOptions


@dataclass(frozen=True)
class Objective:
    """Cross-entropy with smoothed labels, weighted by label; and the L1 norm of the weights."""

    options: TrainingOptions
    weights: Tensor
    """Of the labels, (K,)."""

    def losses(self, model: TemporalModel, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
        """
        Give the parts of a batch's loss, each with the labels it says of the clips (N,).

        Call backward on each before asking for the next: clips longer than `unroll` are learned
        piece by piece, and only one piece is remembered at a time (truncated back-propagation
        through time). The state is carried on from piece to piece, the gradient is not. Models that
        need whole clips learn the pieces as clips of their own.
        """
        weight = self.weights[batch.labels]
        weight = weight / weight.sum()  # (N,)
        frames = batch.mask.sum(1).clamp(min=1)
        for mask, logits in self._pieces(model, batch):
            share = mask / frames.unsqueeze(1) * weight.unsqueeze(1)  # (N, L)
            loss = self._surprise(logits.clips, batch.labels, share.sum(1))
            if self.options.frame_weight:
                labels = batch.labels.unsqueeze(1).expand_as(mask).flatten()
                frame_loss = self._surprise(logits.frames.flatten(0, 1), labels, share.flatten())
                loss = loss + self.options.frame_weight * frame_loss
            yield loss, logits.clips.argmax(1)
        if self.options.l1:
            yield self.options.l1 * absolute_sum(model), logits.clips.argmax(1)

    def _pieces(self, model: TemporalModel, batch: Batch) -> Iterator[tuple[Tensor, Logits]]:
        """Run a model over pieces of a batch: which frames of each count (N, l), and its logits."""
        unroll = self.options.unroll
        whole = batch.x.shape[1] <= unroll
        state: State | None = None
        pieces = torch.split(batch.x, unroll, 1), torch.split(batch.mask, unroll, 1)
        for x, mask in zip(*pieces, strict=True):
            if whole or not model.streams:
                logits = model(x, mask)
            else:
                logits, state = model.stream(x, state or model.initial_state(len(x)), mask)
                state = state.detach()
            yield mask, logits

    def _surprise(self, logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        """Add up the cross-entropies of logits (n, K), each times its weight (n,)."""
        losses = functional.cross_entropy(
            logits, labels, reduction="none", label_smoothing=self.options.label_smoothing
        )
        return (losses * weight).sum()


def absolute_sum(model: nn.Module) -> Tensor:
    """Add up the absolute values of all weight matrices."""
    return torch.stack([p.abs().sum() for p in model.parameters() if p.ndim > 1]).sum()
