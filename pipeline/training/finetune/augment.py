"""
Random augmentation of the frames of a clip.

All frames of a clip get the same parameters, so that augmentation adds no apparent motion. Random
numbers are drawn on the CPU from one generator; frames are changed on their device.
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

MIN_ASPECT_RATIO = 3 / 4
"""Of crops, relative to that of the frame; the maximum is the inverse."""
MID_GREY = 127.5
"""Fixed point of contrast changes. The mean of each frame would make frames flicker."""


@dataclass(frozen=True, slots=True)
class AugmentParams:
    """Parameters for all frames of one clip in one step."""

    mirrored: bool
    top: int
    """Of the crop, in pixels, like the next three."""
    left: int
    height: int
    width: int
    brightness: float
    """Factor, like the next two; 1 changes nothing."""
    contrast: float
    saturation: float


def sample_params(
    size: tuple[int, int], options: TuningOptions, generator: torch.Generator, *, mirror: bool
) -> AugmentParams:
    """
    Sample the parameters of a clip.

    Args:
        size: height and width of the frames.
        options: ranges of the parameters.
        generator: random generator.
        mirror: whether clips may be mirrored.
    """
    uniform = torch.rand(8, generator=generator).tolist()
    height, width = _crop_size(size, options.smallest_crop, uniform[0], uniform[1])
    brightness, contrast, saturation = (1 + options.colour * (2 * u - 1) for u in uniform[5:])
    return AugmentParams(
        mirrored=mirror and uniform[2] < FLIP_PROBABILITY,
        top=int(uniform[3] * (size[0] - height + 1)),
        left=int(uniform[4] * (size[1] - width + 1)),
        height=height,
        width=width,
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
    )


def _crop_size(
    size: tuple[int, int], min_area: float, area_position: float, ratio_position: float
) -> tuple[int, int]:
    """Choose height and width; both positions are in [0, 1), within the allowed ranges."""
    area = min_area + (1 - min_area) * area_position
    # a crop of this area must fit into the frame
    max_log_ratio = min(-math.log(MIN_ASPECT_RATIO), -math.log(area))
    ratio = math.exp(max_log_ratio * (2 * ratio_position - 1))
    height, width = size
    return (
        max(1, min(height, round(height * math.sqrt(area / ratio)))),
        max(1, min(width, round(width * math.sqrt(area * ratio)))),
    )


def apply(frames: Tensor, params: AugmentParams) -> Tensor:
    """Augment frames (T, 3, H, W) with values in [0, 255]; the shape stays the same."""
    size = frames.shape[2:]
    rows = slice(params.top, params.top + params.height)
    cropped = frames[:, :, rows, params.left : params.left + params.width]
    if cropped.shape[2:] != size:
        cropped = functional.interpolate(cropped, size=size, mode="bilinear", antialias=True)
    if params.mirrored:
        cropped = cropped.flip(3)
    return _adjust_colours(cropped, params).clamp(0, 255)


def _adjust_colours(frames: Tensor, params: AugmentParams) -> Tensor:
    bright = frames * params.brightness
    weights = bright.new_tensor(LUMA_WEIGHTS).view(1, 3, 1, 1)
    contrasted = MID_GREY + (bright - MID_GREY) * params.contrast
    grey = (contrasted * weights).sum(1, keepdim=True)  # (T, 1, H, W)
    return grey + (contrasted - grey) * params.saturation


def choose_frames(mask: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Choose at most `count` random frames of each clip, among those of the mask (N, L)."""
    order = torch.rand(mask.shape, generator=generator).masked_fill(~mask, 2.0)
    return mask & (order.argsort(1).argsort(1) < count)
