"""
Random augmentation of sequences with a label for each frame.

Crops, stretches and dropped frames change the times. The features of another sequence, mixed in,
make evidence weaker, as it is in recordings that the network which computes the features was not
trained on.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.temporal.augment import FLIP_PROBABILITY, flip_grid
from pipeline.temporal.options import TrainingOptions

Tensors = tuple[Tensor, Tensor, Tensor]
"""Features (L, D), mask (L,) and targets (L,) or (L, K) of one sequence."""

SLOWEST, FASTEST = 0.3, 1.0
"""Range of the speed at which the features of another sequence are mixed in."""


def augment_sequence(
    sequence: Tensors, options: TrainingOptions, generator: torch.Generator
) -> Tensors:
    """Augment a sequence at random in time, and flip it: its targets follow its frames."""
    features, mask, targets = crop(sequence, options.shortest_crop, generator)
    if options.stretch > 1:
        factor = options.stretch ** uniform(-1, 1, generator)
        features, mask, targets = stretch((features, mask, targets), factor)
    if options.mirror_grid and torch.rand((), generator=generator) < FLIP_PROBABILITY:
        features = flip_grid(features, options.mirror_grid)
    if options.drop_frames:
        kept = mask & (torch.rand(mask.shape, generator=generator) >= options.drop_frames)
        mask = kept if kept.any() else mask
    return features, mask, targets


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """Draw a number in [low, high)."""
    return low + (high - low) * torch.rand((), generator=generator).item()


def crop(sequence: Tensors, min_share: float, generator: torch.Generator) -> Tensors:
    """Keep a random contiguous part of at least `min_share` of the frames."""
    total = len(sequence[0])
    shortest = math.ceil(total * min_share)
    length = int(torch.randint(shortest, total + 1, (), generator=generator))
    start = int(torch.randint(total - length + 1, (), generator=generator))
    features, mask, targets = (part[start : start + length] for part in sequence)
    return features, mask, targets


def stretch(sequence: Tensors, factor: float) -> Tensors:
    """
    Resample a sequence to about `factor` times its length.

    Features are interpolated linearly between frames; mask and targets are those of the nearest
    frame.
    """
    features, mask, targets = sequence
    length = max(1, round(len(features) * factor))
    positions = torch.linspace(0, len(features) - 1, length)
    before = positions.floor().long()
    after = (before + 1).clamp(max=len(features) - 1)
    nearest = positions.round().long()
    features = torch.lerp(features[before], features[after], (positions - before).unsqueeze(1))
    return features, mask[nearest], targets[nearest]


def mix_in(features: Tensor, other: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """
    Mix the features of another sequence in, from a random frame on and at a random speed.

    Args:
        features: (L, D).
        other: of the other sequence, (T, D); it is repeated where it ends.
        share: greatest share of the other features; it is drawn from [0, share).
        generator: of the random numbers.
    """
    if not len(other):
        return features
    speed = uniform(SLOWEST, FASTEST, generator)
    start = uniform(0, len(other), generator)
    times = (start + speed * torch.arange(len(features))).long() % len(other)
    return torch.lerp(features, other[times], uniform(0, share, generator))
