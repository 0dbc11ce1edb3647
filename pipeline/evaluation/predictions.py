"""
Predictions on the test clips of cross-validation folds: the model, ablations, and baselines.

Two ablations test what the model gets from time: with shuffled frames it cannot use their order,
with the middle frame repeated it cannot use motion. The baselines are logistic regression and the
label frequencies of the training set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.evaluation.baselines import (
    BASELINES,
    fit_logistic_regression,
    pool_clips,
    prior_logits,
)
from pipeline.evaluation.cross_validation import Fold
from pipeline.evaluation.side_by_side import parallel_trainings, run_trainings
from pipeline.records import Integers
from pipeline.temporal.batching import Example, Examples
from pipeline.temporal.calibration import Scores
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import TemporalOptions, TrainingOptions
from pipeline.temporal.schedule import train_validation_split
from pipeline.temporal.trainer import TrainingResult, fit, predict
from pipeline.temporal.training_loop import Epoch

MODEL = "model"
SHUFFLED_FRAMES = "model, frames shuffled"
FROZEN_FRAME = "model, middle frame held"
PRIOR = "chance"
METHODS = (MODEL, SHUFFLED_FRAMES, FROZEN_FRAME, *BASELINES, PRIOR)
"""Names of methods in tables and results, in the order in which they are shown."""
SHUFFLES = 5
"""Random frame orders in which each clip is predicted."""


@dataclass(frozen=True)
class Predictions:
    """Predictions of one method on the test clips of one fold."""

    method: str
    """One of `METHODS`."""
    seed: int
    """Of the training; 0 for deterministic methods."""
    fold: str
    clips: Integers
    """Indices of the examples, (n,); with shuffled frames, each clip occurs several times."""
    logits: Scores
    """(n, K)."""
    temperature: float = 1.0
    """Divides the logits, for calibrated probabilities."""

    def __post_init__(self) -> None:
        if self.logits.ndim != 2 or self.logits.shape[0] != len(self.clips):
            raise ValueError(
                f"logits must be (n, K) for {len(self.clips)} clips, got {self.logits.shape}"
            )


def train_fold(
    examples: Examples,
    fold: Fold,
    temporal: TemporalOptions,
    options: TrainingOptions,
) -> TrainingResult:
    """Train a model from scratch on the training set of a fold, as `clipline train` would."""
    items = [examples.items[index] for index in fold.train.tolist()]
    train, validation = train_validation_split(items, options.validation, options.seed)
    return fit(train, len(examples.labels), temporal, options, validation=validation)


def predict_model(
    examples: Examples, fold: Fold, trained: TrainingResult, seed: int
) -> list[Predictions]:
    """Predict the test clips of a fold with a model, and with its two ablations."""
    items = [examples.items[index] for index in fold.test.tolist()]
    rng = np.random.default_rng(seed)
    shuffled = [shuffle_frames(item, rng) for _ in range(SHUFFLES) for item in items]
    inputs = (
        (MODEL, items, fold.test),
        (SHUFFLED_FRAMES, shuffled, np.tile(fold.test, SHUFFLES)),
        (FROZEN_FRAME, [freeze_frame(item) for item in items], fold.test),
    )
    return [
        Predictions(
            method, seed, fold.name, clips, _logits(trained.model, given), trained.temperature
        )
        for method, given, clips in inputs
    ]


def _logits(model: TemporalModel, items: Sequence[Example]) -> Scores:
    return predict(model, items).astype(np.float64)


def shuffle_frames(item: Example, rng: np.random.Generator) -> Example:
    """Shuffle the unmasked frames of a clip."""
    order = np.arange(len(item.features))
    unmasked = np.flatnonzero(item.mask)
    order[unmasked] = rng.permutation(unmasked)
    return replace(item, features=item.features[order])


def freeze_frame(item: Example) -> Example:
    """Replace all unmasked frames of a clip by the middle one."""
    order = np.arange(len(item.features))
    unmasked = np.flatnonzero(item.mask)
    order[unmasked] = unmasked[len(unmasked) // 2 : len(unmasked) // 2 + 1]
    return replace(item, features=item.features[order])


def predict_baselines(examples: Examples, folds: Sequence[Fold]) -> list[Predictions]:
    """Fit the baselines on the training set of each fold, and predict its test clips."""
    labels = np.array([item.label for item in examples.items])
    clips = [item.features[item.mask] for item in examples.items]
    count = len(examples.labels)
    predictions = []
    for name, pool in BASELINES.items():
        vectors = pool_clips(pool, clips)  # (n, F)
        for fold in folds:
            model = fit_logistic_regression(vectors[fold.train], labels[fold.train], count)
            logits = model.logits(vectors[fold.test])
            predictions.append(Predictions(name, 0, fold.name, fold.test, logits))
    for fold in folds:
        prior = np.tile(prior_logits(labels[fold.train], count), (len(fold.test), 1))
        predictions.append(Predictions(PRIOR, 0, fold.name, fold.test, prior))
    return predictions


@dataclass(frozen=True)
class FoldResult:
    """The model that was trained on one fold with one seed, and its predictions."""

    fold: Fold
    seed: int
    trained: TrainingResult
    accuracy: float
    """Of the model on the test clips."""
    predictions: tuple[Predictions, ...]
    """Of the model and its ablations."""


@dataclass(frozen=True)
class FoldTask:
    """One training of a cross-validation."""

    fold: Fold
    temporal: TemporalOptions
    options: TrainingOptions


def fold_tasks(
    folds: Sequence[Fold], temporal: TemporalOptions, options: TrainingOptions, seeds: int
) -> list[FoldTask]:
    """List the trainings of a cross-validation: every fold with the first seed, then the next."""
    return [
        FoldTask(fold, temporal, replace(options, seed=seed))
        for seed in range(options.seed, options.seed + seeds)
        for fold in folds
    ]


@dataclass(frozen=True)
class _FoldOutcome:
    """Plain data of a `FoldResult`: without tensors, so that a process can send it."""

    predictions: tuple[Predictions, ...]
    weights: dict[str, NDArray[np.generic]]
    temperature: float
    history: tuple[Epoch, ...]


def _run_fold(examples: Examples, task: FoldTask) -> _FoldOutcome:
    """Train a model on a fold, and predict its test clips."""
    trained = train_fold(examples, task.fold, task.temporal, task.options)
    return _FoldOutcome(
        tuple(predict_model(examples, task.fold, trained, task.options.seed)),
        {name: tensor.numpy() for name, tensor in trained.model.state_dict().items()},
        trained.temperature,
        trained.history,
    )


def cross_validate(
    examples: Examples,
    folds: Sequence[Fold],
    temporal: TemporalOptions,
    options: TrainingOptions,
    *,
    seeds: int = 1,
) -> Iterator[FoldResult]:
    """
    Train a model on every fold with every seed, and predict the test clips.

    Trainings run side by side, see `run_trainings`.

    Args:
        examples: labelled clips.
        folds: training and test sets.
        temporal: the architecture.
        options: of the trainings; `seed` is the first seed.
        seeds: trainings per fold.

    Yields:
        The result of each training when it and those before it are done.
    """
    tasks = fold_tasks(folds, temporal, options, seeds)
    outcomes = run_trainings(_run_fold, examples, tasks, parallel_trainings(options))
    for task, outcome in zip(tasks, outcomes, strict=True):
        yield _fold_result(examples, task, outcome)


def _fold_result(examples: Examples, task: FoldTask, outcome: _FoldOutcome) -> FoldResult:
    model = TemporalModel(
        examples.items[0].features.shape[1], len(examples.labels), task.temporal
    ).eval()
    model.load_state_dict({n: torch.from_numpy(v) for n, v in outcome.weights.items()})
    labels = np.array([examples.items[index].label for index in task.fold.test.tolist()])
    correct = outcome.predictions[0].logits.argmax(1) == labels
    trained = TrainingResult(model, outcome.temperature, outcome.history)
    seed, accuracy = task.options.seed, float(correct.mean())
    return FoldResult(task.fold, seed, trained, accuracy, outcome.predictions)
