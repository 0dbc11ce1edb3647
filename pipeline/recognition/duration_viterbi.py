"""
The Viterbi algorithm for hidden semi-Markov models: states have explicit durations.

The score of a segmentation is the sum of the log-probabilities of its frames, of the length of each
segment, and of each change of state (Rabiner 1989, section IV D; Yu 2010, "Hidden semi-Markov
models").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.records import Integers

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Durations:
    """
    Log-probabilities of the lengths of segments, in steps: explicit up to D, geometric beyond.

    All states of all chains follow each other in one axis of size Q.
    """

    exact: Floats
    """Of a length of 1 to D steps, (Q, D)."""
    at_least: Floats
    """Of a length of at least 1 to D steps, (Q, D): for a segment that the sequence cuts off."""
    longer: Floats
    """Of a length of more than D steps, (Q,)."""
    leave: Floats
    """Of ending at each step after D, (Q,)."""

    @property
    def stay(self) -> Floats:
        """Log-probability of not ending at a step after D, (Q,)."""
        stay: Floats = np.log1p(-np.minimum(np.exp(self.leave), 1 - 1e-12))
        return stay


@dataclass(frozen=True, slots=True)
class Transitions:
    """Log-probabilities of the first state (C, S) and of changes of state (C, S, S), per chain."""

    initial: Floats
    change: Floats
    """From a state to another; the diagonal is -inf."""


@dataclass(frozen=True, slots=True)
class _Pointers:
    """For each boundary t and state: the segment that ends there, and the state before."""

    start: NDArray[np.int32]
    """Start of the best segment that ends at the boundary, (T + 1, Q)."""
    before: NDArray[np.int16]
    """Best state before a segment that starts at the boundary, (T + 1, Q)."""


def decode_durations(
    log_probabilities: Floats, durations: Durations, transitions: Transitions
) -> Integers:
    """
    Find the most likely states of C independent chains with S states each.

    Time is proportional to T · C · S · (D + S). Memory is that of `log_probabilities`, and 14 bytes
    more for each of its elements.

    Args:
        log_probabilities: of each state in each step, (T, C, S).
        durations: of segments.
        transitions: between segments.

    Returns:
        States, (T, C).
    """
    steps, chains, states = log_probabilities.shape
    if steps == 0 or states == 1:
        return np.zeros((steps, chains), np.int64)
    flat = log_probabilities.reshape(steps, chains * states)
    total = np.concatenate([np.zeros((1, chains * states)), np.cumsum(flat, axis=0)])
    pointers, last_start, last_score = _forward(total, durations, transitions)
    last_state = last_score.reshape(chains, states).argmax(1)
    path = np.empty((steps, chains), np.int64)
    for chain, state in enumerate(last_state.tolist()):
        first = chain * states
        start = int(last_start[first + state])
        path[start:, chain] = state
        while start > 0:
            stop, state = start, int(pointers.before[start, first + state])
            start = int(pointers.start[stop, first + state])
            path[start:stop, chain] = state
    return path


def _forward(
    total: Floats, durations: Durations, transitions: Transitions
) -> tuple[_Pointers, Integers, Floats]:
    """
    Compute the best segment that ends at each boundary.

    Args:
        total: sums of the log-probabilities before each boundary, (T + 1, Q).
        durations: of segments.
        transitions: between segments.

    Returns:
        Pointers, and of the last segment its start (Q,) and the score with it (Q,).
    """
    steps, size = len(total) - 1, total.shape[1]
    longest = durations.exact.shape[1]
    shape = transitions.change.shape
    pointers = _Pointers(np.zeros((steps + 1, size), np.int32), np.zeros((steps + 1, size), "i2"))
    # score of entering each state at a boundary, less the total there: column D + boundary
    entered = np.full((size, steps + 1 + longest), -np.inf)
    entered[:, longest] = transitions.initial.ravel()
    exact = np.ascontiguousarray(durations.exact[:, ::-1])  # of starts from t − D to t − 1
    tail, tail_start = np.full(size, -np.inf), np.zeros(size, np.int64)
    rows, scores, stay = np.arange(size), np.empty((size, longest)), durations.stay
    for t in range(1, steps + 1):
        np.add(entered[:, t : t + longest], exact, out=scores)
        best = scores.argmax(1)
        score, start = scores[rows, best], best + (t - longest)
        if t > longest:
            tail += stay
            grown = entered[:, t - 1] + durations.longer
            tail_start[grown > tail] = t - 1 - longest
            np.maximum(tail, grown, out=tail)
            ended = tail + durations.leave
            start = np.where(ended > score, tail_start, start)
            score = np.maximum(score, ended)
        pointers.start[t] = start
        change = (score + total[t]).reshape(*shape[:2], 1) + transitions.change  # (C, S, S)
        pointers.before[t] = change.argmax(1).ravel()
        entered[:, longest + t] = change.max(1).ravel() - total[t]
    np.add(entered[:, steps : steps + longest], durations.at_least[:, ::-1], out=scores)
    best = scores.argmax(1)
    score, start = scores[rows, best], best + (steps - longest)
    start = np.where(tail > score, tail_start, start)
    return pointers, start, np.maximum(score, tail) + total[-1]
