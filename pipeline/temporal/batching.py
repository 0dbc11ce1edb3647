"""
Labelled clips as features, and the batches of a training.

A batch holds clips of about equal lengths, so that little of it is padding. Which clips share a
batch, and the order of the batches, is random in every epoch.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BUCKET_BATCHES = 8
"""Batches per bucket: clips are sorted by length within a bucket."""


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled clip."""

    name: str
    """Video and times, for messages and tables."""
    video_id: str
    group: str
    """Scene, person or recording: all clips of a group are on the same side of a split."""
    label: int
    """Index into `Examples.labels`."""
    features: NDArray[np.float32]
    """(L, D)."""
    mask: NDArray[np.bool_]
    """True for frames that are used, (L,)."""
    start_seconds: float
    end_seconds: float
    sample_index: NDArray[np.int64] | None = None
    """Index of each frame among the sampled frames of the video, (L,); None for synthetic clips."""
    video: str = ""
    """Path of the video, for tables; empty for synthetic clips."""

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.features.dtype != np.float32:
            raise ValueError(
                f"features must be float32 of shape (L, D), got {self.features.dtype} "
                f"of shape {self.features.shape}"
            )
        if self.mask.shape != self.features.shape[:1] or self.mask.dtype != np.bool_:
            raise ValueError(
                f"mask must be bool of shape {self.features.shape[:1]}, got "
                f"{self.mask.dtype} of shape {self.mask.shape}"
            )
        if self.sample_index is not None and self.sample_index.shape != self.mask.shape:
            raise ValueError(
                f"sample_index must have the shape {self.mask.shape}, got {self.sample_index.shape}"
            )

    def label_counts(self) -> Counter[int]:
        """Count the labels of the clip: once its label."""
        return Counter([self.label])


@dataclass(frozen=True, slots=True)
class Examples:
    """Labelled clips, and the names of the labels."""

    items: tuple[Example, ...]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        wrong = [item.name for item in self.items if not 0 <= item.label < len(self.labels)]
        if wrong:
            raise ValueError(
                f"labels must be in [0, {len(self.labels)}), but are not in the clips {wrong}"
            )


class HasFeatures(Protocol):
    """A clip or a sequence."""

    @property
    def features(self) -> NDArray[np.float32]:
        """(L, D)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Clips padded to the length of the longest."""

    x: Tensor
    """(N, L, D)."""
    mask: Tensor
    """True for frames that are used, (N, L)."""
    labels: Tensor
    """(N,)."""
    standardized: bool = False
    """Whether the features are standardized already, by the input layer of the model."""

    def to(self, device: torch.device) -> Batch:
        """Copy the batch to a device."""
        x, mask, labels = self.x.to(device), self.mask.to(device), self.labels.to(device)
        return Batch(x, mask, labels, self.standardized)


def valid_frames(examples: Iterable[Example]) -> list[Tensor]:
    """Give the features of the frames in the mask of each clip, (L, D)."""
    return [torch.from_numpy(example.features[example.mask]) for example in examples]


def collate(examples: Sequence[Example]) -> Batch:
    """Pad clips to the length of the longest and stack them."""
    longest = max(len(example.features) for example in examples)
    size = examples[0].features.shape[1]
    x = torch.zeros(len(examples), longest, size)
    mask = torch.zeros(len(examples), longest, dtype=torch.bool)
    for row, example in enumerate(examples):
        x[row, : len(example.features)] = torch.from_numpy(example.features)
        mask[row, : len(example.mask)] = torch.from_numpy(example.mask)
    return Batch(x, mask, torch.tensor([example.label for example in examples]))


def batches_by_length(examples: Sequence[HasFeatures], batch_size: int) -> Iterator[list[int]]:
    """Yield batches of indices into examples, sorted by length; each index once."""
    order = sorted(range(len(examples)), key=lambda n: len(examples[n].features))
    yield from _split(order, batch_size)


def shuffled_batches(
    examples: Sequence[HasFeatures], batch_size: int, generator: torch.Generator
) -> Iterator[list[int]]:
    """
    Yield batches of indices into examples in random order; each index once.

    The clips of a batch have about equal lengths: they are sorted within random buckets.
    """
    shuffled = torch.randperm(len(examples), generator=generator).tolist()
    batches = []
    for bucket in _split(shuffled, BUCKET_BATCHES * batch_size):
        bucket.sort(key=lambda n: len(examples[n].features))
        batches += _split(bucket, batch_size)
    for number in torch.randperm(len(batches), generator=generator).tolist():
        yield batches[number]


def _split(numbers: list[int], size: int) -> list[list[int]]:
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def hash_examples(*parts: Sequence[Example]) -> str:
    """Hash the content and the order of examples into 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        for example in part:
            metadata = (example.name, example.video_id, example.group, example.label)
            digest.update(repr((metadata, example.features.shape)).encode())
            digest.update(np.ascontiguousarray(example.features).data)
            digest.update(example.mask.tobytes())
        digest.update(b"end of part")
    return digest.hexdigest()


def mean_and_std(parts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Compute the mean and standard deviation (D,) over all rows of parts (n, D)."""
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
