"""Random augmentation of sequences with a label for each frame: crop, stretch, drop frames."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.temporal.augment import FLIP_PROBABILITY, flip_grid
from pipeline.temporal.options import TrainingOptions

Tensors = tuple[Tensor, Tensor, Tensor]
"""Features (L, D), mask (L,) and targets (L,) or (L, K) of one sequence."""


def augment_sequence(
    sequence: Tensors, options: TrainingOptions, generator: torch.Generator
) -> Tensors:
    """Augment a sequence at random: its targets follow its frames."""
    features, mask, targets = crop(sequence, options.shortest_crop, generator)
    if options.stretch > 1:
        features, mask, targets = stretch(
            (features, mask, targets), random_factor(options.stretch, generator)
        )
    if options.mirror_grid and torch.rand((), generator=generator) < FLIP_PROBABILITY:
        features = flip_grid(features, options.mirror_grid)
    drop = options.drop_frames
    if drop:
        dropped = mask & (torch.rand(mask.shape, generator=generator) >= drop)
        mask = dropped if dropped.any() else mask
    return features, mask, targets


def crop(sequence: Tensors, min_share: float, generator: torch.Generator) -> Tensors:
    """Keep a random contiguous part of at least `min_share` of the frames."""
    total = len(sequence[0])
    shortest = math.ceil(total * min_share)
    length = int(torch.randint(shortest, total + 1, (), generator=generator))
    start = int(torch.randint(total - length + 1, (), generator=generator))
    features, mask, targets = (part[start : start + length] for part in sequence)
    return features, mask, targets


def random_factor(greatest: float, generator: torch.Generator) -> float:
    """Draw a factor in [1 / greatest, greatest], log-uniformly."""
    return float(greatest ** (2 * torch.rand((), generator=generator) - 1))


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
