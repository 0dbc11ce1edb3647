"""Split labelled clips for cross-validation, so that no group is on both sides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import OptionError
from pipeline.records import Integers
from pipeline.temporal.batching import Example


@dataclass(frozen=True, slots=True)
class Fold:
    """One round: what is learned from, and what is judged."""

    name: str
    """Its group, where each fold holds out one; else its number."""
    groups: tuple[str, ...]
    """Held out."""
    train: Integers
    """Numbers of clips."""
    test: Integers
    """Numbers of clips."""


def group_folds(groups: Sequence[str], labels: Sequence[str], count: int) -> list[Fold]:
    """
    Hold out every group once.

    Args:
        groups: of each clip, (n,).
        labels: of each clip, (n,).
        count: how many folds groups are dealt to, so that labels are spread evenly; 0 gives each
            group a fold of its own.

    Raises:
        OptionError: there are fewer groups than folds, or what is left of a fold lacks a label.
    """
    names = sorted(set(groups))
    if count == 1 or count < 0 or len(names) < max(2, count):
        raise OptionError(
            f"--folds {count} is not possible with {_told(names)}: give 0 (leave one group out), "
            "or a number from 2 up to that of the groups"
        )
    dealt = _deal(groups, labels, count) if count else [[name] for name in names]
    single = all(len(held) == 1 for held in dealt)
    folds = [
        _fold(held[0] if single else str(number), groups, held)
        for number, held in enumerate(dealt, start=1)
    ]
    for fold in folds:
        _require_labels(labels, fold)
    return folds


def _deal(groups: Sequence[str], labels: Sequence[str], count: int) -> list[list[str]]:
    """Deal groups, large ones first, each to the fold that has least of its labels."""
    names, rows = np.unique(groups, return_inverse=True)
    kinds, columns = np.unique(labels, return_inverse=True)
    clips = np.zeros((len(names), len(kinds)))
    np.add.at(clips, (rows, columns), 1)
    shares = clips / clips.sum(0)  # (groups, K)
    held = np.zeros((count, len(kinds)))
    dealt: list[list[str]] = [[] for _ in range(count)]
    for number in np.argsort(-clips.sum(1), kind="stable").tolist():
        # where its labels are rarest, and of equals where there is least
        costs = np.round((held * shares[number]).sum(1), 12)
        best = int(np.lexsort((held.sum(1), costs))[0])
        held[best] += shares[number]
        dealt[best].append(str(names[number]))
    return dealt


def _fold(name: str, groups: Sequence[str], held: Sequence[str]) -> Fold:
    out = np.isin(groups, held)
    return Fold(name, tuple(sorted(held)), np.flatnonzero(~out), np.flatnonzero(out))


def _require_labels(labels: Sequence[str], fold: Fold) -> None:
    judged = {labels[number] for number in fold.test.tolist()}
    for label in sorted(judged - {labels[number] for number in fold.train.tolist()}):
        raise OptionError(
            f"fold {fold.name} holds out {_told(fold.groups)}, and with that every clip of the "
            f"label {label}: nothing is left to learn it from. Add clips of other groups, take "
            "more folds, or drop the label"
        )


def empty_warnings(labels: Sequence[str], folds: Sequence[Fold]) -> list[str]:
    """Say which labels are not judged in a fold, where folds hold several groups."""
    said = []
    for fold in folds:
        missing = sorted(set(labels) - {labels[number] for number in fold.test.tolist()})
        if missing and any(len(other.groups) > 1 for other in folds):
            said.append(f"fold {fold.name} has no clip of {', '.join(missing)} to judge")
    return said


def leak_warnings(items: Sequence[Example]) -> list[str]:
    """Say which clips are of one content but in different groups: then groups are no wall."""
    videos: dict[str, dict[str, Example]] = defaultdict(dict)
    for item in items:
        videos[item.video_id].setdefault(item.group, item)
    return [
        f"{_told([item.name for item in same.values()], 'clip')} have the same content but are in "
        "different groups: what is learned from one is judged on the other"
        for same in videos.values()
        if len(same) > 1
    ]


def _told(names: Sequence[str], what: str = "group", most: int = 6) -> str:
    """Say how many, and name some: `2 groups (a, b)`."""
    some = ", ".join(names[:most]) + (", …" if len(names) > most else "")
    return f"{len(names)} {what}{'s' * (len(names) != 1)} ({some})"
