"""
Find dissolves and fades in small pictures of all frames.

In a dissolve every picture is a mixture of the last one before it and the first one after it, with
steadily growing weight of the latter, and the mixture has less contrast than both. In a moving
picture there are things at places where neither of the two has them. A fade ends or begins with a
picture that shows nothing.

As with cuts, the result depends on a limited number of pictures before and after.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.decode.shot_cuts import Pictures, similarity
from pipeline.records import Integers

RATE = 12.5
"""Pictures per second that are examined."""
LENGTHS = (6, 8, 11, 15, 20)
"""Examined lengths of dissolves, in steps of 1 / RATE seconds."""
ROWS, COLUMNS = 12, 16
"""Size to which pictures are reduced: motion within shots matters less."""
MIN_CHANGE = 12.0
"""Least root mean square difference of grey levels between both ends of a dissolve."""
MAX_RESIDUAL = 0.45
"""Largest mean deviation from a mixture, as a share of the difference of both ends."""
MAX_STEP = 0.45
"""Largest growth of the weight in one step: a cut grows by 1."""
FLAT = 4.0
"""Standard deviation of grey levels below which a picture shows nothing."""
WEIGHTS = {
    "change": 0.69,
    "residual": -28.8,
    "nonlinearity": -38.9,
    "contrast": -8.6,
    "similarity": -13.9,
}
"""Of the logistic regression; fitted to videos of `tests/benchmarks/shot_clips.py`."""
BIAS = 13.6
MAX_SIMILARITY = 0.8
"""Largest similarity of both ends: a slow pan over a smooth picture resembles a mixture."""
LEAST_SIMILARITY = 0.3
"""Smallest similarity that is expected: less probable dissolves are not examined further."""
SUPPRESS = 12
"""Of dissolves whose middles are at most this many steps apart the most probable is kept."""
FADE_STEPS = 8
"""Steps before or after a flat picture in which a fade happens."""
MAX_FADED = 0.7
"""Contrast next to a flat picture, as a share of the largest in a fade: more is a cut."""


@dataclass(frozen=True, slots=True)
class Gradual:
    """A gradual transition. Positions are among the pictures."""

    start: int
    stop: int
    kind: str
    """`dissolve`, `out` (a fade to flat pictures) or `in` (a fade from them)."""
    score: float
    """Probability of a dissolve, in [0.5, 1]; 1 for a fade."""


def step_of(rate: float) -> int:
    """Return the distance in frames of the pictures that are examined, by the frames per second."""
    return max(1, round(rate / RATE))


def reach_of(rate: float) -> int:
    """Return how many frames before and after a moment decide about a transition at it."""
    return step_of(rate) * (max(LENGTHS) // 2 + 2 * SUPPRESS + 2)


def find_gradual(pictures: Pictures, positions: Sequence[int]) -> list[Gradual]:
    """
    Find dissolves and fades, in the order of their middles.

    Args:
        pictures: (T, 48, 64).
        positions: of the pictures that are examined, ascending, at a distance of `step_of`.
    """
    if len(positions) < 3:
        return []
    small = [
        cv2.resize(pictures[p], (COLUMNS, ROWS), interpolation=cv2.INTER_AREA) for p in positions
    ]
    values = np.stack(small).reshape(len(small), -1).astype(np.float64)
    contrasts = values.std(1)
    found = [
        Gradual(positions[s], positions[s + n], "dissolve", score)
        for s, n, score in _dissolves(pictures, positions, values - 128, contrasts)
    ]
    fades = [Gradual(positions[s], positions[t], kind, 1.0) for s, t, kind in _fades(contrasts)]
    return sorted([*found, *fades], key=lambda g: (g.start + g.stop, g.kind))


def _dissolves(
    pictures: Pictures,
    positions: Sequence[int],
    values: NDArray[np.float64],
    contrasts: NDArray[np.float64],
) -> list[tuple[int, int, float]]:
    """Find dissolves: start and length in steps, probability."""
    products = _products(values)
    found = []
    for length in LENGTHS:
        candidates = list(_candidates(products, contrasts, length))
        for start, logit in _local_maxima(candidates):
            a, b = pictures[positions[start]], pictures[positions[start + length]]
            alike = similarity(a, b, scale=2)
            logit += WEIGHTS["similarity"] * alike
            if logit >= 0 and alike <= MAX_SIMILARITY:
                found.append((logit, start, length))
    best = [
        (logit, start, length)
        for logit, start, length in found
        if all(
            (logit, s, n) >= (other, s, n)
            for other, s, n in found
            if abs(2 * (start - s) + length - n) <= 2 * SUPPRESS
        )
    ]
    return [(start, length, 1 / (1 + math.exp(-logit))) for logit, start, length in best]


def _local_maxima(candidates: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Keep each start whose logit is the largest of all at most `SUPPRESS` steps away."""
    return [
        (start, logit)
        for start, logit in candidates
        if all((logit, start) >= (v, s) for s, v in candidates if abs(start - s) <= SUPPRESS)
    ]


def _candidates(
    products: NDArray[np.float64], contrasts: NDArray[np.float64], length: int
) -> Iterator[tuple[int, float]]:
    """
    Find the ranges of one length that may be a dissolve.

    Args:
        products: scalar products of pictures, (T, L): [t, n] of the pictures t and t + n.
        contrasts: standard deviations of the pictures, (T,).
        length: number of steps.

    Yields:
        The first picture of each, and its logit without the similarity of both ends.
    """
    starts = _likely_starts(products, contrasts, length)
    if not len(starts):
        return
    steps = np.arange(length + 1)
    a = starts[:, None]
    i, b = a + steps, a + length
    # R is the difference of both ends, M that of a picture inside to the first one
    first, squares = products[a, 0], products[i, 0]
    whole = products[b, 0] - 2 * products[a, length] + first  # |R|²
    parts = squares - 2 * products[a, steps] + first  # |M|²
    weights = products[i, length - steps] - products[a, steps] - products[a, length] + first
    weights /= whole  # M · R / |R|²
    residual = np.sqrt(np.maximum(0, parts / whole - weights**2))[:, 1:-1].mean(1)
    nonlinearity = np.abs(weights - steps / length).mean(1)
    mean = np.sqrt((contrasts[starts] ** 2 + contrasts[starts + length] ** 2) / 2)
    contrast = contrasts[starts + length // 2] / mean
    logits = (
        BIAS
        + WEIGHTS["change"] * np.log(whole[:, 0] / (ROWS * COLUMNS)) / 2
        + WEIGHTS["residual"] * residual
        + WEIGHTS["nonlinearity"] * nonlinearity
        + WEIGHTS["contrast"] * np.log(np.maximum(contrast, 1e-3))
    )
    steady = np.diff(weights, axis=1).max(1) <= MAX_STEP
    possible = steady & (logits + WEIGHTS["similarity"] * LEAST_SIMILARITY >= 0)
    yield from ((int(starts[k]), float(logits[k])) for k in np.flatnonzero(possible))


def _likely_starts(
    products: NDArray[np.float64], contrasts: NDArray[np.float64], length: int
) -> Integers:
    """Find the ranges in whose middle the picture is about a mixture of both ends."""
    count = len(products) - length
    if count <= 0:
        return np.zeros(0, np.int64)
    half = length // 2
    a, middle = products[:count], products[half : half + count]
    squares = a[:, 0]
    whole = np.maximum(products[length:, 0] - 2 * a[:, length] + squares, 1e-9)
    share = (middle[:, length - half] - a[:, half] - a[:, length] + squares) / whole
    away = (middle[:, 0] - 2 * a[:, half] + squares) / whole - share**2
    flat = np.concatenate([[0], np.cumsum(contrasts < FLAT)])
    return np.flatnonzero(
        (whole >= MIN_CHANGE**2 * ROWS * COLUMNS)
        & (flat[length + 1 :] == flat[:count])
        & (away <= MAX_RESIDUAL**2)
        & (np.abs(share - 0.5) <= 0.3)
    )


def _products(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute scalar products of pictures (T, D): [t, n] of t and t + n, 0 beyond the end."""
    count = len(values)
    products = np.zeros((count, max(LENGTHS) + 1))
    for lag in range(min(count, products.shape[1])):
        products[: count - lag, lag] = np.einsum("ij,ij->i", values[: count - lag], values[lag:])
    return products


def _fades(contrasts: NDArray[np.float64]) -> Iterator[tuple[int, int, str]]:
    """Find fades to and from flat pictures: first and last picture, `out` or `in`."""
    flat = contrasts < FLAT
    for end in np.flatnonzero(flat[1:] & ~flat[:-1]) + 1:
        before = contrasts[max(0, end - FADE_STEPS) : end]
        if before[-1] < MAX_FADED * before.max():
            yield int(end - len(before) + before.argmax()), int(end), "out"
    for start in np.flatnonzero(flat[:-1] & ~flat[1:]):
        after = contrasts[start + 1 : start + 1 + FADE_STEPS]
        if after[0] < MAX_FADED * after.max():
            yield int(start), int(start + 1 + after.argmax()), "in"
