"""
Ask a model, and whatever it has to beat, what clips are that they have not learned from.

Each method gives `Answers` to a fold: the model itself, the linear baselines, chance, and the same
model robbed of time: what it still knows of frames in random order, it does not know from their
order, and what it still knows of one frame held, it does not know from motion.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.evaluation.baselines import (
    BASELINES,
    fit_logistic_regression,
    pool_clips,
    prior_logits,
)
from pipeline.evaluation.cross_validation import Fold
from pipeline.records import Integers
from pipeline.temporal.batching import Example, Examples
from pipeline.temporal.calibration import Scores
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import TemporalOptions, TrainingOptions
from pipeline.temporal.schedule import train_validation_split
from pipeline.temporal.trainer import TrainingResult, fit, predict

MODEL = "model"
SHUFFLED = "model, frames shuffled"
STILL = "model, middle frame held"
CHANCE = "chance"
METHODS = (MODEL, SHUFFLED, STILL, *BASELINES, CHANCE)
"""In the order in which they are shown."""
SHUFFLES = 5
"""Random orders that each clip is judged in."""


@dataclass(frozen=True)
class Answers:
    """What one method says of the clips of one fold."""

    method: str
    """One of `METHODS`."""
    seed: int
    """Of the training; 0 for methods without chance."""
    fold: str
    clips: Integers
    """Numbers of the examples, (n,); with frames shuffled, each comes several times."""
    logits: Scores
    """(n, K)."""
    temperature: float = 1.0
    """Divides the logits, so that scores are frequencies."""

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
    """Train on a fold from scratch, as `train` would if the fold's clips were all there is."""
    known = [examples.items[number] for number in fold.train.tolist()]
    learned, held = train_validation_split(known, options.validation, options.seed)
    return fit(learned, len(examples.labels), temporal, options, validation=held)


def ask_model(examples: Examples, fold: Fold, fitted: TrainingResult, seed: int) -> list[Answers]:
    """Ask a model about the clips of a fold, as they are and robbed of time."""
    items = [examples.items[number] for number in fold.test.tolist()]
    chance = np.random.default_rng(seed)
    mixed = [shuffle_frames(item, chance) for _ in range(SHUFFLES) for item in items]
    asked = (
        (MODEL, items, fold.test),
        (SHUFFLED, mixed, np.tile(fold.test, SHUFFLES)),
        (STILL, [hold_frame(item) for item in items], fold.test),
    )
    return [
        Answers(method, seed, fold.name, clips, _logits(fitted.model, given), fitted.temperature)
        for method, given, clips in asked
    ]


def _logits(model: TemporalModel, items: Sequence[Example]) -> Scores:
    return predict(model, items).astype(np.float64)


def shuffle_frames(item: Example, chance: np.random.Generator) -> Example:
    """Put the frames of a clip that count in random order."""
    order = np.arange(len(item.features))
    places = np.flatnonzero(item.mask)
    order[places] = chance.permutation(places)
    return replace(item, features=item.features[order])


def hold_frame(item: Example) -> Example:
    """Put the middle one of the frames that count in the place of all of them."""
    order = np.arange(len(item.features))
    places = np.flatnonzero(item.mask)
    order[places] = places[len(places) // 2 : len(places) // 2 + 1]
    return replace(item, features=item.features[order])


def ask_baselines(examples: Examples, folds: Sequence[Fold]) -> list[Answers]:
    """Fit the linear baselines on each fold, and ask them and chance about its clips."""
    labels = np.array([item.label for item in examples.items])
    clips = [item.features[item.mask] for item in examples.items]
    count = len(examples.labels)
    answers = []
    for name, read in BASELINES.items():
        vectors = pool_clips(read, clips)  # (n, F)
        for fold in folds:
            linear = fit_logistic_regression(vectors[fold.train], labels[fold.train], count)
            logits = linear.logits(vectors[fold.test])
            answers.append(Answers(name, 0, fold.name, fold.test, logits))
    for fold in folds:
        prior = np.tile(prior_logits(labels[fold.train], count), (len(fold.test), 1))
        answers.append(Answers(CHANCE, 0, fold.name, fold.test, prior))
    return answers


@dataclass(frozen=True)
class Round:
    """One fold, judged with one seed."""

    fold: Fold
    seed: int
    fitted: TrainingResult
    accuracy: float
    """Of the model."""
    answers: tuple[Answers, ...]


def cross_validate(
    examples: Examples,
    folds: Sequence[Fold],
    temporal: TemporalOptions,
    options: TrainingOptions,
    *,
    seeds: int = 1,
) -> Iterator[Round]:
    """
    Train and judge a model on every fold, with every seed.

    Args:
        examples: labelled clips.
        folds: how they are split.
        temporal: the architecture.
        options: how it is trained; `seed` is the first one.
        seeds: trainings a fold, each with its own chance.

    Yields:
        A round as it is done.
    """
    labels = np.array([item.label for item in examples.items])
    for seed in range(options.seed, options.seed + seeds):
        for fold in folds:
            fitted = train_fold(examples, fold, temporal, replace(options, seed=seed))
            answers = ask_model(examples, fold, fitted, seed)
            right = answers[0].logits.argmax(1) == labels[fold.test]
            yield Round(fold, seed, fitted, float(right.mean()), tuple(answers))
