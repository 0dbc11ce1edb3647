"""
The loop of all trainings: seeds, learning rate, early stopping, checkpoints.

All random numbers of an epoch derive from the seed and the number of the epoch. So a training that
is interrupted continues as if it had not been, and two trainings on one CPU agree bit for bit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.config import resolve_device
from pipeline.errors import OptionError
from pipeline.temporal.batching import HasFeatures, shuffled_batches
from pipeline.temporal.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pipeline.temporal.options import TrainingOptions
from pipeline.temporal.schedule import EarlyStopping, learning_rate

MAX_SEED = 2**62
Item = TypeVar("Item", bound=HasFeatures)


@dataclass(frozen=True, slots=True)
class Epoch:
    """Metrics of one epoch."""

    number: int
    """From 1."""
    learning_rate: float
    """Of the last step."""
    loss: float
    """Training loss, a mean over clips."""
    accuracy: float
    """Of the augmented training clips, while the weights changed."""
    gradient_norm: float
    """Mean over the steps, before clipping."""
    clipped: float
    """Share of steps whose gradient was clipped."""
    validation_loss: float | None
    validation_accuracy: float | None


OnEpoch = Callable[[Epoch], None]
Validation = tuple[float, float] | tuple[None, None]
"""Validation loss and accuracy; None without a validation set."""


def best_epoch(history: Sequence[Epoch]) -> Epoch:
    """Give the epoch with the lowest validation loss, or the last one if none has a finite loss."""
    losses = [math.inf if e.validation_loss is None else e.validation_loss for e in history]
    finite = [number for number, loss in enumerate(losses) if loss < math.inf]
    return history[min(finite, key=losses.__getitem__) if finite else -1]


@dataclass
class EpochTotals:
    """Sums over the steps of one epoch."""

    losses: list[float] = field(default_factory=list)
    """Loss times clips, of each step."""
    norms: list[float] = field(default_factory=list)
    clips: int = 0
    correct: float = 0
    """Clips, or sums of the shares of frames, that were predicted correctly."""

    def add(self, loss: float, correct: float, norm: float, clips: int) -> None:
        """Add a step: mean loss, correctly predicted clips, gradient norm, number of clips."""
        self.losses.append(loss * clips)
        self.norms.append(norm)
        self.clips += clips
        self.correct += correct


class TrainingProgress:
    """Finished epochs of a training, its early stopping, and the best weights so far."""

    def __init__(self, options: TrainingOptions, optimizer: torch.optim.Optimizer) -> None:
        self.options, self.optimizer = options, optimizer
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        """Weights of the epoch with the lowest validation loss; empty without validation set."""
        self.early_stopping = EarlyStopping(options.patience)

    @property
    def done(self) -> bool:
        """Whether all epochs were run, or early stopping applies."""
        return len(self.history) >= self.options.epochs or self.early_stopping.should_stop

    def seed_epoch(self) -> torch.Generator:
        """Seed torch for the next epoch, and give a generator for its data."""
        seed = epoch_seed(self.options, len(self.history))
        torch.manual_seed(seed)  # dropout uses the global generator
        return torch.Generator().manual_seed(seed)

    def batches(self, examples: Sequence[Item], generator: torch.Generator) -> Iterator[list[Item]]:
        """Yield the batches of the next epoch; the learning rate is set for the step of each."""
        batches = list(shuffled_batches(examples, self.options.batch_size, generator))
        first, total = len(self.history) * len(batches), self.options.epochs * len(batches)
        for step, batch in enumerate(batches, start=first):
            rate = self.options.learning_rate
            rate *= learning_rate(step, total, self.options.warm_up)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group.get("rate_factor", 1.0)
            yield [examples[number] for number in batch]

    def finish_epoch(
        self, totals: EpochTotals, validation: Validation, weights: Mapping[str, Tensor]
    ) -> Epoch:
        """Add an epoch to the history. Its weights are kept if the validation loss is the best."""
        epoch = Epoch(
            number=len(self.history) + 1,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            loss=sum(totals.losses) / totals.clips,
            accuracy=totals.correct / totals.clips,
            gradient_norm=float(np.mean(totals.norms)),
            clipped=float(np.mean([norm > self.options.clip_norm for norm in totals.norms])),
            validation_loss=validation[0],
            validation_accuracy=validation[1],
        )
        self.history.append(epoch)
        if validation[0] is not None and self.early_stopping.update(validation[0]):
            self.best = {name: tensor.detach().clone() for name, tensor in weights.items()}
        return epoch

    def history_as_json(self) -> list[dict[str, Any]]:
        """Give the history as JSON values."""
        return [dataclasses.asdict(epoch) for epoch in self.history]

    def restore(self, history: Sequence[Mapping[str, Any]], best: dict[str, Tensor]) -> None:
        """Restore the history that `history_as_json` gave, and the best weights."""
        self.history = [Epoch(**values) for values in history]
        self.best = best
        for epoch in self.history:
            if epoch.validation_loss is not None:
                self.early_stopping.update(epoch.validation_loss)


class Trainable(Protocol):
    """What `run_training` runs."""

    @property
    def done(self) -> bool:
        """Whether no epoch is left."""

    def run_epoch(self) -> Epoch:
        """Train for one epoch."""

    def checkpoint(self, key: str) -> Checkpoint:
        """Give the state to resume from."""

    def restore(self, checkpoint: Checkpoint) -> None:
        """Resume from a checkpoint."""


def run_training(
    training: Trainable, key: str, on_epoch: OnEpoch | None, checkpoint: Path | None
) -> None:
    """
    Run all epochs that are left.

    Args:
        training: restored from the checkpoint if there is one with this key.
        key: fingerprint of options and examples.
        on_epoch: called after each epoch.
        checkpoint: file that is written after each epoch.
    """
    saved = load_checkpoint(checkpoint, key) if checkpoint is not None else None
    if saved is not None:
        training.restore(saved)
    while not training.done:
        epoch = training.run_epoch()
        if checkpoint is not None:
            save_checkpoint(training.checkpoint(key), checkpoint)
        if on_epoch is not None:
            on_epoch(epoch)


def epoch_seed(options: TrainingOptions, number: int) -> int:
    """Give the seed of an epoch, numbered from 0."""
    return (options.seed * 1_000_003 + number + 1) % MAX_SEED


def training_device(options: TrainingOptions) -> torch.device:
    """Give the device to train on; `auto` is CUDA if available, else the CPU."""
    return torch.device(resolve_device(options.device))


def isolated_rng(options: TrainingOptions) -> AbstractContextManager[None]:
    """Restore torch's global random state on exit; GPUs that are not used are not initialized."""
    on_gpu = training_device(options).type == "cuda"
    return torch.random.fork_rng(devices=[torch.cuda.current_device()] if on_gpu else [])


@contextmanager
def single_thread() -> Iterator[None]:
    """
    Let torch use one thread on the CPU until the end of the block.

    Recurrent models have a few microseconds of work between two points where threads wait for each
    other: two threads are hardly faster, and many times slower where a CPU is busy.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def clip_gradient(parameters: Iterable[nn.Parameter], options: TrainingOptions) -> float:
    """
    Clip the norm of the gradient to `clip_norm`. Returns the norm before.

    Raises:
        OptionError: the norm is not finite.
    """
    norm = nn.utils.clip_grad_norm_(parameters, options.clip_norm).item()
    if not math.isfinite(norm):
        raise OptionError(
            f"training diverged: the norm of the gradient is {norm}. Use a lower learning rate "
            f"than {options.learning_rate:g}"
        )
    return norm


def parameter_groups(
    parameters: Iterable[nn.Parameter], weight_decay: float
) -> list[dict[str, Any]]:
    """Make optimizer groups: weight decay for matrices, none for biases and norms."""
    known = list(parameters)
    return [
        {"params": [p for p in known if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in known if p.ndim <= 1], "weight_decay": 0.0},
    ]
