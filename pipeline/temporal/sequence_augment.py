"""
Random augmentation of sequences with a label for each step.

Crops, stretches and dropped steps change the times. The inputs of another sequence, mixed in, make
evidence weaker, as it is in recordings that the network which computes the features was not trained
on.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pipeline.temporal.options import TrainingOptions
from pipeline.temporal.sequence_steps import Steps

SLOWEST, FASTEST = 0.3, 1.0
"""Range of the speed at which another sequence is mixed in."""


def augment_steps(steps: Steps, options: TrainingOptions, generator: torch.Generator) -> Steps:
    """Augment a sequence at random in time: its targets follow its inputs; one step stays."""
    if not len(steps[0]):
        return steps
    inputs, targets = crop(steps, options.shortest_crop, generator)
    if options.stretch > 1:
        factor = options.stretch ** uniform(-1, 1, generator)
        inputs, targets = stretch((inputs, targets), factor)
    if options.drop_frames:
        kept: Any = torch.rand(len(inputs), generator=generator) >= options.drop_frames
        kept = kept if kept.any() else slice(1)
        inputs, targets = inputs[kept], targets[kept]
    return inputs, targets


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """Draw a number in [low, high)."""
    return low + (high - low) * torch.rand((), generator=generator).item()


def crop(steps: Steps, min_share: float, generator: torch.Generator) -> Steps:
    """Keep a random contiguous part of at least `min_share` of the steps."""
    total = len(steps[0])
    shortest = math.ceil(total * min_share)
    length = int(torch.randint(shortest, total + 1, (), generator=generator))
    start = int(torch.randint(total - length + 1, (), generator=generator))
    inputs, targets = (part[start : start + length] for part in steps)
    return inputs, targets


def stretch(steps: Steps, factor: float) -> Steps:
    """
    Resample a sequence to about `factor` times its length.

    Inputs are interpolated linearly between steps; targets are those of the nearest step.
    """
    inputs, targets = steps
    length = max(1, round(len(inputs) * factor))
    positions = torch.linspace(0, len(inputs) - 1, length)
    before = positions.floor().long()
    after = (before + 1).clamp(max=len(inputs) - 1)
    inputs = torch.lerp(inputs[before], inputs[after], (positions - before).unsqueeze(1))
    return inputs, targets[positions.round().long()]


def mix_in(inputs: Tensor, other: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """
    Mix another sequence in, from a random step on and at a random speed.

    Args:
        inputs: (L, P).
        other: inputs of the other sequence, (T, P); it is repeated where it ends.
        share: greatest share of the other sequence; it is drawn from [0, share).
        generator: of the random numbers.
    """
    if not len(other):
        return inputs
    speed = uniform(SLOWEST, FASTEST, generator)
    start = uniform(0, len(other), generator)
    times = (start + speed * torch.arange(len(inputs))).long() % len(other)
    return torch.lerp(inputs, other[times], uniform(0, share, generator))
