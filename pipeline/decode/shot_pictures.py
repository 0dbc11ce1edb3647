"""
Small grey pictures of decoded frames, in which shot boundaries are found.

They are made of every decoded frame, so they must cost little: pixels of a grid are read, and the
mean of four of them is a pixel of the picture. The luma plane and the RGB image of a frame give the
same picture up to rounding, so that the reader does not matter.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.records import Images

HEIGHT, WIDTH = 48, 64
"""Size of the pictures in pixels; frames of any shape are squeezed to it."""
GRID = (2 * WIDTH, 2 * HEIGHT)
"""Columns and rows of the pixels that are read."""
FULL_RANGE = np.clip(np.round((np.arange(256) - 16) * (255 / 219)), 0, 255).astype(np.uint8)
"""Luma in [16, 235], as most videos store it, to [0, 255]."""

Picture = NDArray[np.uint8]
"""(48, 64)."""


def picture_of_rgb(image: Images) -> Picture:
    """Make the picture of an upright RGB image, (H, W, 3)."""
    points = cv2.resize(image, GRID, interpolation=cv2.INTER_NEAREST_EXACT)
    grey = cv2.cvtColor(points, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA))


def picture_of_luma(
    luma: NDArray[np.uint8], *, full_range: bool, rotation: int = 0, mirrored: bool = False
) -> Picture:
    """
    Make the picture of a stored luma plane, (H, W).

    Args:
        luma: 8 bits a pixel.
        full_range: whether black is 0 and white 255, instead of 16 and 235.
        rotation: degrees clockwise by which the frame is rotated to be upright.
        mirrored: whether the frame is flipped left to right before the rotation.
    """
    grid = GRID[::-1] if rotation % 180 else GRID
    points = cv2.resize(luma, grid, interpolation=cv2.INTER_NEAREST_EXACT)
    if mirrored or rotation:
        upright = points[:, ::-1] if mirrored else points
        points = np.ascontiguousarray(np.rot90(upright, k=-rotation // 90))
    picture = cv2.resize(points, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    return np.asarray(picture if full_range else cv2.LUT(picture, FULL_RANGE))
