"""
Labelled clips as features, and the batches that training is fed with.

Clips of about equal lengths share a batch, so that little of it is padding; which ones do, and in
which order batches come, is drawn anew every epoch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BUCKET_BATCHES = 8
"""Batches among which clips are sorted by length."""


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled clip."""

    name: str
    """Video and times, as messages and tables name it."""
    video_id: str
    group: str
    """What must not be on both sides of a split: a scene, a person, a recording."""
    label: int
    """Index into `Examples.labels`."""
    features: NDArray[np.float32]
    """(L, D)."""
    counts: NDArray[np.bool_]
    """Which frames count, (L,)."""
    start_seconds: float
    end_seconds: float
    samples: NDArray[np.int64] | None = None
    """Numbers of the frames among the samples of their video, (L,); None for a clip of none."""

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.features.dtype != np.float32:
            raise ValueError(
                f"features must be float32 of shape (L, D), got {self.features.dtype} "
                f"of shape {self.features.shape}"
            )
        if self.counts.shape != self.features.shape[:1] or self.counts.dtype != np.bool_:
            raise ValueError(
                f"counts must be bool of shape {self.features.shape[:1]}, got "
                f"{self.counts.dtype} of shape {self.counts.shape}"
            )
        if self.samples is not None and self.samples.shape != self.counts.shape:
            raise ValueError(
                f"samples must have the shape {self.counts.shape}, got {self.samples.shape}"
            )


@dataclass(frozen=True, slots=True)
class Examples:
    """Labelled clips, and the names of their labels."""

    items: tuple[Example, ...]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        wrong = [item.name for item in self.items if not 0 <= item.label < len(self.labels)]
        if wrong:
            raise ValueError(f"labels must be in [0, {len(self.labels)}), not so in {wrong}")


@dataclass(frozen=True, slots=True)
class Batch:
    """Clips side by side, padded to the longest."""

    x: Tensor
    """(N, L, D)."""
    mask: Tensor
    """Which frames count, (N, L)."""
    labels: Tensor
    """(N,)."""

    def to(self, device: torch.device) -> Batch:
        """Give the batch on a device."""
        return Batch(self.x.to(device), self.mask.to(device), self.labels.to(device))


def collate(examples: Sequence[Example]) -> Batch:
    """Put clips side by side, as they are."""
    longest = max(len(example.features) for example in examples)
    size = examples[0].features.shape[1]
    x = torch.zeros(len(examples), longest, size)
    mask = torch.zeros(len(examples), longest, dtype=torch.bool)
    for row, example in enumerate(examples):
        x[row, : len(example.features)] = torch.from_numpy(example.features)
        mask[row, : len(example.counts)] = torch.from_numpy(example.counts)
    return Batch(x, mask, torch.tensor([example.label for example in examples]))


def ordered_batches(examples: Sequence[Example], batch_size: int) -> Iterator[list[int]]:
    """Cut the numbers of examples into batches by length, each number once."""
    order = sorted(range(len(examples)), key=lambda n: len(examples[n].features))
    yield from map(list, _chunks(order, batch_size))


def shuffled_batches(
    examples: Sequence[Example], batch_size: int, generator: torch.Generator
) -> Iterator[list[int]]:
    """
    Cut the numbers of examples into batches of about equal lengths, in random order.

    Each number comes once; which clips meet in a batch is chance within a bucket.
    """
    shuffled = torch.randperm(len(examples), generator=generator).tolist()
    batches = []
    for bucket in _chunks(shuffled, BUCKET_BATCHES * batch_size):
        bucket.sort(key=lambda n: len(examples[n].features))
        batches += _chunks(bucket, batch_size)
    for number in torch.randperm(len(batches), generator=generator).tolist():
        yield batches[number]


def _chunks(numbers: list[int], size: int) -> list[list[int]]:
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def fingerprint_of(*parts: Sequence[Example]) -> str:
    """Hash examples, what they hold and their order, into 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        for example in part:
            said = (example.name, example.video_id, example.group, example.label)
            digest.update(repr((said, example.features.shape)).encode())
            digest.update(np.ascontiguousarray(example.features).data)
            digest.update(example.counts.tobytes())
        digest.update(b"end of part")
    return digest.hexdigest()


def moments(parts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Measure the mean and the standard deviation (D,) of all rows of parts (n, D)."""
    total = square = torch.zeros((), dtype=torch.float64)
    rows = 0
    for part in parts:
        exact = part.double()
        total = total + exact.sum(0)
        square = square + (exact**2).sum(0)
        rows += len(part)
    mean = total / max(1, rows)
    variance = (square / max(1, rows) - mean**2).clamp(min=0)
    return mean.float(), variance.sqrt().float()
