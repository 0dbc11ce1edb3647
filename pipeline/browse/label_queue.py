"""
Which clip to label next.

Before `MIN_PROBE_LABELS` labels: the clips between whose two best labels a recognizer decides least
clearly, or without a recognizer those that differ most from all clips labelled so far. Then a
linear probe is fitted to the labelled clips after each answer, and the clips that it is least sure
of come first. Videos with few answers have priority.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.browse.candidates import Candidates
from pipeline.evaluation.baselines import fit_logistic_regression
from pipeline.temporal.calibration import softmax

MIN_PROBE_LABELS = 20
EXPLORE_EVERY = 4
"""With a probe, each such clip is one that differs most from all labelled ones: the probe knows
nothing about labels that it has not seen."""
MAX_FOLDS = 5
WAITING = 60.0
"""Seconds for which a clip that was given to one browser is not given to another."""


class LabelQueue:
    """
    Orders the candidates. Safe to use from several threads.

    Args:
        candidates: the clips.
    """

    def __init__(self, candidates: Candidates) -> None:
        self.candidates = candidates
        count = candidates.num_clips
        self._lock = threading.Lock()
        self._open = np.ones(count, np.bool_)
        """Clips that were neither labelled nor skipped."""
        self._labels: dict[int, str] = {}
        self._answers_of_video = np.zeros(candidates.num_videos, np.int64)
        self._video = np.array([clip.video for clip in candidates.clips])
        vectors = candidates.vectors
        self._unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
        self._given: dict[int, float] = {}
        self._margins = candidates.margins
        self._turns = 0
        self.accuracy: float | None = None
        """Of the probe, in cross-validation over the videos; None without a probe."""

    @property
    def num_open(self) -> int:
        """Clips that are left."""
        return int(self._open.sum())

    def next(self, now: float) -> int | None:
        """Return the clip to label next, and reserve it for a while; None if none is left."""
        with self._lock:
            free = self._open.copy()
            waiting = [row for row, until in self._given.items() if until > now]
            free[waiting] = False
            rows = np.flatnonzero(free if free.any() else self._open)
            if not len(rows):
                return None
            row = int(rows[self._order(rows)[0]])
            self._given[row] = now + WAITING
            self._turns += 1
            return row

    def _order(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions of rows, best first."""
        explores = self.accuracy is not None and self._turns % EXPLORE_EVERY == EXPLORE_EVERY - 1
        margins = None if explores else self._margins
        key = -self._distance(rows) if margins is None else margins[rows]
        return np.lexsort((key, self._answers_of_video[self._video[rows]]))

    def _distance(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the cosine distance of clips to the most similar one that is not open, (n,)."""
        known = np.flatnonzero(~self._open)
        if not len(known):
            centre = self._unit.mean(0)
            typical: NDArray[np.float32] = self._unit[rows] @ centre  # begin with a typical one
            return typical
        nearest: NDArray[np.float32] = (self._unit[rows] @ self._unit[known].T).max(1)
        return 1 - nearest

    def label(self, row: int, label: str) -> None:
        """Add an answer, and fit the probe anew."""
        with self._lock:
            self._open[row] = False
            self._given.pop(row, None)
            self._labels[row] = label
            self._answers_of_video[self._video[row]] += 1
            labels = dict(self._labels)
        self._fit(labels)

    def skip(self, row: int) -> None:
        """Do not offer a clip again."""
        with self._lock:
            self._open[row] = False

    def reopen(self, row: int) -> None:
        """Take back an answer or a skip."""
        with self._lock:
            self._open[row] = True
            if self._labels.pop(row, None) is not None:
                self._answers_of_video[self._video[row]] -= 1
            labels = dict(self._labels)
        self._fit(labels)

    def counts(self) -> dict[str, int]:
        """Return the number of labelled clips by label."""
        with self._lock:
            found = list(self._labels.values())
        return {label: found.count(label) for label in dict.fromkeys(found)}

    def _fit(self, labels: dict[int, str]) -> None:
        """Fit the probe, and rank all clips by its margins."""
        names = sorted(set(labels.values()))
        if len(labels) < MIN_PROBE_LABELS or len(names) < 2:
            return
        rows = np.array(list(labels))
        targets = np.array([names.index(label) for label in labels.values()])
        vectors = self.candidates.vectors.astype(np.float64)
        probe = fit_logistic_regression(vectors[rows], targets, len(names))
        margins = margins_of(softmax(probe.logits(vectors)))
        accuracy = cross_validated(vectors[rows], targets, self._video[rows], len(names))
        with self._lock:
            if labels.keys() <= self._labels.keys():  # a later answer may have been faster
                self._margins, self.accuracy = margins, accuracy


def margins_of(probabilities: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the differences of the two highest probabilities, (n, K) to (n,)."""
    best = np.sort(probabilities, axis=1)[:, -2:]
    margins: NDArray[np.float32] = (best[:, 1] - best[:, 0]).astype(np.float32)
    return margins


def cross_validated(
    vectors: NDArray[np.float64],
    targets: NDArray[np.int64],
    groups: Sequence[int] | NDArray[np.int64],
    num_labels: int,
) -> float | None:
    """Return the accuracy of the probe on videos that it was not fitted to; None with one video."""
    _, group = np.unique(groups, return_inverse=True)
    folds = min(MAX_FOLDS, int(group.max()) + 1)
    if folds < 2:
        return None
    correct = 0
    for fold in range(folds):
        test = group % folds == fold
        probe = fit_logistic_regression(vectors[~test], targets[~test], num_labels)
        correct += int((probe.logits(vectors[test]).argmax(1) == targets[test]).sum())
    return correct / len(targets)
