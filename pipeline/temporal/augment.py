"""
Random augmentation of clips whose frame features are cached.

Crops in time, dropped frames and horizontal flips keep most labels true. Reversing the columns of a
feature grid only approximates the features of the flipped frame. The caller must disable flips for
labels such as `left`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.errors import OptionError
from pipeline.temporal.options import TrainingOptions

FLIP_PROBABILITY = 0.5


def draw_flips(count: int, options: TrainingOptions, generator: torch.Generator) -> list[bool]:
    """Draw which clips are flipped horizontally."""
    if not options.mirror_grid:
        return [False] * count
    flips: list[bool] = (torch.rand(count, generator=generator) < FLIP_PROBABILITY).tolist()
    return flips


def augment_mask(mask: Tensor, options: TrainingOptions, generator: torch.Generator) -> Tensor:
    """Crop clips in time and drop frames of them: masks (N, L) with at least one frame each."""
    if options.shortest_crop < 1:
        mask = _keep_nonempty(mask, crop_in_time(mask, options.shortest_crop, generator))
    if options.drop_frames:
        random = torch.rand(mask.shape, generator=generator)
        mask = _keep_nonempty(mask, mask & (random >= options.drop_frames))
    return mask


def flip_grid(x: Tensor, grid: int) -> Tensor:
    """
    Reverse the columns of features that are a grid, (..., C · grid · grid).

    Raises:
        OptionError: the feature size is not a multiple of grid².
    """
    if x.shape[-1] % grid**2:
        raise OptionError(
            f"features of size {x.shape[-1]} are not a grid of {grid} × {grid} cells: they cannot "
            "be flipped"
        )
    cells = x.reshape(*x.shape[:-1], -1, grid, grid)
    return cells.flip(-1).reshape(x.shape)


def crop_in_time(mask: Tensor, min_share: float, generator: torch.Generator) -> Tensor:
    """Keep a random contiguous part, at least `min_share`, of the frames in a mask (N, L)."""
    total = mask.sum(1, keepdim=True)
    shortest = (total * min_share).ceil().long()
    random = torch.rand(len(mask), 1, generator=generator)
    length = shortest + ((total - shortest + 1) * random).long()
    start = ((total - length + 1) * torch.rand(len(mask), 1, generator=generator)).long()
    number = mask.cumsum(1) - 1
    return mask & (number >= start) & (number < start + length)


def _keep_nonempty(before: Tensor, after: Tensor) -> Tensor:
    """Use the mask `before` for clips that would have no frame left."""
    return torch.where(after.any(1, keepdim=True), after, before)
