"""
Training loss of sequences with a label for each frame.

For each stage of the model: the cross-entropy of every frame, plus a smoothing term against
over-segmentation, the truncated squared difference of the log-probabilities of neighbouring steps
(Farha and Gall 2019, MS-TCN).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.temporal.loss import l1_norm
from pipeline.temporal.models import State, TemporalModel
from pipeline.temporal.options import TrainingOptions
from pipeline.temporal.sequences import IGNORED, SequenceBatch

MAX_DIFFERENCE = 4.0
"""Differences of log-probabilities are truncated here, so that true boundaries cost no more."""


@dataclass(frozen=True)
class SequenceLoss:
    """Cross-entropy of frames with class weights and label smoothing, smoothing, and L1."""

    options: TrainingOptions
    class_weights: Tensor
    """(K,); not used for multi-label, where it would make probabilities wrong."""

    def backward(self, model: TemporalModel, batch: SequenceBatch) -> tuple[float, float]:
        """
        Accumulate the gradient of the loss of a batch.

        Sequences longer than `unroll` are split into chunks, and the graph of one chunk is in
        memory at a time (truncated backpropagation through time). Streaming models carry their
        state, but no gradient, to the next chunk. Other models see each chunk as a sequence.

        Returns:
            The loss, and the share of targets that were predicted correctly.
        """
        multi_label = batch.targets.ndim == 3
        weight = batch.has_target.float() if multi_label else self._frame_weights(batch)
        weight = weight / weight.sum().clamp(min=1e-12)  # (N, L)
        # frames of one step have equal logits, so that a stride must not weaken the smoothing
        pairs = (batch.mask[:, 1:] & batch.mask[:, :-1]).sum().clamp(min=1) / model.options.stride
        total = correct = torch.zeros((), device=batch.x.device)
        for chunk, stages in self._chunks(model, batch):
            targets, mask = batch.targets[:, chunk], batch.mask[:, chunk]
            loss = torch.zeros((), device=batch.x.device)
            for logits in stages:
                loss = loss + (weight[:, chunk] * self._frame_losses(logits, targets)).sum()
                if self.options.smoothing:
                    between = mask[:, 1:] & mask[:, :-1]
                    rough = _roughness(logits, multi_label)[between].sum() / pairs
                    loss = loss + self.options.smoothing * rough
            loss.backward()  # type: ignore[no-untyped-call]
            total = total + loss.detach()
            correct = correct + _count_correct(stages[-1].detach(), targets, mask)
        if self.options.l1:
            penalty = self.options.l1 * l1_norm(model)
            penalty.backward()  # type: ignore[no-untyped-call]
            total = total + penalty.detach()
        return total.item(), correct.item() / max(1, int(batch.has_target.sum()))

    def _chunks(
        self, model: TemporalModel, batch: SequenceBatch
    ) -> Iterator[tuple[slice, list[Tensor]]]:
        """Run a model over the chunks of a batch. Yields the frames, and the logits by stage."""
        length, unroll = batch.x.shape[1], self.options.unroll
        state: State | None = None
        for start in range(0, length, unroll):
            chunk = slice(start, start + unroll)
            x, mask = batch.x[:, chunk], batch.mask[:, chunk]
            stages, after = model.stages(x, mask, state)
            state = after.detach() if model.streams else None
            yield chunk, stages

    def _frame_weights(self, batch: SequenceBatch) -> Tensor:
        """Give the class weight of each frame, (N, L); 0 without target."""
        weights = self.class_weights[batch.targets.clamp(min=0)]
        return torch.where(batch.has_target, weights, 0.0)

    def _frame_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the cross-entropy of each frame, (N, L); with multi-label, the mean of labels."""
        smoothing = self.options.label_smoothing
        if targets.ndim == 3:
            soft = targets * (1 - smoothing) + smoothing / 2
            losses = functional.binary_cross_entropy_with_logits(logits, soft, reduction="none")
            return losses.mean(2)
        return functional.cross_entropy(
            logits.transpose(1, 2),
            targets,
            reduction="none",
            label_smoothing=smoothing,
            ignore_index=IGNORED,
        )


def _roughness(logits: Tensor, multi_label: bool) -> Tensor:
    """Compute the mean truncated squared differences of log-probabilities, (N, L - 1)."""
    logs = functional.logsigmoid(logits) if multi_label else logits.log_softmax(2)
    # no gradient through the earlier frame, as in MS-TCN: it would only pull boundaries apart
    differences = (logs[:, 1:] - logs[:, :-1].detach()).abs().clamp(max=MAX_DIFFERENCE)
    return differences.square().mean(2)


def _count_correct(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Count correct frames; with multi-label, the share of labels that are correct in each."""
    if targets.ndim == 3:
        right = ((logits > 0) == (targets > 0.5)).float().mean(2)
        return (right * mask).sum()
    return ((logits.argmax(2) == targets) & mask).sum()
