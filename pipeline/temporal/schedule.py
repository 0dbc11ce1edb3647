"""Learning rate schedule, class weights, validation split, and early stopping."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch

from pipeline.records import Integers


def learning_rate(step: int, steps: int, warm_up: float) -> float:
    """
    Give the learning rate of a step, as a share of the peak.

    It grows linearly in the first `warm_up` of the `steps`, then decays along a half cosine to 0.
    """
    first = math.ceil(steps * warm_up)
    if step < first:
        return (step + 1) / first
    return 0.5 * (1 + math.cos(math.pi * (step - first) / max(1, steps - first)))


def class_weights(
    labels: Sequence[int] | Integers, num_labels: int, *, balanced: bool, power: float = 1.0
) -> torch.Tensor:
    """
    Give the weight of each class (K,), with a mean of 1.

    If balanced, it is the inverse frequency of the class to the given power; else it is 1.
    """
    if not balanced:
        return torch.ones(num_labels)
    counts = np.bincount(labels, minlength=num_labels)
    weights = np.where(counts > 0, (len(labels) / np.maximum(counts, 1)) ** power, 0)
    return torch.from_numpy(weights / weights[counts > 0].mean()).float()


class Grouped(Protocol):
    """A clip or a sequence."""

    @property
    def group(self) -> str:
        """Examples of a group are on the same side of a split."""

    def label_counts(self) -> Counter[int]:
        """Count its labels."""


Item = TypeVar("Item", bound=Grouped)


def train_validation_split(
    examples: Sequence[Item], share: float, seed: int
) -> tuple[list[Item], list[Item]]:
    """
    Split examples into a training and a validation set; groups are not split.

    Groups go to the validation set in random order until it has the wanted share of the examples. A
    group without which a label would have no training example stays in the training set.

    Returns:
        Training and validation set; the latter is empty if no group can be moved to it.
    """
    groups: dict[str, list[Item]] = defaultdict(list)
    for example in examples:
        groups[example.group].append(example)
    names = sorted(groups)
    left = _count_labels(examples)
    validation: set[str] = set()
    wanted = round(share * len(examples))
    for number in np.random.default_rng(seed).permutation(len(names)):
        group = groups[names[number]]
        missing = wanted - sum(len(groups[name]) for name in validation)
        labels = _count_labels(group)
        # a larger group would bring the size further from the wanted one than leaving it out
        if len(group) < 2 * missing and all(left[label] > labels[label] for label in labels):
            validation.add(names[number])
            left -= labels
    return (
        [example for example in examples if example.group not in validation],
        [example for example in examples if example.group in validation],
    )


def _count_labels(examples: Iterable[Grouped]) -> Counter[int]:
    return sum((example.label_counts() for example in examples), Counter[int]())


class EarlyStopping:
    """Tracks the lowest validation loss, and stops after `patience` epochs without a lower one."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.lowest = math.inf
        self.epochs_since = 0

    def update(self, loss: float) -> bool:
        """Record the validation loss of an epoch. Returns whether it is the lowest so far."""
        improved = loss < self.lowest
        self.lowest = min(self.lowest, loss)
        self.epochs_since = 0 if improved else self.epochs_since + 1
        return improved

    @property
    def should_stop(self) -> bool:
        """Whether `patience` epochs have passed without a lower loss."""
        return self.epochs_since >= self.patience
