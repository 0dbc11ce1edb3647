"""
Training loss of sequences with a label for each frame.

For each stage of the model: the cross-entropy of every step, plus a smoothing term against
over-segmentation, the truncated squared difference of the log-probabilities of neighbouring steps
(Farha and Gall 2019, MS-TCN).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.temporal.loss import l1_norm
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import TrainingOptions
from pipeline.temporal.sequence_steps import StepBatch
from pipeline.temporal.sequences import IGNORED

MAX_DIFFERENCE = 4.0
"""Differences of log-probabilities are truncated here, so that true boundaries cost no more."""


@dataclass(frozen=True)
class SequenceLoss:
    """Cross-entropy of steps with class weights and label smoothing, smoothing, and L1."""

    options: TrainingOptions
    class_weights: Tensor
    """(K,); not used for multi-label, where it would make probabilities wrong."""

    def backward(self, model: TemporalModel, batch: StepBatch) -> tuple[float, float]:
        """
        Accumulate the gradient of the loss of a batch.

        Sequences longer than `unroll` frames are split into chunks, and the graph of one chunk is
        in memory at a time (truncated backpropagation through time). Streaming models carry their
        state, but no gradient, to the next chunk. Other models see each chunk as a sequence.

        Returns:
            The loss, and the share of targets that were predicted correctly.
        """
        weight = self._weights(batch)
        weight = weight / weight.sum().clamp(min=1e-12)  # (N, L)
        pairs = (batch.lengths - 1).clamp(min=0).sum().clamp(min=1)
        total = correct = torch.zeros((), device=batch.x.device)
        for chunk, valid, stages in self._chunks(model, batch):
            targets = batch.targets[:, chunk]
            loss = torch.zeros((), device=batch.x.device)
            for logits in stages:
                loss = loss + (weight[:, chunk] * self._losses(logits, targets)).sum()
                if self.options.smoothing:
                    rough = _roughness(logits, batch.multi_label)[valid[:, 1:]].sum() / pairs
                    loss = loss + self.options.smoothing * rough
            loss.backward()  # type: ignore[no-untyped-call]
            total = total + loss.detach()
            found = _correct(stages[-1].detach(), targets) * batch.has_target[:, chunk]
            correct = correct + found.sum()
        if self.options.l1:
            penalty = self.options.l1 * l1_norm(model)
            penalty.backward()  # type: ignore[no-untyped-call]
            total = total + penalty.detach()
        return total.item(), correct.item() / max(1, int(batch.has_target.sum()))

    @torch.no_grad()
    def evaluate(self, model: TemporalModel, batch: StepBatch) -> tuple[float, float]:
        """Compute the mean negative log-likelihood of the targets, in nats, and the accuracy."""
        state = model.initial_state(len(batch.x))
        logits = model.stages(batch.x, batch.lengths, state)[0][-1]
        plain = SequenceLoss(replace(self.options, label_smoothing=0), self.class_weights)
        valid = batch.has_target
        losses = plain._losses(logits, batch.targets)[valid]
        return losses.mean().item(), _correct(logits, batch.targets)[valid].mean().item()

    def _chunks(
        self, model: TemporalModel, batch: StepBatch
    ) -> Iterator[tuple[slice, Tensor, list[Tensor]]]:
        """Run a model over chunks. Yields the steps, whether each is valid, logits by stage."""
        length = batch.x.shape[1]
        size = max(1, self.options.unroll // model.options.stride)
        first = state = model.initial_state(len(batch.x))
        for start in range(0, length, size):
            chunk = slice(start, start + size)
            x = batch.x[:, chunk]
            lengths = (batch.lengths - start).clamp(0, x.shape[1])
            valid = torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(1)
            stages, after = model.stages(x, lengths, state)
            state = after.detach() if model.streams else first
            yield chunk, valid, stages

    def _weights(self, batch: StepBatch) -> Tensor:
        """Give the weight of each step in the loss, (N, L); 0 without target."""
        if batch.multi_label:
            return batch.has_target.float()
        weights = self.class_weights[batch.targets.clamp(min=0)]
        return torch.where(batch.has_target, weights, 0.0)

    def _losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the cross-entropy of each step, (N, L); with multi-label, the mean of labels."""
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


def _correct(logits: Tensor, targets: Tensor) -> Tensor:
    """Tell which steps are correct, (N, L); with multi-label, the share of labels that are."""
    if targets.ndim == 3:
        return ((logits > 0) == (targets > 0.5)).float().mean(2)
    return (logits.argmax(2) == targets).float()
