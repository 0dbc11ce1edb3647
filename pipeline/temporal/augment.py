"""
What chance does to a clip before it is learned from: its frames were encoded once and stay so.

A part of the clip, fewer of its frames, and the mirror: changes that leave a label true. A grid of
features with its columns reversed is not quite what the mirrored picture would give, but near; it
is left to the caller to know labels such as `left` that a mirror makes false.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.errors import OptionError
from pipeline.temporal.batching import Batch
from pipeline.temporal.options import TrainingOptions

MIRRORED = 0.5
"""Share of clips that are mirrored, where that is allowed."""


def augment(batch: Batch, options: TrainingOptions, generator: torch.Generator) -> Batch:
    """Change a batch by chance. Every clip keeps at least one frame."""
    x = batch.x
    if options.mirror_grid:
        chosen = torch.rand(len(x), 1, 1, generator=generator) < MIRRORED
        x = torch.where(chosen, mirror(x, options.mirror_grid), x)
    return Batch(x, jitter(batch.mask, options, generator), batch.labels)


def jitter(mask: Tensor, options: TrainingOptions, generator: torch.Generator) -> Tensor:
    """Let a random part of each clip count, (N, L), and not all of its frames: at least one."""
    if options.shortest_crop < 1:
        mask = _kept(mask, crop(mask, options.shortest_crop, generator))
    if options.drop_frames:
        chance = torch.rand(mask.shape, generator=generator)
        mask = _kept(mask, mask & (chance >= options.drop_frames))
    return mask


def mirror(x: Tensor, grid: int) -> Tensor:
    """
    Reverse the columns of features (..., C · grid · grid).

    Raises:
        OptionError: features are no such grid.
    """
    if x.shape[-1] % grid**2:
        raise OptionError(
            f"features of size {x.shape[-1]} are no grid of {grid} × {grid} cells to be mirrored"
        )
    cells = x.reshape(*x.shape[:-1], -1, grid, grid)
    return cells.flip(-1).reshape(x.shape)


def crop(mask: Tensor, shortest: float, generator: torch.Generator) -> Tensor:
    """Keep of the frames that count (N, L) a random run, at least the share `shortest` of them."""
    total = mask.sum(1, keepdim=True)
    least = (total * shortest).ceil().long()
    length = least + ((total - least + 1) * torch.rand(len(mask), 1, generator=generator)).long()
    start = ((total - length + 1) * torch.rand(len(mask), 1, generator=generator)).long()
    number = mask.cumsum(1) - 1
    return mask & (number >= start) & (number < start + length)


def _kept(before: Tensor, after: Tensor) -> Tensor:
    """Undo the change of clips of which nothing would be left."""
    return torch.where(after.any(1, keepdim=True), after, before)
