"""
Train the last blocks of a backbone together with the temporal model that reads it.

As in the training before, chance is drawn anew from the seed and the number of the epoch: one that
is interrupted goes on exactly as it would have, and two on one CPU agree bit for bit.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.encode.backbone import hash_weights, network_of
from pipeline.temporal.augment import jitter
from pipeline.temporal.batching import Batch, Example, collate, shuffled_batches
from pipeline.temporal.calibration import fit_temperature
from pipeline.temporal.checkpoint import (
    Checkpoint,
    load_checkpoint,
    moments_of,
    restore_moments,
    save_checkpoint,
)
from pipeline.temporal.loss import Objective
from pipeline.temporal.schedule import Patience, class_weights, learning_rate
from pipeline.temporal.trainer import (
    Epoch,
    Measured,
    OnEpoch,
    Steps,
    choose_device,
    clip_gradient,
    copied,
    decayed,
    epoch_seed,
    measure,
    own_chance,
    predict,
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
    key = lesson.key
    with own_chance(lesson.training):
        tuner = Tuner(lesson)
        tuner.begin(load_checkpoint(checkpoint, key) if checkpoint else None)
        while not tuner.done:
            epoch = tuner.run_epoch()
            if checkpoint is not None:
                save_checkpoint(tuner.checkpoint(key), checkpoint)
            if on_epoch is not None:
                on_epoch(epoch)
    return tuner.result()


class Tuner:
    """One training: backbone, model, optimizer, and how far it has come."""

    def __init__(self, lesson: TuningLesson) -> None:
        self.lesson, self.tuning = lesson, lesson.tuning
        self.options = lesson.tuning.steps(lesson.training)
        self.device = choose_device(self.options)
        self.backbone = copy.deepcopy(lesson.backbone)
        self.blocks = free_last(self.backbone, self.tuning.blocks)
        self.backbone.module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = copy.deepcopy(lesson.model).to(self.device)
        self.encoder = ClipEncoder(self.backbone, lesson.cache, self.options, self.tuning.chunk)
        self.optimizer = torch.optim.AdamW(self._groups())
        labels = [example.label for example in lesson.examples]
        weights = class_weights(labels, self.model.num_labels, balanced=self.options.balanced)
        self.objective = Objective(self.options, weights.to(self.device))
        self.patience = Patience(self.options.patience)
        self.before: Measured = (None, None)
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] = {}

    def _groups(self) -> list[dict[str, Any]]:
        """Give what learns, in groups with the share of the learning rate that each has."""
        shares = ((self.model.parameters(), 1.0), (self._freed(), self.tuning.backbone_rate))
        return [
            {**group, "share": share}
            for parameters, share in shares
            for group in decayed(parameters, self.options.weight_decay)
            if group["params"]
        ]

    def _freed(self) -> Iterator[nn.Parameter]:
        return (p for p in self.backbone.module.parameters() if p.requires_grad)

    def begin(self, checkpoint: Checkpoint | None) -> None:
        """Take up a training where it was left; None begins it."""
        if checkpoint is None:
            self.before = self._measure()
        else:
            self.before = tuple(checkpoint.progress["before"])
            self.history = [Epoch(**said) for said in checkpoint.progress["history"]]
            self.best = checkpoint.tensors.get("best", {})
            self._load(checkpoint.tensors["learned"])
            restore_moments(self.optimizer, checkpoint.tensors["optimizer"])
        for loss in (self.before[0], *(epoch.validation_loss for epoch in self.history)):
            if loss is not None:
                self.patience.better(loss)

    @property
    def done(self) -> bool:
        """Whether there is no epoch to come."""
        return len(self.history) >= self.options.epochs or self.patience.over

    def run_epoch(self) -> Epoch:
        """Learn from every clip once, and measure on those held back."""
        seed = epoch_seed(self.options, len(self.history))
        torch.manual_seed(seed)  # of dropout
        steps = Steps(self.options.clip_norm)
        for looks in self._batches(torch.Generator().manual_seed(seed)):
            steps.add(*self._step(looks), len(looks))
        measured = self._measure()
        epoch = steps.epoch(len(self.history) + 1, self.optimizer.param_groups[0]["lr"], measured)
        self.history.append(epoch)
        if measured[0] is not None and self.patience.better(measured[0]):
            self.best = copied(self._learned())
        return epoch

    def _measure(self) -> Measured:
        if not self.lesson.validation:
            return None, None
        return measure(self.model, self.encoder.encoded(self.lesson.validation))

    def _batches(self, generator: torch.Generator) -> Iterator[list[Look]]:
        """Draw the clips of each step, and set its learning rate."""
        clips = self.lesson.examples
        numbers = list(shuffled_batches(clips, self.options.batch_size, generator))
        before, total = len(self.history) * len(numbers), self.options.epochs * len(numbers)
        for step, batch in enumerate(numbers, start=before):
            rate = self.options.learning_rate
            rate *= learning_rate(step, total, self.options.warm_up)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group["share"]
            yield self._drawn([clips[number] for number in batch], generator)

    def _drawn(self, examples: Sequence[Example], generator: torch.Generator) -> list[Look]:
        """Leave to chance what of clips counts, what of that is learned from, and how it looks."""
        masks = jitter(collate(examples).mask, self.options, generator)
        learned = choose_frames(masks, self.tuning.frames, generator)
        looks = []
        for example, mask, chosen in zip(examples, masks, learned, strict=True):
            frames = slice(len(example.counts))
            view = draw_view(
                self.lesson.cache.size, self.tuning, generator, mirror=self.lesson.mirror
            )
            looks.append(Look(example, mask[frames], chosen[frames], view))
        return looks

    def _step(self, looks: Sequence[Look]) -> tuple[float, int, float]:
        """Take one step. Returns its loss, how many clips were right, and the gradient norm."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        x = self.encoder.encode(looks)  # (N, L, D)
        # long clips are learned piece by piece: gradients meet here before they go further back
        meeting = x.detach().requires_grad_()
        batch = self._batch(looks, meeting)
        total, said = 0.0, batch.labels
        for loss, said in self.objective.losses(self.model, batch):  # noqa: B007 (the last counts)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        x.backward(meeting.grad)  # type: ignore[no-untyped-call]
        learned = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = clip_gradient(learned, self.options)
        self.optimizer.step()
        return total, int((said == batch.labels).sum()), norm

    def _batch(self, looks: Sequence[Look], x: Tensor) -> Batch:
        mask = nn.utils.rnn.pad_sequence([look.mask for look in looks], batch_first=True)
        labels = torch.tensor([look.example.label for look in looks])
        return Batch(x, mask.to(self.device), labels.to(self.device))

    def _learned(self) -> dict[str, Tensor]:
        """Give all that changes: the temporal model, and the blocks of the backbone."""
        network = network_of(self.backbone)
        blocks = {f"network.{n}": p for n, p in network.named_parameters() if p.requires_grad}
        return {f"model.{n}": t for n, t in self.model.state_dict().items()} | blocks

    @torch.no_grad()
    def _load(self, learned: dict[str, Tensor]) -> None:
        for name, tensor in self._learned().items():
            tensor.copy_(learned[name])

    def checkpoint(self, key: str) -> Checkpoint:
        """Give what `begin` needs."""
        history = [dataclasses.asdict(epoch) for epoch in self.history]
        tensors = {"learned": self._learned(), "best": self.best}
        return Checkpoint(
            key,
            {"before": self.before, "history": history},
            {**tensors, "optimizer": moments_of(self.optimizer)},
        )

    def result(self) -> Tuned:
        """Give what was best, calibrated on the clips held back."""
        if self.best:
            self._load(self.best)
        self.model.eval()
        temperature = 1.0
        if self.lesson.validation:
            held = self.encoder.encoded(self.lesson.validation)
            labels = np.array([example.label for example in held])
            temperature = fit_temperature(predict(self.model, held), labels)
        self.backbone.module.cpu()
        return Tuned(
            backbone=replace(self.backbone, weights_hash=hash_weights(network_of(self.backbone))),
            model=self.model.cpu(),
            temperature=temperature,
            blocks=tuple(self.blocks),
            before=self.before,
            history=tuple(self.history),
        )
