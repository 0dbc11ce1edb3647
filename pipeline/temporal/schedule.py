"""What guides training from step to step: learning rate, groups held back, when to stop."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import torch

from pipeline.temporal.batching import Example


def learning_rate(step: int, steps: int, warm_up: float) -> float:
    """
    Give the share of the highest learning rate in a step.

    It grows along a line in the first `warm_up` of the `steps`, then falls along half a cosine.
    """
    first = math.ceil(steps * warm_up)
    if step < first:
        return (step + 1) / first
    return 0.5 * (1 + math.cos(math.pi * (step - first) / max(1, steps - first)))


def class_weights(labels: Sequence[int], num_labels: int, *, balanced: bool) -> torch.Tensor:
    """Give the weight of each label (K,): that of rare ones grows as they are rare; mean 1."""
    if not balanced:
        return torch.ones(num_labels)
    counts = np.bincount(labels, minlength=num_labels)
    weights = np.where(counts > 0, len(labels) / np.maximum(counts, 1), 0)
    return torch.from_numpy(weights / weights[counts > 0].mean()).float()


def hold_back(
    examples: Sequence[Example], share: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """
    Split examples into those to learn from and those held back, whole groups at a time.

    Groups are held back in random order until they hold the wanted share, but none that would leave
    a label without an example to learn from.

    Returns:
        To learn from, and held back; the second is empty where no group can be spared.
    """
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        groups[example.group].append(example)
    names = sorted(groups)
    left = Counter(example.label for example in examples)
    held: set[str] = set()
    wanted = round(share * len(examples))
    for number in np.random.default_rng(seed).permutation(len(names)):
        group = groups[names[number]]
        missing = wanted - sum(len(groups[name]) for name in held)
        here = Counter(example.label for example in group)
        # a group that overshoots by more than it brings near is too large
        if len(group) < 2 * missing and all(left[label] > here[label] for label in here):
            held.add(names[number])
            left -= here
    return (
        [example for example in examples if example.group not in held],
        [example for example in examples if example.group in held],
    )


class Patience:
    """Remembers the best epoch, and tells when none has been better for long."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.best = math.inf
        self.since = 0

    def better(self, loss: float) -> bool:
        """Take note of the loss of an epoch; tell whether it is the best so far."""
        better = loss < self.best
        self.best = min(self.best, loss)
        self.since = 0 if better else self.since + 1
        return better

    @property
    def over(self) -> bool:
        """Whether it is time to stop."""
        return self.since >= self.epochs
