"""
From answers to figures: what each method is worth, and how much of that is chance of the training.

    rounds = cross_validate(examples, group_folds(examples, 0), TemporalOptions(), options, seeds=3)
    verdicts = judge(examples, [given for one in rounds for given in one.answers])
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from pipeline.evaluation.metrics import (
    Reliability,
    SequenceFigures,
    accuracy,
    confusion,
    macro_f1,
    mean_average_precision,
    reliability,
    sequence_figures,
)
from pipeline.evaluation.predictions import CHANCE, METHODS, MODEL, Answers
from pipeline.evaluation.segmentation import LabelledFrames, guess_most_frequent
from pipeline.records import Integers
from pipeline.temporal.batching import Examples
from pipeline.temporal.calibration import Scores, softmax


@dataclass(frozen=True, slots=True)
class Figures:
    """How good the answers of one method are; all in [0, 1]."""

    accuracy: float
    macro_f1: float
    mean_average_precision: float
    calibration_error: float
    """Expected calibration error, at the temperature that was fitted on clips held back."""
    calibration_error_before: float
    """The same at temperature 1."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one method is worth."""

    method: str
    seeds: tuple[Figures, ...]
    """One a seed, over the clips of all folds together."""
    confusion: Scores
    """Clips of each label (row) that were given each (column), mean over the seeds, (K, K)."""
    reliability: Reliability
    """At the fitted temperature, over all seeds."""


@dataclass(frozen=True, slots=True)
class SequenceVerdict:
    """What one method is worth on sequences."""

    method: str
    seeds: tuple[SequenceFigures, ...]


def over_seeds(seeds: Sequence[Any], figure: str) -> tuple[float, float | None]:
    """Give the mean of a figure and its standard deviation, which a single seed does not have."""
    values = [getattr(figures, figure) for figures in seeds]
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return float(np.mean(values)), spread


def figure_names(figures: object) -> list[str]:
    """Name the figures of a record of figures."""
    return [each.name for each in fields(figures)]  # type: ignore[arg-type]


def judge(examples: Examples, answers: Sequence[Answers]) -> list[Verdict]:
    """Turn answers into verdicts, one a method, in the order of `METHODS`."""
    by_method: dict[str, dict[int, list[Answers]]] = defaultdict(lambda: defaultdict(list))
    for given in answers:
        by_method[given.method][given.seed].append(given)
    known = [method for method in METHODS if method in by_method]
    return [_verdict(examples, method, list(by_method[method].values())) for method in known]


def _verdict(examples: Examples, method: str, seeds: Sequence[Sequence[Answers]]) -> Verdict:
    joined = [_join(examples, answers) for answers in seeds]
    truth = np.concatenate([one.truth for one in joined])
    probabilities = np.concatenate([one.probabilities for one in joined])
    return Verdict(
        method,
        tuple(_figures(one) for one in joined),
        np.mean([one.counts for one in joined], axis=0),
        reliability(truth, probabilities),
    )


@dataclass(frozen=True)
class _Joined:
    """The answers of all folds together."""

    truth: Integers
    """(n,)."""
    logits: Scores
    """(n, K)."""
    temperatures: Scores
    """(n,)."""
    clips: int
    """Different clips: with shuffled frames, fewer than answers."""

    @property
    def probabilities(self) -> Scores:
        """At the fitted temperatures, (n, K)."""
        return softmax(self.logits / self.temperatures[:, None])

    @property
    def counts(self) -> Scores:
        """Confusion matrix, (K, K); a clip counts once in all, however often it was asked about."""
        return confusion(self.truth, self.logits) * (self.clips / len(self.truth))


def _join(examples: Examples, answers: Sequence[Answers]) -> _Joined:
    labels = np.array([item.label for item in examples.items])
    clips = np.concatenate([given.clips for given in answers])
    return _Joined(
        truth=labels[clips],
        logits=np.concatenate([given.logits for given in answers]),
        temperatures=np.concatenate([np.full(len(a.clips), a.temperature) for a in answers]),
        clips=len(np.unique(clips)),
    )


def _figures(joined: _Joined) -> Figures:
    return Figures(
        accuracy=accuracy(joined.counts),
        macro_f1=macro_f1(joined.counts),
        # probabilities of different folds can be compared, their logits cannot
        mean_average_precision=mean_average_precision(joined.truth, joined.probabilities),
        calibration_error=reliability(joined.truth, joined.probabilities).error,
        calibration_error_before=reliability(joined.truth, softmax(joined.logits)).error,
    )


def judge_sequences(frames: Sequence[LabelledFrames]) -> list[SequenceVerdict]:
    """Judge the labels of frames, beside the most frequent label everywhere."""
    if not frames:
        return []
    seeds: dict[int, list[LabelledFrames]] = defaultdict(list)
    for video in frames:
        seeds[video.seed].append(video)
    guess = _sequence_figures(guess_most_frequent(next(iter(seeds.values()))))
    return [
        SequenceVerdict(MODEL, tuple(map(_sequence_figures, seeds.values()))),
        SequenceVerdict(CHANCE, (guess,)),
    ]


def _sequence_figures(videos: Sequence[LabelledFrames]) -> SequenceFigures:
    return sequence_figures([(video.truth, video.said) for video in videos])
