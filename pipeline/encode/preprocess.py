"""
Cut decoded frames to the pictures that a backbone wants: at once, or when they are encoded.

At once where that is work of the CPU and makes them smaller: they are in its cache then, and what
waits for the engine is a fraction of what was decoded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.encode.engines import Engine
from pipeline.records import FrameBatch, Images, Integers

CHUNK_BYTES, CHUNK_FRAMES = 32 << 20, 512
"""Decoded pictures cut to size at once, at most: several times their bytes are taken meanwhile."""


def fits_at_once(engine: Engine, size: tuple[int, int]) -> bool:
    """Whether decoded frames of a size (h, w) are cut to pictures before they wait."""
    geometry = engine.backbone.geometry
    return engine.device == "cpu" and math.prod(size) > geometry.height * geometry.width


def waiting_size(engine: Engine, size: tuple[int, int]) -> tuple[int, int]:
    """Tell the size (h, w) in which decoded frames of a size wait for the engine."""
    geometry = engine.backbone.geometry
    return (geometry.height, geometry.width) if fits_at_once(engine, size) else size


def fit_decoded(engine: Engine, frames: Images, frame_index: Integers) -> Images:
    """
    Cut decoded frames to size as they come.

    Args:
        engine: that knows how.
        frames: (T, h, w, 3), few enough to be cut at once.
        frame_index: position of each in the video, (T,); one that is shown on is cut once.

    Returns:
        (T, H, W, 3).
    """
    rows = rows_of(frame_index, 0)
    pictures = engine.fit(_distinct(frames, rows)).cpu().numpy()
    return pictures if len(pictures) == len(rows) else pictures[rows]


def fit_pictures(engine: Engine, batches: Sequence[FrameBatch]) -> Iterator[Tensor]:
    """
    Give the pictures of all chunks, (n, H, W, 3 · (1 + context)), chunk by chunk.

    A frame that is shown on comes once, `rows_of` tells for which samples.
    """
    context = engine.backbone.context
    for batch in batches:
        shown = _distinct(batch.images, rows_of(batch.frame_index, context))
        previous: Tensor | None = None
        for frames in chunks(shown):
            pictures = torch.from_numpy(frames) if batch.resized else engine.fit(frames)
            if context:
                before = torch.cat([pictures[:1] if previous is None else previous, pictures[:-1]])
                previous = pictures[-1:]
                pictures = torch.cat([before, pictures], dim=3)
            yield pictures


def rows_of(frame_index: Integers, context: int) -> Integers:
    """
    Tell in which row the features of each sample come: a frame that is shown on is encoded once.

    With context, the second sample of a frame is encoded as well: the frame before it is another.

    Args:
        frame_index: frame of each sample, (T,).
        context: frames before its own that a sample is encoded with.

    Returns:
        (T,), counted from 0, never falling.
    """
    samples = np.arange(len(frame_index))
    begins = np.concatenate([[True], np.diff(frame_index) != 0])[: len(samples)]
    since = samples - np.maximum.accumulate(np.where(begins, samples, 0))
    return np.cumsum(since <= context) - 1


def _distinct(pictures: Images, rows: Integers) -> Images:
    """Leave out the pictures that need no row of their own."""
    if not len(rows) or rows[-1] == len(rows) - 1:
        return pictures
    return pictures[np.unique(rows, return_index=True)[1]]


def chunks(pictures: Images) -> Iterator[Images]:
    """Give decoded pictures so many at a time that cutting them to size takes little memory."""
    if not len(pictures):
        return
    step = max(1, min(CHUNK_FRAMES, CHUNK_BYTES // pictures[0].nbytes))
    for start in range(0, len(pictures), step):
        yield pictures[start : start + step]
