"""
Train a temporal model on labelled clips.

    result = fit(examples, num_labels, TemporalOptions(), TrainingOptions(), validation=validation)
    logits = predict(result.model, others)  # (n, K)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.config import fingerprint
from pipeline.errors import OptionError
from pipeline.temporal.augment import augment_mask, draw_flips
from pipeline.temporal.batching import (
    Batch,
    Example,
    batches_by_length,
    collate,
    hash_examples,
    valid_frames,
)
from pipeline.temporal.calibration import fit_temperature
from pipeline.temporal.loss import TrainingLoss
from pipeline.temporal.model_training import ModelTraining
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.normalization import fit_normalization
from pipeline.temporal.options import TemporalOptions, TrainingOptions
from pipeline.temporal.schedule import class_weights
from pipeline.temporal.standardized import StandardizedExamples
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
    single_thread,
    training_device,
)

PREDICT_BATCH_SIZE = 64


@dataclass(frozen=True)
class TrainingResult:
    """A trained model."""

    model: TemporalModel
    """On the CPU, in evaluation mode."""
    temperature: float
    """Divides logits; 1 without a validation set."""
    history: tuple[Epoch, ...]
    """Epochs of the training with the validation set held out, if there is one."""
    validation_model: TemporalModel | None = None
    """The model that was not trained on the validation set, if `model` was."""
    thresholds: tuple[float, ...] | None = None
    """With multi-label, the probability from which each label applies (K)."""

    @property
    def best(self) -> Epoch:
        """The epoch with the lowest validation loss, or the last without a validation set."""
        return best_epoch(self.history)


@dataclass(frozen=True)
class TrainingTask:
    """Examples and options of one training."""

    examples: Sequence[Example]
    validation: Sequence[Example]
    num_labels: int
    temporal: TemporalOptions
    options: TrainingOptions

    @property
    def key(self) -> str:
        """Fingerprint of examples and options."""
        data = hash_examples(self.examples, self.validation)
        return fingerprint(self.temporal, self.options, self.num_labels, data)


def fit(
    examples: Sequence[Example],
    num_labels: int,
    temporal: TemporalOptions,
    options: TrainingOptions,
    *,
    validation: Sequence[Example] = (),
    on_epoch: OnEpoch | None = None,
    checkpoint: Path | None = None,
) -> TrainingResult:
    """
    Train a model.

    Args:
        examples: training set.
        num_labels: K.
        temporal: the architecture.
        options: of the training.
        validation: examples of other groups, for early stopping and calibration. With `refit`, the
            model is finally trained on them too. Without them, all epochs are run.
        on_epoch: called after each epoch.
        checkpoint: file that is written after each epoch; the same training resumes from it. The
            training with `refit` has its own file beside it, with `-all` in its name.

    Raises:
        OptionError: no example has a frame, or training diverged.
    """
    if not examples or not any(example.mask.any() for example in examples):
        raise OptionError("no frames to train on: the masks of all examples are empty")
    task = TrainingTask(examples, validation, num_labels, temporal, options)
    result = _train(task, on_epoch, checkpoint)
    if not validation or not options.refit:
        return result
    # for the full schedule, not until the best epoch: there the learning rate was still high, and
    # the choice of that epoch is noisy
    all_examples = replace(
        task,
        examples=[*examples, *validation],
        validation=(),
        options=replace(options, epochs=len(result.history)),
    )
    beside = checkpoint and checkpoint.with_stem(checkpoint.stem + "-all")
    refit = _train(all_examples, on_epoch, beside)
    return replace(result, model=refit.model, validation_model=result.model)


def _train(task: TrainingTask, on_epoch: OnEpoch | None, checkpoint: Path | None) -> TrainingResult:
    with isolated_rng(task.options), single_thread():
        torch.manual_seed(task.options.seed)
        trainer = Trainer(task)
        run_training(trainer, task.key, on_epoch, checkpoint)
    return trainer.result()


class Trainer(ModelTraining):
    """One training: model, optimizer, and progress."""

    def __init__(self, task: TrainingTask) -> None:
        self.task, self.options = task, task.options
        self.device = training_device(task.options)
        feature_size = task.examples[0].features.shape[1]
        self.model = TemporalModel(feature_size, task.num_labels, task.temporal)
        fit_normalization(self.model, valid_frames(task.examples))
        self.standardized = StandardizedExamples(self.model.inputs, task.options.mirror_grid)
        self.model.to(self.device)
        groups = parameter_groups(self.model.parameters(), self.options.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=self.options.learning_rate)
        labels = [example.label for example in task.examples]
        weights = class_weights(labels, task.num_labels, balanced=self.options.balanced)
        self.loss = TrainingLoss(self.options, weights.to(self.device))
        self.progress = TrainingProgress(self.options, self.optimizer)

    def run_epoch(self) -> Epoch:
        """Train on every example once, and measure the validation loss."""
        generator = self.progress.seed_epoch()
        totals = EpochTotals()
        for examples in self.progress.batches(self.task.examples, generator):
            flips = draw_flips(len(examples), self.options, generator)
            batch = self.standardized.batch(examples, flips)
            batch = replace(batch, mask=augment_mask(batch.mask, self.options, generator))
            totals.add(*self._step(batch.to(self.device)), len(examples))
        return self.progress.finish_epoch(totals, self._validate(), self.model.state_dict())

    def _validate(self) -> Validation:
        validation = self.task.validation
        if not validation:
            return None, None
        logits = _predict(self.model, validation, self.standardized.batch)
        return _loss_and_accuracy(logits, validation)

    def _step(self, batch: Batch) -> tuple[float, int, float]:
        """Run one step. Returns the loss, the number of correct clips, and the gradient norm."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss, correct = self.loss.backward(self.model, batch)
        norm = clip_gradient(self.model.parameters(), self.options)
        self.optimizer.step()
        return loss, correct, norm

    def result(self) -> TrainingResult:
        """Give the model with its best weights, calibrated on the validation set."""
        if self.progress.best:
            self.model.load_state_dict(self.progress.best)
        model = self.model.cpu().eval()
        temperature = 1.0
        if self.task.validation:
            labels = np.array([example.label for example in self.task.validation])
            temperature = fit_temperature(predict(model, self.task.validation), labels)
        return TrainingResult(model, temperature, tuple(self.progress.history))


def predict(model: TemporalModel, examples: Sequence[Example]) -> NDArray[np.float32]:
    """Compute the logits of clips, (n, K), in the order of the examples."""
    return _predict(model, examples, collate)


@torch.inference_mode()
def _predict(
    model: TemporalModel,
    examples: Sequence[Example],
    make_batch: Callable[[Sequence[Example]], Batch],
) -> NDArray[np.float32]:
    device = model.head.weight.device
    training = model.training
    model.eval()
    logits = np.zeros((len(examples), model.num_labels), np.float32)
    for numbers in batches_by_length(examples, PREDICT_BATCH_SIZE):
        batch = make_batch([examples[number] for number in numbers]).to(device)
        found = model(batch.x, batch.mask, standardized=batch.standardized)
        logits[numbers] = found.clips.float().cpu().numpy()
    model.train(training)
    return logits


def loss_and_accuracy(model: TemporalModel, examples: Sequence[Example]) -> tuple[float, float]:
    """Compute the mean negative log-likelihood, in nats, and the accuracy on examples."""
    return _loss_and_accuracy(predict(model, examples), examples)


def _loss_and_accuracy(
    found: NDArray[np.float32], examples: Sequence[Example]
) -> tuple[float, float]:
    logits = found.astype(np.float64)
    labels = np.array([example.label for example in examples])
    greatest = logits.max(1)
    normalizers = greatest + np.log(np.exp(logits - greatest[:, None]).sum(1))
    losses = normalizers - logits[np.arange(len(labels)), labels]
    return float(losses.mean()), float((logits.argmax(1) == labels).mean())
