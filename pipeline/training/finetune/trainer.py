"""
Train the last blocks of a backbone together with the temporal model that reads it.

As in the training before, chance is drawn anew from the seed and the number of the epoch: one that
is interrupted goes on exactly as it would have, and two on one CPU agree bit for bit.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.encode.backbone import hash_weights
from pipeline.temporal.augment import augment_mask
from pipeline.temporal.batching import Batch, Example, collate
from pipeline.temporal.calibration import fit_temperature
from pipeline.temporal.checkpoint import Checkpoint, optimizer_tensors, restore_optimizer
from pipeline.temporal.loss import TrainingLoss
from pipeline.temporal.schedule import class_weights
from pipeline.temporal.trainer import loss_and_accuracy, predict
from pipeline.temporal.training_loop import (
    Epoch,
    EpochTotals,
    OnEpoch,
    TrainingProgress,
    Validation,
    clip_gradient,
    isolated_rng,
    parameter_groups,
    run_training,
    training_device,
)
from pipeline.training.finetune.augment import choose_frames, draw_view
from pipeline.training.finetune.blocks import free_last
from pipeline.training.finetune.encoder import ClipEncoder, Look
from pipeline.training.finetune.lesson import Tuned, TuningLesson


def tune(
    lesson: TuningLesson, *, on_epoch: OnEpoch | None = None, checkpoint: Path | None = None
) -> Tuned:
    """
    Train backbone and temporal model together.

    Args:
        lesson: what is learned.
        on_epoch: told of each epoch.
        checkpoint: file that is written after each epoch, and gone on from where it is of this very
            training.

    Returns:
        What was best on the clips held back, or the last where none were.

    Raises:
        OptionError: the backbone has fewer blocks, or none, or training diverged.
    """
    with isolated_rng(lesson.training):
        tuner = Tuner(lesson)
        run_training(tuner, lesson.key, on_epoch, checkpoint)
    return tuner.result()


class Tuner:
    """One training: backbone, model, optimizer, and how far it has come."""

    def __init__(self, lesson: TuningLesson) -> None:
        self.lesson, self.tuning = lesson, lesson.tuning
        self.options = lesson.tuning.steps(lesson.training)
        self.device = training_device(self.options)
        self.backbone = copy.deepcopy(lesson.backbone)
        self.blocks = free_last(self.backbone, self.tuning.blocks)
        self.backbone.module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = copy.deepcopy(lesson.model).to(self.device)
        self.encoder = ClipEncoder(self.backbone, lesson.cache, self.options, self.tuning.chunk)
        self.optimizer = torch.optim.AdamW(self._groups())
        labels = [example.label for example in lesson.examples]
        weights = class_weights(labels, self.model.num_labels, balanced=self.options.balanced)
        self.loss = TrainingLoss(self.options, weights.to(self.device))
        self.progress = TrainingProgress(self.options, self.optimizer)
        self.before: Validation = (None, None)

    def _groups(self) -> list[dict[str, Any]]:
        """Give what learns, in groups with the share of the learning rate that each has."""
        shares = ((self.model.parameters(), 1.0), (self._freed(), self.tuning.backbone_rate))
        return [
            {**group, "rate_factor": share}
            for parameters, share in shares
            for group in parameter_groups(parameters, self.options.weight_decay)
            if group["params"]
        ]

    def _freed(self) -> Iterator[nn.Parameter]:
        return (p for p in self.backbone.module.parameters() if p.requires_grad)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Resume from a checkpoint."""
        self._set_before(tuple(checkpoint.progress["before"]))
        best = checkpoint.tensors.get("best", {})
        self.progress.restore(checkpoint.progress["history"], best)
        self._load(checkpoint.tensors["learned"])
        restore_optimizer(self.optimizer, checkpoint.tensors["optimizer"])

    def _set_before(self, validation: Validation) -> None:
        """Note the validation metrics before the first epoch: early stopping compares with them."""
        self.before = validation
        if validation[0] is not None:
            self.progress.early_stopping.update(validation[0])

    @property
    def done(self) -> bool:
        """Whether no epoch is left."""
        return self.progress.done

    def run_epoch(self) -> Epoch:
        """Train on every clip once, and measure the validation loss."""
        if not self.progress.history:
            self._set_before(self._validate())
        generator = self.progress.seed_epoch()
        totals = EpochTotals()
        for examples in self.progress.batches(self.lesson.examples, generator):
            totals.add(*self._step(self._drawn(examples, generator)), len(examples))
        return self.progress.finish_epoch(totals, self._validate(), self._learned())

    def _validate(self) -> Validation:
        if not self.lesson.validation:
            return None, None
        return loss_and_accuracy(self.model, self.encoder.encoded(self.lesson.validation))

    def _drawn(self, examples: Sequence[Example], generator: torch.Generator) -> list[Look]:
        """Leave to chance what of clips counts, what of that is learned from, and how it looks."""
        masks = augment_mask(collate(examples).mask, self.options, generator)
        learned = choose_frames(masks, self.tuning.frames, generator)
        looks = []
        for example, mask, chosen in zip(examples, masks, learned, strict=True):
            frames = slice(len(example.mask))
            view = draw_view(
                self.lesson.cache.size, self.tuning, generator, mirror=self.lesson.mirror
            )
            looks.append(Look(example, mask[frames], chosen[frames], view))
        return looks

    def _step(self, looks: Sequence[Look]) -> tuple[float, int, float]:
        """Run one step. Returns the loss, the number of correct clips, and the gradient norm."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        x = self.encoder.encode(looks)  # (N, L, D)
        # long clips are learned piece by piece: gradients meet here before they go further back
        meeting = x.detach().requires_grad_()
        batch = self._batch(looks, meeting)
        loss, correct = self.loss.backward(self.model, batch)
        x.backward(meeting.grad)  # type: ignore[no-untyped-call]
        learned = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = clip_gradient(learned, self.options)
        self.optimizer.step()
        return loss, correct, norm

    def _batch(self, looks: Sequence[Look], x: Tensor) -> Batch:
        mask = nn.utils.rnn.pad_sequence([look.mask for look in looks], batch_first=True)
        labels = torch.tensor([look.example.label for look in looks])
        return Batch(x, mask.to(self.device), labels.to(self.device))

    def _learned(self) -> dict[str, Tensor]:
        """Give all that changes: the temporal model, and the blocks of the backbone."""
        network = self.backbone.network
        blocks = {f"network.{n}": p for n, p in network.named_parameters() if p.requires_grad}
        return {f"model.{n}": t for n, t in self.model.state_dict().items()} | blocks

    @torch.no_grad()
    def _load(self, learned: dict[str, Tensor]) -> None:
        for name, tensor in self._learned().items():
            tensor.copy_(learned[name])

    def checkpoint(self, key: str) -> Checkpoint:
        """Give the state to resume from."""
        tensors = {"learned": self._learned(), "best": self.progress.best}
        return Checkpoint(
            key,
            {"before": self.before, "history": self.progress.history_as_json()},
            {**tensors, "optimizer": optimizer_tensors(self.optimizer)},
        )

    def result(self) -> Tuned:
        """Give what was best, calibrated on the clips held back."""
        if self.progress.best:
            self._load(self.progress.best)
        self.model.eval()
        temperature = 1.0
        if self.lesson.validation:
            held = self.encoder.encoded(self.lesson.validation)
            labels = np.array([example.label for example in held])
            temperature = fit_temperature(predict(self.model, held), labels)
        self.backbone.module.cpu()
        return Tuned(
            backbone=replace(self.backbone, weights_hash=hash_weights(self.backbone.network)),
            model=self.model.cpu(),
            temperature=temperature,
            blocks=tuple(self.blocks),
            before=self.before,
            history=tuple(self.progress.history),
        )
