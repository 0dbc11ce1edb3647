"""
Train the last blocks of a backbone together with the temporal model.

All random numbers of an epoch derive from the seed and the number of the epoch, as in the training
of temporal models: an interrupted training resumes exactly, and results on one CPU are
reproducible bit for bit.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from pipeline.config import fingerprint
from pipeline.encode.backbone import Backbone, hash_weights
from pipeline.temporal.augment import augment_mask
from pipeline.temporal.batching import Batch, Example, collate, hash_examples
from pipeline.temporal.calibration import fit_temperature
from pipeline.temporal.checkpoint import Checkpoint, optimizer_tensors, restore_optimizer
from pipeline.temporal.loss import TrainingLoss
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import TrainingOptions
from pipeline.temporal.schedule import class_weights
from pipeline.temporal.trainer import loss_and_accuracy, predict
from pipeline.temporal.training_loop import (
    Epoch,
    EpochTotals,
    OnEpoch,
    TrainingProgress,
    Validation,
    best_epoch,
    clip_gradient,
    isolated_rng,
    parameter_groups,
    run_training,
    training_device,
)
from pipeline.training.finetune.augment import choose_frames, sample_params
from pipeline.training.finetune.blocks import Block, unfreeze_last
from pipeline.training.finetune.encoder import ClipEncoder, ClipSample
from pipeline.training.finetune.frame_cache import FrameCache
from pipeline.training.finetune.options import TuningOptions


@dataclass(frozen=True)
class FinetuneTask:
    """Examples, models and options of one fine-tuning."""

    examples: Sequence[Example]
    validation: Sequence[Example]
    backbone: Backbone
    model: TemporalModel
    """Trained on features of this backbone. Neither is modified."""
    cache: FrameCache
    tuning: TuningOptions
    training: TrainingOptions
    """Of the training before."""
    mirror: bool
    """Whether clips may be mirrored."""

    @property
    def key(self) -> str:
        """Fingerprint of examples, models and options."""
        return fingerprint(
            self.tuning,
            self.training,
            self.mirror,
            self.backbone.identity,
            self.cache.folder.name,
            hash_weights(self.model),
            hash_examples(self.examples, self.validation),
        )


@dataclass(frozen=True)
class FinetuneResult:
    """A fine-tuned backbone with its temporal model, both on the CPU."""

    backbone: Backbone
    model: TemporalModel
    temperature: float
    blocks: tuple[Block, ...]
    """That were fine-tuned."""
    before: Validation
    history: tuple[Epoch, ...]

    @property
    def best(self) -> Epoch:
        """The epoch with the lowest validation loss, or the last without a validation set."""
        return best_epoch(self.history)

    @property
    def improved(self) -> bool:
        """Whether the validation loss became lower; also true without a validation set."""
        before, after = self.before[0], self.best.validation_loss
        return before is None or after is None or after < before


def run_finetune(
    task: FinetuneTask, *, on_epoch: OnEpoch | None = None, checkpoint: Path | None = None
) -> FinetuneResult:
    """
    Train backbone and temporal model together.

    Args:
        task: what to train.
        on_epoch: called after each epoch.
        checkpoint: file that is written after each epoch; the same training resumes from it.

    Returns:
        The weights with the lowest validation loss, or the last without a validation set.

    Raises:
        OptionError: the backbone has too few blocks, or training diverged.
    """
    with isolated_rng(task.training):
        trainer = FinetuneTrainer(task)
        run_training(trainer, task.key, on_epoch, checkpoint)
    return trainer.result()


class FinetuneTrainer:
    """One fine-tuning: backbone, model, optimizer, and progress."""

    def __init__(self, task: FinetuneTask) -> None:
        self.task, self.tuning = task, task.tuning
        self.options = task.tuning.steps(task.training)
        self.device = training_device(self.options)
        self.backbone = copy.deepcopy(task.backbone)
        self.blocks = unfreeze_last(self.backbone, self.tuning.blocks)
        self.backbone.module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = copy.deepcopy(task.model).to(self.device)
        self.encoder = ClipEncoder(self.backbone, task.cache, self.options, self.tuning.chunk)
        self.optimizer = torch.optim.AdamW(self._parameter_groups())
        labels = [example.label for example in task.examples]
        weights = class_weights(labels, self.model.num_labels, balanced=self.options.balanced)
        self.loss = TrainingLoss(self.options, weights.to(self.device))
        self.progress = TrainingProgress(self.options, self.optimizer)
        self.before: Validation = (None, None)

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """Give the trained parameters, in groups with a factor of the learning rate."""
        trained = ((self.model.parameters(), 1.0), (self._unfrozen(), self.tuning.backbone_rate))
        return [
            {**group, "rate_factor": factor}
            for parameters, factor in trained
            for group in parameter_groups(parameters, self.options.weight_decay)
            if group["params"]
        ]

    def _unfrozen(self) -> Iterator[nn.Parameter]:
        return (p for p in self.backbone.module.parameters() if p.requires_grad)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Resume from a checkpoint."""
        self._set_before(tuple(checkpoint.progress["before"]))
        best = checkpoint.tensors.get("best", {})
        self.progress.restore(checkpoint.progress["history"], best)
        self._load(checkpoint.tensors["learned"])
        restore_optimizer(self.optimizer, checkpoint.tensors["optimizer"])

    def _set_before(self, validation: Validation) -> None:
        """Set the validation metrics before the first epoch; early stopping compares with them."""
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
        for examples in self.progress.batches(self.task.examples, generator):
            totals.add(*self._step(self._sample(examples, generator)), len(examples))
        return self.progress.finish_epoch(totals, self._validate(), self._trained())

    def _validate(self) -> Validation:
        if not self.task.validation:
            return None, None
        return loss_and_accuracy(self.model, self.encoder.encode_examples(self.task.validation))

    def _sample(self, examples: Sequence[Example], generator: torch.Generator) -> list[ClipSample]:
        """Sample masks, frames with gradients, and augmentation of clips."""
        masks = augment_mask(collate(examples).mask, self.options, generator)
        trained = choose_frames(masks, self.tuning.frames, generator)
        samples = []
        for example, mask, chosen in zip(examples, masks, trained, strict=True):
            frames = slice(len(example.mask))
            params = sample_params(
                self.task.cache.size, self.tuning, generator, mirror=self.task.mirror
            )
            samples.append(ClipSample(example, mask[frames], chosen[frames], params))
        return samples

    def _step(self, samples: Sequence[ClipSample]) -> tuple[float, int, float]:
        """Run one step. Returns the loss, the number of correct clips, and the gradient norm."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        x = self.encoder.encode(samples)  # (N, L, D)
        # long clips are trained chunk by chunk, so gradients are collected before the backbone
        features = x.detach().requires_grad_()
        loss, correct = self.loss.backward(self.model, self._batch(samples, features))
        x.backward(features.grad)  # type: ignore[no-untyped-call]
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = clip_gradient(trained, self.options)
        self.optimizer.step()
        return loss, correct, norm

    def _batch(self, samples: Sequence[ClipSample], x: Tensor) -> Batch:
        mask = pad_sequence([sample.mask for sample in samples], batch_first=True)
        labels = torch.tensor([sample.example.label for sample in samples])
        return Batch(x, mask.to(self.device), labels.to(self.device))

    def _trained(self) -> dict[str, Tensor]:
        """Give all trained tensors: those of the temporal model and of the unfrozen blocks."""
        network = self.backbone.network
        blocks = {f"network.{n}": p for n, p in network.named_parameters() if p.requires_grad}
        return {f"model.{n}": t for n, t in self.model.state_dict().items()} | blocks

    @torch.no_grad()
    def _load(self, tensors: dict[str, Tensor]) -> None:
        for name, tensor in self._trained().items():
            tensor.copy_(tensors[name])

    def checkpoint(self, key: str) -> Checkpoint:
        """Give the state to resume from."""
        tensors = {"learned": self._trained(), "best": self.progress.best}
        return Checkpoint(
            key,
            {"before": self.before, "history": self.progress.history_as_json()},
            {**tensors, "optimizer": optimizer_tensors(self.optimizer)},
        )

    def result(self) -> FinetuneResult:
        """Give the best weights, calibrated on the validation set."""
        if self.progress.best:
            self._load(self.progress.best)
        self.model.eval()
        temperature = 1.0
        if self.task.validation:
            validation = self.encoder.encode_examples(self.task.validation)
            labels = np.array([example.label for example in validation])
            temperature = fit_temperature(predict(self.model, validation), labels)
        self.backbone.module.cpu()
        return FinetuneResult(
            backbone=replace(self.backbone, weights_hash=hash_weights(self.backbone.network)),
            model=self.model.cpu(),
            temperature=temperature,
            blocks=tuple(self.blocks),
            before=self.before,
            history=tuple(self.progress.history),
        )
