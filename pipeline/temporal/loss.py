"""
Training loss: weighted, label-smoothed cross-entropy of clips and frames, plus L1.

Temporal models are trained in float32 on every device: they are small, so reduced precision would
not be faster, and cuDNN would run their cells in float16, which needs loss scaling.
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
class TrainingLoss:
    """Cross-entropy with class weights and label smoothing, and the L1 norm of the weights."""

    options: TrainingOptions
    class_weights: Tensor
    """(K,)."""

    def backward(self, model: TemporalModel, batch: Batch) -> tuple[float, int]:
        """
        Accumulate the gradient of the loss of a batch.

        Clips longer than `unroll` are split into chunks, and the graph of one chunk is in memory at
        a time (truncated backpropagation through time). Streaming models carry their state, but no
        gradient, to the next chunk. Other models see each chunk as a clip of its own.

        Returns:
            The loss, and the number of clips whose label was predicted correctly.
        """
        total, scores = 0.0, torch.zeros(len(batch.labels), model.num_labels, device=batch.x.device)
        for loss, scores in self._chunk_losses(model, batch):  # noqa: B007 (the last is used)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        if self.options.l1:
            penalty = self.options.l1 * l1_norm(model)
            penalty.backward()  # type: ignore[no-untyped-call]
            total += penalty.item()
        return total, int((scores.argmax(1) == batch.labels).sum())

    def _chunk_losses(self, model: TemporalModel, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the loss of each chunk, and the scores of the clips (N, K) up to its end."""
        weight = self.class_weights[batch.labels]
        weight = weight / weight.sum()  # (N,)
        lengths = batch.mask.sum(1).clamp(min=1)
        cumulative = model.streams or batch.x.shape[1] <= self.options.unroll
        scores: Tensor | None = None
        for mask, logits in self._chunks(model, batch):
            share = mask / lengths.unsqueeze(1)  # (N, l)
            frame_weight = share * weight.unsqueeze(1)
            loss = self._cross_entropy(logits.clips, batch.labels, frame_weight.sum(1))
            if self.options.frame_weight:
                labels = batch.labels.unsqueeze(1).expand_as(mask).flatten()
                frame_loss = self._cross_entropy(
                    logits.frames.flatten(0, 1), labels, frame_weight.flatten()
                )
                loss = loss + self.options.frame_weight * frame_loss
            if cumulative:
                scores = logits.clips.detach()
            else:  # mean over chunks, weighted by frames: a chunk of padding has no influence
                chunk = share.sum(1, keepdim=True) * logits.clips.detach().softmax(1)
                scores = chunk if scores is None else scores + chunk
            yield loss, scores

    def _chunks(self, model: TemporalModel, batch: Batch) -> Iterator[tuple[Tensor, Logits]]:
        """Run a model over the chunks of a batch. Yields the mask (N, l) and logits of each."""
        unroll = self.options.unroll
        whole = batch.x.shape[1] <= unroll
        state: State | None = None
        chunks = torch.split(batch.x, unroll, 1), torch.split(batch.mask, unroll, 1)
        for x, mask in zip(*chunks, strict=True):
            if whole or not model.streams:
                logits = model(x, mask, standardized=batch.standardized)
            else:
                start = state or model.initial_state(len(x))
                logits, state = model.stream(x, start, mask, standardized=batch.standardized)
                state = state.detach()
            yield mask, logits

    def _cross_entropy(self, logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        """Sum the cross-entropies of logits (n, K), each multiplied by its weight (n,)."""
        losses = functional.cross_entropy(
            logits, labels, reduction="none", label_smoothing=self.options.label_smoothing
        )
        return (losses * weight).sum()


def l1_norm(model: nn.Module) -> Tensor:
    """Sum the absolute values of all weight matrices."""
    return torch.stack([p.abs().sum() for p in model.parameters() if p.ndim > 1]).sum()
