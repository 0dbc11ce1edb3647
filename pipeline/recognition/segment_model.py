"""
Durations and transitions of labels, counted from training labels, and segments decoded with them.

    model = SegmentModel.count([targets], [seconds], num_labels=3)
    labels = model.decode(probabilities, step_seconds=1 / 8)  # (T, K) → (T,)

A label lasts for a log-normal time, and is followed by another label with a probability counted
from the training labels: a hidden semi-Markov model. Times are in seconds, so that sequences may be
sampled at another rate than those of the training. With several labels at once, each label is a
chain of its own with two states, off and on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.recognition.duration_viterbi import (
    Durations,
    Floats,
    Transitions,
    decode_durations,
)
from pipeline.recognition.windows import run_length_encode
from pipeline.records import Integers, Seconds
from pipeline.temporal.sequences import IGNORED, LabelledSequence

MAX_STEPS = 256
"""Longest duration in steps with a probability of its own; longer ones are geometric."""
MIN_PROBABILITY = 1e-6
"""Lower limit of the probabilities of frames."""
MIN_STD = 0.3
"""Lower limit of the standard deviation of log-durations: a few segments may have equal lengths."""
PRIOR_SEGMENTS = 2.0
"""Weight of the durations of all labels together in those of one label, in segments."""
PRIOR_CHANGES = 2.0
"""Weight of the frequencies of labels in the transitions from one label, in transitions."""
EVIDENCE_SECONDS = 0.2
"""Time between frames that count as independent observations."""
WEIGHT = 0.5
"""Of durations and transitions: with 1, too many short segments are lost. This and the values above
were chosen by cross-validation on the training part of split 1 of GTEA."""


@dataclass(frozen=True, slots=True)
class SegmentModel:
    """
    Durations and transitions of labels.

    C chains of S states: one chain with K states, or with `multi_label` K chains with the states
    off and on.
    """

    mean_log_seconds: tuple[tuple[float, ...], ...]
    """Mean of the logarithm of the duration in seconds, (C, S)."""
    std_log_seconds: tuple[tuple[float, ...], ...]
    """Standard deviation of the logarithm of the duration, (C, S)."""
    initial: tuple[tuple[float, ...], ...]
    """Probability of each state at the start of a sequence, (C, S)."""
    transitions: tuple[tuple[tuple[float, ...], ...], ...]
    """Probability of the next state after the end of each state, (C, S, S); 0 for itself."""
    multi_label: bool = False
    evidence_seconds: float = EVIDENCE_SECONDS
    """Time between frames that count as independent observations: more frames per second do not
    outweigh durations and transitions."""
    weight: float = WEIGHT
    """Exponent of the probabilities of durations and transitions."""

    def __post_init__(self) -> None:
        mean, std = np.shape(self.mean_log_seconds), np.shape(self.std_log_seconds)
        initial, change = np.shape(self.initial), np.shape(self.transitions)
        if len(mean) != 2 or std != mean or initial != mean or change != (*mean, mean[1]):
            raise ValueError(
                "mean_log_seconds, std_log_seconds and initial must be (C, S) and transitions "
                f"(C, S, S), got {mean}, {std}, {initial} and {change}"
            )
        if (self.multi_label and mean[1] != 2) or (not self.multi_label and mean[0] != 1):
            raise ValueError(
                f"multi_label is {self.multi_label}, but there are {mean[0]} chains with "
                f"{mean[1]} states: wanted K chains with 2 states, or 1 chain with K states"
            )
        for name in ("evidence_seconds", "weight"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")

    @property
    def num_labels(self) -> int:
        """Number of labels K."""
        return len(self.mean_log_seconds if self.multi_label else self.mean_log_seconds[0])

    @classmethod
    def count(
        cls,
        targets: Sequence[NDArray[Any]],
        seconds: Sequence[Seconds],
        num_labels: int,
        *,
        multi_label: bool = False,
    ) -> SegmentModel:
        """
        Count durations and transitions.

        Durations and transitions that are rare are smoothed: those of a label by those of all
        labels together, so that labels and transitions without an example are possible.

        Args:
            targets: labels of the frames of each sequence, (T,), negative where unknown; or with
                `multi_label` whether each label is on, (T, K), negative where unknown.
            seconds: times of the frames of each sequence, (T,).
            num_labels: K.
            multi_label: whether labels are independent of each other.

        Raises:
            ValueError: shapes do not match, or a label is not below K.
        """
        states = 2 if multi_label else num_labels
        chains = [_Counts(states) for _ in range(num_labels if multi_label else 1)]
        for target, times in zip(targets, seconds, strict=True):
            expected = (len(times), num_labels) if multi_label else (len(times),)
            if target.shape != expected:
                raise ValueError(f"targets must be {expected}, got {target.shape}")
            if target.size and target.max() >= states:
                raise ValueError(f"targets must be below {states}, got {target.max()}")
            columns = target.astype(np.int64).reshape(len(times), len(chains))
            for chain, column in zip(chains, columns.T, strict=True):
                chain.add(column, times)
        mean, std = zip(*(chain.durations() for chain in chains), strict=True)
        initial, transitions = zip(*(chain.transitions() for chain in chains), strict=True)
        return cls(mean, std, initial, transitions, multi_label)

    @classmethod
    def of(cls, sequences: Sequence[LabelledSequence], num_labels: int) -> SegmentModel:
        """Count durations and transitions of sequences; frames outside their masks are unknown."""
        targets = []
        for one in sequences:
            mask = one.mask[:, None] if one.multi_label else one.mask
            targets.append(np.where(mask, one.targets.astype(np.int64), IGNORED))
        multi_label = any(one.multi_label for one in sequences)
        seconds = [one.seconds for one in sequences]
        return cls.count(targets, seconds, num_labels, multi_label=multi_label)

    def decode(
        self,
        probabilities: NDArray[np.floating],
        step_seconds: float,
        thresholds: Sequence[float] | None = None,
    ) -> Integers:
        """
        Find the most likely segments.

        Args:
            probabilities: of the labels in each frame, (T, K).
            step_seconds: time between two frames.
            thresholds: with `multi_label`, the probability above which each label is on, (K,);
                0.5 by default.

        Returns:
            Labels (T,); with `multi_label`, whether each label is on, (T, K), 0 or 1.

        Raises:
            ValueError: shapes do not match, or the time is not above 0.
        """
        if probabilities.ndim != 2 or probabilities.shape[1] != self.num_labels:
            raise ValueError(
                f"probabilities must be (T, {self.num_labels}), got {probabilities.shape}"
            )
        if not step_seconds > 0:
            raise ValueError(f"step_seconds must be above 0, got {step_seconds}")
        # relative to durations and transitions, which are not scaled
        weight = min(1.0, step_seconds / self.evidence_seconds) / self.weight
        log_probabilities = self._log_probabilities(probabilities, thresholds) * weight
        with np.errstate(divide="ignore"):  # log 0 = -inf: a state does not follow itself
            transitions = Transitions(np.log(self.initial), np.log(self.transitions))
        states = decode_durations(log_probabilities, self._durations(step_seconds), transitions)
        return states if self.multi_label else states[:, 0]

    def _log_probabilities(
        self, probabilities: NDArray[np.floating], thresholds: Sequence[float] | None
    ) -> Floats:
        """Give the log-probabilities of states, (T, C, S)."""
        given = np.clip(probabilities.astype(np.float64), MIN_PROBABILITY, 1 - MIN_PROBABILITY)
        if not self.multi_label:
            return np.asarray(np.log(given)[:, None, :])
        limit = np.full(self.num_labels, 0.5) if thresholds is None else np.asarray(thresholds)
        limit = np.clip(limit, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
        # the same odds as at the threshold are even odds
        odds = given / (1 - given) * (1 - limit) / limit
        return -np.stack([np.log1p(odds), np.log1p(1 / odds)], axis=2)

    def _durations(self, step_seconds: float) -> Durations:
        """Discretize the durations of all states for a time between frames."""
        mean = np.ravel(self.mean_log_seconds) - np.log(step_seconds)  # of log-steps
        std = np.ravel(self.std_log_seconds)
        most = int(np.ceil(np.exp(mean + 3 * std).max()))
        longest = int(np.clip(most, 1, MAX_STEPS))
        steps = np.arange(1, longest + 1)
        z = (np.log(steps) - mean[:, None]) / std[:, None]  # (Q, D)
        end = (np.log(longest + 0.5) - mean) / std
        longer = _log_normal_cdf(-end)
        density = -np.log(steps) - z**2 / 2
        within = np.log(-np.expm1(np.minimum(longer, -1e-12)))
        exact = density - np.logaddexp.reduce(density, axis=1, keepdims=True) + within[:, None]
        reverse = np.logaddexp.accumulate(
            np.concatenate([longer[:, None], exact[:, ::-1]], axis=1), axis=1
        )
        # mean of a log-normal variable above a limit
        beyond = np.exp(mean + std**2 / 2 + _log_normal_cdf(std - end) - longer) - longest
        leave = -np.log(np.maximum(beyond, 1.0))
        return Durations(exact, reverse[:, :0:-1], longer, leave)

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values, which `from_json` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SegmentModel:
        """
        Convert back what `to_json` returned.

        Raises:
            TypeError: a field is unknown or missing.
            ValueError: shapes do not match.
        """
        names = ("mean_log_seconds", "std_log_seconds", "initial", "transitions")
        return cls(**{**values, **{name: _as_tuples(values[name]) for name in names}})


def _as_tuples(values: Any) -> Any:
    return tuple(map(_as_tuples, values)) if isinstance(values, (list, tuple)) else values


def _log_normal_cdf(z: Floats) -> Floats:
    """Compute the logarithm of the cumulative distribution function of the normal distribution."""
    return np.asarray(torch.special.log_ndtr(torch.from_numpy(z)).numpy())


class _Counts:
    """Durations of segments and transitions between them, of one chain with S states."""

    def __init__(self, num_states: int) -> None:
        self._log_seconds: list[list[float]] = [[] for _ in range(num_states)]
        self._initial = np.zeros(num_states)
        self._changes = np.zeros((num_states, num_states))

    def add(self, states: Integers, seconds: Seconds) -> None:
        """Count the segments of a sequence: states (T,), negative where unknown, and times (T,)."""
        if not len(states):
            return
        gap = float(np.median(np.diff(seconds))) if len(seconds) > 1 else 1.0
        ends = np.append(seconds[1:], seconds[-1] + gap)
        runs = run_length_encode(states)
        known = [state for *_, state in runs if state >= 0]
        self._initial[known[:1]] += 1
        for start, stop, state in runs:
            if state >= 0:
                self._log_seconds[state].append(np.log(max(ends[stop - 1] - seconds[start], 1e-6)))
        for (*_, before), (*_, after) in pairwise(runs):
            if before >= 0 and after >= 0:
                self._changes[before, after] += 1

    def durations(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Give mean and standard deviation of the log-durations of each state."""
        everything = np.array([value for values in self._log_seconds for value in values] or [0.0])
        mean, variance = everything.mean(), everything.var()
        means, stds = [], []
        for values in self._log_seconds:
            weight = PRIOR_SEGMENTS + len(values)
            own = (PRIOR_SEGMENTS * mean + sum(values)) / weight
            squares = sum((value - own) ** 2 for value in values)
            spread = PRIOR_SEGMENTS * (variance + (mean - own) ** 2) + squares
            means.append(float(own))
            stds.append(max(float(np.sqrt(spread / weight)), MIN_STD))
        return tuple(means), tuple(stds)

    def transitions(self) -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]:
        """Give the probabilities of the first state and of the state after each state."""
        segments = np.array([len(values) for values in self._log_seconds]) + 1.0
        frequency = segments / segments.sum()
        initial = self._initial + PRIOR_CHANGES * frequency
        others = np.tile(frequency, (len(frequency), 1))
        np.fill_diagonal(others, 0)
        others /= np.maximum(others.sum(1, keepdims=True), 1e-12)
        changes = self._changes + PRIOR_CHANGES * others
        changes /= np.maximum(changes.sum(1, keepdims=True), 1e-12)
        return tuple((initial / initial.sum()).tolist()), _as_tuples(changes.tolist())
