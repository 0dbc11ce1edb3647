"""
Resize and crop decoded frames to the input of a backbone: on arrival, or when they are encoded.

On arrival if the CPU does it and it makes frames smaller: they are still in its cache, and the
images that wait for the engine take a fraction of the memory of the decoded frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.config import Geometry
from pipeline.encode.backbone import Backbone
from pipeline.encode.engine import Engine
from pipeline.records import FrameBatch, Images, Integers

LUMA_WEIGHTS = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the brightness of a pixel (ITU-R BT.601)."""
MAX_BYTES, MAX_FRAMES = 32 << 20, 512
"""Frames that are preprocessed at once: this takes several times their bytes."""


def scaled_size(height: int, width: int, geometry: Geometry) -> tuple[int, int]:
    """Return the size (h, w) to which a whole frame is resized before the centre crop."""
    scaled_height, scaled_width = geometry.scaled
    if geometry.fit == "squash":
        return scaled_height, scaled_width
    if height <= width:
        return scaled_height, int(scaled_height * width / height)
    return int(scaled_height * height / width), scaled_height


def resize_and_crop(frames: Tensor, backbone: Backbone) -> Tensor:
    """
    Resize frames with antialiasing, as Pillow does, and crop the centre.

    Args:
        frames: (T, 3, h, w), uint8 or float.
        backbone: backbone with the geometry and the interpolation.

    Returns:
        (T, 3, H, W), same dtype.
    """
    geometry = backbone.geometry
    size = scaled_size(frames.shape[2], frames.shape[3], geometry)
    if tuple(frames.shape[2:]) != size:
        frames = functional.interpolate(
            frames, size=size, mode=backbone.interpolation, antialias=True
        )
    top = round((size[0] - geometry.height) / 2)
    left = round((size[1] - geometry.width) / 2)
    return frames[:, :, top : top + geometry.height, left : left + geometry.width]


def preprocesses_on_arrival(engine: Engine, size: tuple[int, int]) -> bool:
    """Whether decoded frames of a size (h, w) are preprocessed before they wait for the engine."""
    geometry = engine.backbone.geometry
    return engine.device == "cpu" and math.prod(size) > geometry.height * geometry.width


def staged_size(engine: Engine, size: tuple[int, int]) -> tuple[int, int]:
    """Return the size (h, w) in which decoded frames of a size wait for the engine."""
    geometry = engine.backbone.geometry
    return (geometry.height, geometry.width) if preprocesses_on_arrival(engine, size) else size


def preprocess_decoded(engine: Engine, frames: Images, frame_index: Integers) -> Images:
    """
    Preprocess decoded frames on arrival.

    Args:
        engine: engine that resizes them.
        frames: (T, h, w, 3), few enough to be preprocessed at once.
        frame_index: position of each frame in the video, (T,); repeats are resized once.

    Returns:
        (T, H, W, 3).
    """
    rows = feature_rows(frame_index, 0)
    images = engine.preprocess(_without_repeats(frames, rows)).cpu().numpy()
    return images if len(images) == len(rows) else images[rows]


def preprocess_batches(engine: Engine, batches: Sequence[FrameBatch]) -> Iterator[Tensor]:
    """
    Yield the network input of all chunks, uint8 (n, H, W, 3 · (1 + previous_frames)).

    Samples that repeat a frame share one row; `feature_rows` maps samples to rows.
    """
    with_previous = engine.backbone.previous_frames > 0
    for batch in batches:
        rows = feature_rows(batch.frame_index, engine.backbone.previous_frames)
        last: Tensor | None = None
        for frames in split_frames(_without_repeats(batch.images, rows)):
            images = torch.from_numpy(frames) if batch.resized else engine.preprocess(frames)
            if with_previous:  # the first frame of a chunk is its own previous frame
                previous = torch.cat([images[:1] if last is None else last, images[:-1]])
                last = images[-1:]
                images = torch.cat([previous, images], dim=3)
            yield images


def feature_rows(frame_index: Integers, previous_frames: int) -> Integers:
    """
    Return the row of the features of each sample: samples that repeat a frame share one row.

    With a previous frame, the second sample of a frame has its own row: its previous frame differs.

    Args:
        frame_index: frame of each sample, (T,).
        previous_frames: frames that are encoded together with a frame.

    Returns:
        (T,), starting at 0, never decreasing.
    """
    samples = np.arange(len(frame_index))
    is_new = np.concatenate([[True], np.diff(frame_index) != 0])[: len(samples)]
    repeats = samples - np.maximum.accumulate(np.where(is_new, samples, 0))
    return np.cumsum(repeats <= previous_frames) - 1


def _without_repeats(frames: Images, rows: Integers) -> Images:
    """Keep the first frame of each row."""
    if not len(rows) or rows[-1] == len(rows) - 1:
        return frames
    return frames[np.unique(rows, return_index=True)[1]]


def split_frames(frames: Images) -> Iterator[Images]:
    """Split frames into parts that are small enough to be preprocessed at once."""
    if not len(frames):
        return
    step = max(1, min(MAX_FRAMES, MAX_BYTES // frames[0].nbytes))
    for start in range(0, len(frames), step):
        yield frames[start : start + step]
