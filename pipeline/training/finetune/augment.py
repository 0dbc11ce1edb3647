"""
What chance does to the pictures of a clip before it is learned from.

One draw holds for all frames of a clip, so that nothing seems to move but what does. Which frames
count, which of them are learned from, and how the clip is seen are drawn on the CPU, from one
generator; the pictures are changed where they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.encode.preprocess import LUMA_WEIGHTS
from pipeline.temporal.augment import FLIP_PROBABILITY
from pipeline.training.finetune.options import TuningOptions

NARROWEST = 3 / 4
"""Width of a crop over its height, compared with the picture; the widest is the inverse."""
MIDDLE = 127.5
"""What contrast leaves as it is: were it a mean of the pictures, some frames would flicker."""


@dataclass(frozen=True, slots=True)
class View:
    """How all pictures of one clip are seen in one step."""

    mirrored: bool
    top: int
    """Of the crop, in pixels, as the next three."""
    left: int
    height: int
    width: int
    brightness: float
    """Factors; 1 changes nothing."""
    contrast: float
    saturation: float


def draw_view(
    size: tuple[int, int], options: TuningOptions, generator: torch.Generator, *, mirror: bool
) -> View:
    """
    Draw how a clip is seen.

    Args:
        size: height and width of its pictures.
        options: how much may change.
        generator: of chance.
        mirror: whether labels stay true in a mirror.
    """
    chance = torch.rand(8, generator=generator).tolist()
    height, width = _crop_size(size, options.smallest_crop, chance[0], chance[1])
    brightness, contrast, saturation = (1 + options.colour * (2 * c - 1) for c in chance[5:])
    return View(
        mirrored=mirror and chance[2] < FLIP_PROBABILITY,
        top=int(chance[3] * (size[0] - height + 1)),
        left=int(chance[4] * (size[1] - width + 1)),
        height=height,
        width=width,
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
    )


def _crop_size(
    size: tuple[int, int], smallest: float, for_area: float, for_shape: float
) -> tuple[int, int]:
    """Choose height and width by two numbers in [0, 1)."""
    area = smallest + (1 - smallest) * for_area
    # a crop of this area that is still within the picture
    bound = min(-math.log(NARROWEST), -math.log(area))
    shape = math.exp(bound * (2 * for_shape - 1))
    height, width = size
    return (
        max(1, min(height, round(height * math.sqrt(area / shape)))),
        max(1, min(width, round(width * math.sqrt(area * shape)))),
    )


def show(pictures: Tensor, view: View) -> Tensor:
    """Change pictures (T, 3, H, W) of values in [0, 255] to how they are seen, of the same size."""
    size = pictures.shape[2:]
    rows = slice(view.top, view.top + view.height)
    seen = pictures[:, :, rows, view.left : view.left + view.width]
    if seen.shape[2:] != size:
        seen = functional.interpolate(seen, size=size, mode="bilinear", antialias=True)
    if view.mirrored:
        seen = seen.flip(3)
    return _recolour(seen, view).clamp(0, 255)


def _recolour(pictures: Tensor, view: View) -> Tensor:
    bright = pictures * view.brightness
    weights = bright.new_tensor(LUMA_WEIGHTS).view(1, 3, 1, 1)
    contrasted = MIDDLE + (bright - MIDDLE) * view.contrast
    grey = (contrasted * weights).sum(1, keepdim=True)  # (T, 1, H, W)
    return grey + (contrasted - grey) * view.saturation


def choose_frames(mask: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Choose at random at most so many of the frames that count, (N, L), in each clip."""
    drawn = torch.rand(mask.shape, generator=generator).masked_fill(~mask, 2.0)
    return mask & (drawn.argsort(1).argsort(1) < most)
