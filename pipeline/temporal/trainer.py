"""
Train a temporal model on labelled clips.

    fitted = fit(examples, num_labels, TemporalOptions(), TrainingOptions(), validation=held_back)
    logits = predict(fitted.model, others)  # (n, K)

Chance is drawn anew from the seed and the number of the epoch, so that a training that is
interrupted goes on exactly as it would have, and two trainings on one CPU agree bit for bit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.config import fingerprint
from pipeline.errors import OptionError
from pipeline.temporal.augment import augment
from pipeline.temporal.batching import (
    Batch,
    Example,
    collate,
    fingerprint_of,
    ordered_batches,
    shuffled_batches,
)
from pipeline.temporal.calibration import fit_temperature
from pipeline.temporal.checkpoint import (
    Checkpoint,
    load_checkpoint,
    moments_of,
    restore_moments,
    save_checkpoint,
)
from pipeline.temporal.loss import Objective
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.normalization import standardize
from pipeline.temporal.options import TemporalOptions, TrainingOptions
from pipeline.temporal.schedule import Patience, class_weights, learning_rate

PREDICT_BATCH = 64
"""Clips that are predicted at once."""
LARGEST_SEED = 2**62


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one pass over the examples was like."""

    number: int
    """From 1."""
    learning_rate: float
    """Of its last step."""
    loss: float
    accuracy: float
    """Of clips as they were augmented, while the weights changed."""
    gradient_norm: float
    """Mean over the steps, before clipping."""
    clipped: float
    """Share of steps whose gradient was scaled down."""
    validation_loss: float | None
    validation_accuracy: float | None


@dataclass(frozen=True)
class Fitted:
    """A trained model, and how it came to be."""

    model: TemporalModel
    """On the CPU, in evaluation mode."""
    temperature: float
    """Divides logits; 1 where no examples were held back to fit it on."""
    history: tuple[Epoch, ...]
    """Of the training in which examples were held back, where they were."""
    apart: TemporalModel | None = None
    """The one that has not seen what was held back, where `model` learned that as well."""

    @property
    def best(self) -> Epoch:
        """The epoch with the lowest validation loss, or the last where nothing was held back."""
        return best_of(self.history)


def best_of(history: Sequence[Epoch]) -> Epoch:
    """Give the epoch with the lowest validation loss, or the last where none is a number."""
    losses = [math.inf if e.validation_loss is None else e.validation_loss for e in history]
    known = [number for number, loss in enumerate(losses) if loss < math.inf]
    return history[min(known, key=losses.__getitem__) if known else -1]


OnEpoch = Callable[[Epoch], None]
Measured = tuple[float, float] | tuple[None, None]
"""Validation loss and accuracy, where examples were held back."""


@dataclass
class Steps:
    """The steps of one epoch, as they are taken."""

    clip_norm: float
    losses: list[float] = field(default_factory=list)
    """Each times its clips."""
    norms: list[float] = field(default_factory=list)
    clips: int = 0
    right: int = 0

    def add(self, loss: float, right: int, norm: float, clips: int) -> None:
        """Take note of a step: its loss, how many clips were right, the gradient norm, clips."""
        self.losses.append(loss * clips)
        self.norms.append(norm)
        self.clips += clips
        self.right += right

    def epoch(self, number: int, learning_rate: float, measured: Measured) -> Epoch:
        """Sum up."""
        return Epoch(
            number=number,
            learning_rate=learning_rate,
            loss=sum(self.losses) / self.clips,
            accuracy=self.right / self.clips,
            gradient_norm=float(np.mean(self.norms)),
            clipped=float(np.mean([norm > self.clip_norm for norm in self.norms])),
            validation_loss=measured[0],
            validation_accuracy=measured[1],
        )


def fit(
    examples: Sequence[Example],
    num_labels: int,
    temporal: TemporalOptions,
    options: TrainingOptions,
    *,
    validation: Sequence[Example] = (),
    on_epoch: OnEpoch | None = None,
    checkpoint: Path | None = None,
) -> Fitted:
    """
    Train a model.

    Args:
        examples: to learn from.
        num_labels: K.
        temporal: the architecture.
        options: how.
        validation: examples of other groups, to stop early and to calibrate; with `refit`, they are
            learned in the end. Without them all epochs are run.
        on_epoch: told of each epoch.
        checkpoint: file that is written after each epoch, and gone on from where it is of this very
            training; learning everything again has one beside it, `-all`.

    Raises:
        OptionError: there is nothing to learn from, or training diverged.
    """
    if not examples or not any(example.counts.any() for example in examples):
        raise OptionError("there is no frame to learn from: no example has one that counts")
    given = (num_labels, temporal)
    fitted = _run(Lesson(examples, validation, *given, options), on_epoch, checkpoint)
    if not validation or not options.refit:
        return fitted
    everything = [*examples, *validation]
    # not until the best epoch: the learning rate was still high there, and chance has chosen it
    again = Lesson(everything, (), *given, replace(options, epochs=len(fitted.history)))
    beside = checkpoint and checkpoint.with_stem(checkpoint.stem + "-all")
    return replace(fitted, model=_run(again, on_epoch, beside).model, apart=fitted.model)


@dataclass(frozen=True)
class Lesson:
    """What is learned, what is held back, and how."""

    examples: Sequence[Example]
    validation: Sequence[Example]
    num_labels: int
    temporal: TemporalOptions
    options: TrainingOptions

    @property
    def key(self) -> str:
        """Fingerprint of all of it."""
        data = fingerprint_of(self.examples, self.validation)
        return fingerprint(self.temporal, self.options, self.num_labels, data)


def _run(lesson: Lesson, on_epoch: OnEpoch | None, checkpoint: Path | None) -> Fitted:
    """Train once, from where the checkpoint is."""
    key = lesson.key
    with own_chance(lesson.options):
        torch.manual_seed(lesson.options.seed)
        trainer = Trainer(lesson)
        if checkpoint is not None:
            trainer.go_on(load_checkpoint(checkpoint, key))
        while not trainer.done:
            epoch = trainer.run_epoch()
            if checkpoint is not None:
                save_checkpoint(trainer.checkpoint(key), checkpoint)
            if on_epoch is not None:
                on_epoch(epoch)
    return trainer.result()


class Trainer:
    """One training: model, optimizer, and how far it has come."""

    def __init__(self, lesson: Lesson) -> None:
        examples, options = lesson.examples, lesson.options
        self.examples, self.validation, self.options = examples, lesson.validation, options
        self.device = choose_device(options)
        size = examples[0].features.shape[1]
        self.model = TemporalModel(size, lesson.num_labels, lesson.temporal)
        standardize(self.model, examples)
        self.model.to(self.device)
        self.optimizer = torch.optim.AdamW(
            decayed(self.model.parameters(), options.weight_decay), lr=options.learning_rate
        )
        labels = [example.label for example in examples]
        weights = class_weights(labels, lesson.num_labels, balanced=options.balanced)
        self.objective = Objective(options, weights.to(self.device))
        self.history: list[Epoch] = []
        self.patience = Patience(options.patience)
        self.best: dict[str, Tensor] = {}

    @property
    def done(self) -> bool:
        """Whether there is no epoch to come."""
        return len(self.history) >= self.options.epochs or self.patience.over

    def run_epoch(self) -> Epoch:
        """Learn from every example once, and measure on those held back."""
        number = len(self.history)
        seed = epoch_seed(self.options, number)
        torch.manual_seed(seed)  # of dropout
        steps = Steps(self.options.clip_norm)
        for batch in self._batches(torch.Generator().manual_seed(seed)):
            steps.add(*self._step(batch), len(batch.labels))
        measured = measure(self.model, self.validation) if self.validation else (None, None)
        epoch = steps.epoch(number + 1, self.optimizer.param_groups[0]["lr"], measured)
        self.history.append(epoch)
        if measured[0] is not None and self.patience.better(measured[0]):
            self.best = copied(self.model.state_dict())
        return epoch

    def _batches(self, generator: torch.Generator) -> Iterator[Batch]:
        numbers = list(shuffled_batches(self.examples, self.options.batch_size, generator))
        before = len(self.history) * len(numbers)
        for step, batch in enumerate(numbers, start=before):
            share = learning_rate(step, self.options.epochs * len(numbers), self.options.warm_up)
            for group in self.optimizer.param_groups:
                group["lr"] = self.options.learning_rate * share
            examples = [self.examples[number] for number in batch]
            yield augment(collate(examples), self.options, generator).to(self.device)

    def _step(self, batch: Batch) -> tuple[float, int, float]:
        """Take one step. Returns its loss, how many clips were right, and the gradient norm."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        said = batch.labels
        for loss, said in self.objective.losses(self.model, batch):  # noqa: B007 (the last counts)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        norm = clip_gradient(self.model.parameters(), self.options)
        self.optimizer.step()
        return total, int((said == batch.labels).sum()), norm

    def checkpoint(self, key: str) -> Checkpoint:
        """Give what `go_on` needs."""
        return Checkpoint(
            key,
            {"history": [dataclasses.asdict(epoch) for epoch in self.history]},
            {
                "model": self.model.state_dict(),
                "best": self.best,
                "optimizer": moments_of(self.optimizer),
            },
        )

    def go_on(self, checkpoint: Checkpoint | None) -> None:
        """Take up a training where it was left; None begins it."""
        if checkpoint is None:
            return
        self.model.load_state_dict(checkpoint.tensors["model"])
        self.best = checkpoint.tensors.get("best", {})
        self.history = [Epoch(**said) for said in checkpoint.progress["history"]]
        for epoch in self.history:
            if epoch.validation_loss is not None:
                self.patience.better(epoch.validation_loss)
        restore_moments(self.optimizer, checkpoint.tensors["optimizer"])

    def result(self) -> Fitted:
        """Give the model with its best weights, calibrated on the examples held back."""
        if self.best:
            self.model.load_state_dict(self.best)
        model = self.model.cpu().eval()
        temperature = 1.0
        if self.validation:
            labels = np.array([example.label for example in self.validation])
            temperature = fit_temperature(predict(model, self.validation), labels)
        return Fitted(model, temperature, tuple(self.history))


def epoch_seed(options: TrainingOptions, number: int) -> int:
    """Give the seed of all that is left to chance in an epoch, counted from 0."""
    return (options.seed * 1_000_003 + number + 1) % LARGEST_SEED


def choose_device(options: TrainingOptions) -> torch.device:
    """Give the device to train on: CUDA where there is one, unless the options say otherwise."""
    if options.device != "auto":
        return torch.device(options.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def own_chance(options: TrainingOptions) -> AbstractContextManager[None]:
    """Keep what a training draws from the caller's chance, and wake no GPU that it does not use."""
    on_gpu = choose_device(options).type == "cuda"
    return torch.random.fork_rng(devices=[torch.cuda.current_device()] if on_gpu else [])


def clip_gradient(parameters: Iterable[nn.Parameter], options: TrainingOptions) -> float:
    """
    Scale a gradient down to the norm that is allowed. Returns the norm that it had.

    Raises:
        OptionError: it is no finite number.
    """
    norm = nn.utils.clip_grad_norm_(parameters, options.clip_norm).item()
    if not math.isfinite(norm):
        raise OptionError(
            f"training diverged: the norm of the gradient is {norm}. Take a lower learning rate "
            f"than {options.learning_rate:g}"
        )
    return norm


def decayed(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Make groups for an optimizer in which matrices decay, and neither biases nor norms."""
    known = list(parameters)
    return [
        {"params": [p for p in known if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in known if p.ndim <= 1], "weight_decay": 0.0},
    ]


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors as they are now."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


@torch.inference_mode()
def predict(model: TemporalModel, examples: Sequence[Example]) -> NDArray[np.float32]:
    """Give the logits of clips, (n, K), in the order of the examples."""
    device = model.head.weight.device
    training = model.training
    model.eval()
    logits = np.zeros((len(examples), model.num_labels), np.float32)
    for numbers in ordered_batches(examples, PREDICT_BATCH):
        batch = collate([examples[number] for number in numbers]).to(device)
        logits[numbers] = model(batch.x, batch.mask).clips.float().cpu().numpy()
    model.train(training)
    return logits


def measure(model: TemporalModel, examples: Sequence[Example]) -> tuple[float, float]:
    """Give the mean negative log-likelihood in nats and the accuracy on examples."""
    logits = predict(model, examples).astype(np.float64)
    labels = np.array([example.label for example in examples])
    top = logits.max(1)
    normalizers = top + np.log(np.exp(logits - top[:, None]).sum(1))
    losses = normalizers - logits[np.arange(len(labels)), labels]
    return float(losses.mean()), float((logits.argmax(1) == labels).mean())
