"""Split clips into cross-validation folds, so that no group is in training and test set at once."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import GroupKFold, LeaveOneGroupOut, StratifiedGroupKFold

from pipeline.errors import OptionError
from pipeline.records import Integers
from pipeline.temporal.batching import Example

SHUFFLES = 10
"""Random orders of the groups that are tried if the first split misses a label."""
MAX_NAMES = 6
"""Groups or clips that a message names."""


@dataclass(frozen=True, slots=True)
class Fold:
    """Training and test set of one fold."""

    name: str
    """The held-out group if every fold holds out one group, else a number from 1."""
    groups: tuple[str, ...]
    """Held-out groups, sorted."""
    train: Integers
    """Indices of clips."""
    test: Integers
    """Indices of clips."""


def group_folds(groups: Sequence[str], labels: Sequence[str], count: int) -> list[Fold]:
    """
    Split clips into folds; every group is in the test set of exactly one.

    Args:
        groups: of each clip, (n,).
        labels: of each clip, (n,).
        count: number of folds, stratified by label; 0 leaves one group out per fold.

    Raises:
        OptionError: there are fewer groups than folds, or the training set of a fold lacks a label.
    """
    names = sorted(set(groups))
    if count == 1 or count < 0 or len(names) < max(2, count):
        raise OptionError(
            f"--folds {count} is not possible with {_quantity(names)}: use 0 (leave one group "
            "out), or a number from 2 to the number of groups"
        )
    if count == 0:
        folds = _make_folds(groups, labels, LeaveOneGroupOut())
    else:
        folds = _stratified_folds(groups, labels, count)
    for fold in folds:
        missing = _missing_labels(labels, fold)
        if missing:
            raise OptionError(
                f"fold {fold.name} holds out {_quantity(fold.groups)}, and with it all clips of "
                f"the label {missing[0]}, so none is left to train on. Add clips of other groups, "
                "use more folds, or remove the label"
            )
    return folds


def _stratified_folds(groups: Sequence[str], labels: Sequence[str], count: int) -> list[Fold]:
    """Use the first split with every label in all training sets, or else the first split."""
    first: list[Fold] = []
    for splitter in _splitters(count):
        try:
            folds = _make_folds(groups, labels, splitter)
        except ValueError:  # every label has fewer clips than there are folds
            continue
        if not all(len(fold.test) for fold in folds):
            continue
        if not any(_missing_labels(labels, fold) for fold in folds):
            return folds
        first = first or folds
    return first


def _splitters(count: int) -> Iterator[StratifiedGroupKFold | GroupKFold]:
    """Give splitters by preference; the last one never leaves a fold empty."""
    yield StratifiedGroupKFold(count)
    for seed in range(SHUFFLES):
        yield StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    yield GroupKFold(count)
    for seed in range(SHUFFLES):
        yield GroupKFold(count, shuffle=True, random_state=seed)


def _make_folds(
    groups: Sequence[str],
    labels: Sequence[str],
    splitter: StratifiedGroupKFold | GroupKFold | LeaveOneGroupOut,
) -> list[Fold]:
    with warnings.catch_warnings():
        # `empty_warnings` reports folds without a label
        warnings.filterwarnings("ignore", "The least populated class")
        splits = list(splitter.split(np.zeros((len(groups), 1)), labels, groups))
    held_out = [tuple(sorted({groups[index] for index in test.tolist()})) for _, test in splits]
    single = all(len(names) == 1 for names in held_out)
    return [
        Fold(names[0] if single else str(number), names, train, test)
        for number, (names, (train, test)) in enumerate(zip(held_out, splits, strict=True), start=1)
    ]


def _missing_labels(labels: Sequence[str], fold: Fold) -> list[str]:
    """List the labels of a fold's test set that its training set lacks."""
    train = {labels[index] for index in fold.train.tolist()}
    return sorted({labels[index] for index in fold.test.tolist()} - train)


def empty_warnings(labels: Sequence[str], folds: Sequence[Fold]) -> list[str]:
    """Warn about labels without a test clip in a fold, if folds hold out several groups."""
    if all(len(fold.groups) == 1 for fold in folds):
        return []
    messages = []
    for fold in folds:
        missing = sorted(set(labels) - {labels[index] for index in fold.test.tolist()})
        if missing:
            messages.append(f"fold {fold.name} has no test clip of {', '.join(missing)}")
    return messages


def leak_warnings(items: Sequence[Example]) -> list[str]:
    """Warn about clips with the same content in different groups."""
    videos: dict[str, dict[str, Example]] = defaultdict(dict)
    for item in items:
        videos[item.video_id].setdefault(item.group, item)
    return [
        f"{_quantity([item.name for item in same.values()], 'clip')} have the same content but are "
        "in different groups: one may be in the training set while the other is tested"
        for same in videos.values()
        if len(same) > 1
    ]


def _quantity(names: Sequence[str], noun: str = "group") -> str:
    """Count names, and list the first: `2 groups (a, b)`."""
    listed = ", ".join(names[:MAX_NAMES]) + (", …" if len(names) > MAX_NAMES else "")
    return f"{len(names)} {noun}{'s' * (len(names) != 1)} ({listed})"
