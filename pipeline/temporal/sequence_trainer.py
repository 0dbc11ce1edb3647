"""
Train a temporal model on sequences with a label for each frame.

    result = fit_sequences(sequences, num_labels, TemporalOptions(), TrainingOptions())
    logits = predict_sequences(result.model, others)  # a (T, K) each
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.config import fingerprint
from pipeline.errors import OptionError
from pipeline.temporal.augment import draw_flips
from pipeline.temporal.calibration import (
    fit_binary_temperature,
    fit_temperature,
    fit_thresholds,
)
from pipeline.temporal.model_training import ModelTraining
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.normalization import fit_normalization
from pipeline.temporal.options import TemporalOptions, TrainingOptions
from pipeline.temporal.schedule import class_weights
from pipeline.temporal.sequence_augment import augment_steps, mix_in
from pipeline.temporal.sequence_loss import SequenceLoss
from pipeline.temporal.sequence_steps import (
    PreparedSteps,
    StepBatch,
    Steps,
    collate_steps,
)
from pipeline.temporal.sequences import (
    LabelledSequence,
    check_sequences,
    hash_sequences,
    segments_of_equal_targets,
)
from pipeline.temporal.trainer import TrainingResult
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
    single_thread,
    training_device,
)

BALANCE = 0.5
"""Power of the inverse frequency that weighs a class. Frames of rare labels with the full weight
would cost more correct frames of frequent labels than they win."""


@dataclass(frozen=True)
class SequenceTask:
    """Sequences and options of one training."""

    sequences: Sequence[LabelledSequence]
    validation: Sequence[LabelledSequence]
    num_labels: int
    temporal: TemporalOptions
    options: TrainingOptions
    multi_label: bool

    @property
    def key(self) -> str:
        """Fingerprint of sequences and options."""
        data = hash_sequences(self.sequences, self.validation)
        return fingerprint(
            "sequences", self.temporal, self.options, self.num_labels, self.multi_label, data
        )


def fit_sequences(
    sequences: Sequence[LabelledSequence],
    num_labels: int,
    temporal: TemporalOptions,
    options: TrainingOptions,
    *,
    validation: Sequence[LabelledSequence] = (),
    on_epoch: OnEpoch | None = None,
    checkpoint: Path | None = None,
) -> TrainingResult:
    """
    Train a model on sequences with a label for each frame.

    Args:
        sequences: training set. With targets (T, K), labels are independent of each other
            (multi-label).
        num_labels: K.
        temporal: the architecture. Its stride follows from `steps_per_second` where that is set,
            and its `multi_label` from the targets: see `options` of the model.
        options: of the training; `batch_size` counts sequences, `frame_weight` is not used.
        validation: sequences of other groups, for early stopping, and for the calibration of the
            temperature and of the thresholds. With `refit`, the model is finally trained on them
            too. Without them, all epochs are run.
        on_epoch: called after each epoch.
        checkpoint: file that is written after each epoch; the same training resumes from it. The
            training with `refit` has its own file beside it, with `-all` in its name.

    Raises:
        OptionError: no frame has a target, or training diverged.
        ValueError: targets are not of the kind or the number of labels.
    """
    multi_label = any(sequence.multi_label for sequence in sequences)
    check_sequences([*sequences, *validation], num_labels, multi_label=multi_label)
    if not any(sequence.has_target.any() for sequence in sequences):
        raise OptionError("no frames to train on: no frame of the sequences has a label")
    task = SequenceTask(sequences, validation, num_labels, temporal, options, multi_label)
    result = _train(task, on_epoch, checkpoint)
    if not validation or not options.refit:
        return result
    all_sequences = replace(
        task,
        sequences=[*sequences, *validation],
        validation=(),
        options=replace(options, epochs=len(result.history)),
    )
    beside = checkpoint and checkpoint.with_stem(checkpoint.stem + "-all")
    refit = _train(all_sequences, on_epoch, beside)
    return replace(result, model=refit.model, validation_model=result.model)


def _train(task: SequenceTask, on_epoch: OnEpoch | None, checkpoint: Path | None) -> TrainingResult:
    with isolated_rng(task.options), single_thread():
        torch.manual_seed(task.options.seed)
        trainer = SequenceTrainer(task)
        run_training(trainer, task.key, on_epoch, checkpoint)
    return trainer.result()


class SequenceTrainer(ModelTraining):
    """One training: model, optimizer, and progress."""

    def __init__(self, task: SequenceTask) -> None:
        self.task, self.options = task, task.options
        self.device = training_device(task.options)
        feature_size = task.sequences[0].features.shape[1]
        self.model = TemporalModel(feature_size, task.num_labels, _architecture(task))
        segments = [
            torch.from_numpy(segment)
            for sequence in task.sequences
            for segment in segments_of_equal_targets(sequence)
        ]
        fit_normalization(self.model, segments)
        self.steps = PreparedSteps(self.model, task.options.mirror_grid)
        self.model.to(self.device)
        groups = parameter_groups(self.model.parameters(), self.options.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=self.options.learning_rate)
        self.loss = SequenceLoss(self.options, _class_weights(task).to(self.device))
        self.progress = TrainingProgress(self.options, self.optimizer)

    def run_epoch(self) -> Epoch:
        """Train on every sequence once, and measure the validation loss."""
        generator = self.progress.seed_epoch()
        totals = EpochTotals()
        for sequences in self.progress.batches(self.task.sequences, generator):
            augmented = [self._augment(sequence, generator) for sequence in sequences]
            batch = collate_steps(augmented).to(self.device)
            loss, accuracy, norm = self._step(batch)
            totals.add(loss, accuracy * len(sequences), norm, len(sequences))
        return self.progress.finish_epoch(totals, self._validate(), self.model.state_dict())

    def _validate(self) -> Validation:
        if not any(sequence.has_target.any() for sequence in self.task.validation):
            return None, None
        batch = collate_steps([self.steps(sequence) for sequence in self.task.validation])
        self.model.eval()
        return self.loss.evaluate(self.model, batch.to(self.device))

    def _augment(self, sequence: LabelledSequence, generator: torch.Generator) -> Steps:
        (flipped,) = draw_flips(1, self.options, generator)
        inputs, targets = augment_steps(
            self.steps(sequence, flipped=flipped), self.options, generator
        )
        if self.options.mix:
            number = int(torch.randint(len(self.task.sequences), (), generator=generator))
            other, _ = self.steps(self.task.sequences[number])
            inputs = mix_in(inputs, other, self.options.mix, generator)
        return inputs, targets

    def _step(self, batch: StepBatch) -> tuple[float, float, float]:
        """Run one step. Returns the loss, the accuracy, and the norm of the gradient."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss, accuracy = self.loss.backward(self.model, batch)
        norm = clip_gradient(self.model.parameters(), self.options)
        self.optimizer.step()
        return loss, accuracy, norm

    def result(self) -> TrainingResult:
        """Give the model with its best weights, calibrated on the validation set."""
        if self.progress.best:
            self.model.load_state_dict(self.progress.best)
        model = self.model.cpu().eval()
        logits, targets = _frames_with_target(model, self.task.validation)
        thresholds = None
        if self.task.multi_label:
            temperature = fit_binary_temperature(logits, targets)
            thresholds = fit_thresholds(logits / temperature, targets)
        else:
            temperature = fit_temperature(logits, targets)
        history = tuple(self.progress.history)
        return TrainingResult(model, temperature, history, thresholds=thresholds)


def _architecture(task: SequenceTask) -> TemporalOptions:
    """Give the options of the model: the stride follows from the frame rate of the sequences."""
    temporal = replace(task.temporal, multi_label=task.multi_label)
    if not task.options.steps_per_second:
        return temporal
    intervals = np.concatenate([np.diff(sequence.seconds) for sequence in task.sequences])
    positive = intervals[intervals > 0]
    if not len(positive):
        return temporal
    stride = round(1 / (float(np.median(positive)) * task.options.steps_per_second))
    return replace(temporal, stride=max(1, stride))


def _class_weights(task: SequenceTask) -> torch.Tensor:
    """Give the weight of each class (K,) in the loss."""
    if task.multi_label:
        return torch.ones(task.num_labels)
    targets = [sequence.targets[sequence.has_target] for sequence in task.sequences]
    return class_weights(
        np.concatenate(targets), task.num_labels, balanced=task.options.balanced, power=BALANCE
    )


@torch.inference_mode()
def predict_sequences(
    model: TemporalModel, sequences: Sequence[LabelledSequence]
) -> list[NDArray[np.float32]]:
    """Compute the logits of the frames of whole sequences, (T, K) each."""
    device = model.head.weight.device
    training = model.training
    model.eval()
    found = []
    for sequence in sequences:
        features, mask = (
            torch.from_numpy(part).unsqueeze(0).to(device)
            for part in (sequence.features, sequence.mask)
        )
        logits = model(features, mask)
        found.append(logits.frames[0].float().cpu().numpy())
    model.train(training)
    return found


def _frames_with_target(
    model: TemporalModel, sequences: Sequence[LabelledSequence]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Give logits (n, K) and targets (n,) or (n, K) of all frames that have a target."""
    logits, targets = [np.zeros((0, model.num_labels), np.float32)], []
    for sequence, found in zip(sequences, predict_sequences(model, sequences), strict=True):
        logits.append(found[sequence.has_target])
        targets.append(sequence.targets[sequence.has_target].astype(np.int64))
    joined = np.concatenate(targets) if targets else np.zeros(0, np.int64)
    return np.concatenate(logits), joined
