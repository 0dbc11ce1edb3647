"""Encode decoded frames: whatever lies in memory of one shard, in batches that are full."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.encode.engines import Engine
from pipeline.records import (
    FrameBatch,
    FrameFeatures,
    Integers,
    Pictures,
)
from pipeline.tally import Turns

CHUNK_BYTES, CHUNK_FRAMES = 32 << 20, 512
"""Decoded pictures cut to size at once, at most: several times their bytes are taken meanwhile."""


def encode_frames(
    engine: Engine, batches: Sequence[FrameBatch], turns: Turns
) -> list[FrameFeatures]:
    """
    Encode the frames of a shard, in batches that run on from one video to the next.

    Args:
        engine: what computes.
        batches: the segments of the shard.
        turns: of the shards with the engine; nobody waits for one while pictures are cut to size.

    Returns:
        Features of each segment, without its context.
    """
    rows: list[NDArray[np.float32]] = []
    pending: list[Tensor] = []
    places = [_places(batch.frame_index, engine.backbone.context) for batch in batches]
    shown = [_distinct(b.pictures, place) for b, place in zip(batches, places, strict=True)]
    for pictures in fit_pictures(engine, shown):
        pending.append(pictures)
        pending = _run(engine, pending, rows, turns, last=False)
    _run(engine, pending, rows, turns, last=True)
    size = engine.backbone.feature_size
    values = np.concatenate([np.zeros((0, size), np.float32), *rows])
    return _split(values, batches, places)


def _places(frame_index: Integers, context: int) -> Integers:
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


def _distinct(pictures: Pictures, places: Integers) -> Pictures:
    """Leave out the pictures that need no row of their own."""
    if not len(places) or places[-1] == len(places) - 1:
        return pictures
    return pictures[np.unique(places, return_index=True)[1]]


def _run(
    engine: Engine,
    pending: list[Tensor],
    rows: list[NDArray[np.float32]],
    turns: Turns,
    *,
    last: bool,
) -> list[Tensor]:
    """Run whole batches; give back the pictures that are left over, none the last time."""
    if not pending:
        return []
    pictures = torch.cat(pending) if len(pending) > 1 else pending[0]
    whole = len(pictures) if last else len(pictures) - len(pictures) % engine.batch_size
    if whole:
        with turns.at_work():
            with turns.turn:
                features = engine.start(pictures[:whole])
            # the next shard begins meanwhile, so that no core waits for the last batch of this one
            rows.append(features())
    return [pictures[whole:]] if whole < len(pictures) else []


def fit_pictures(engine: Engine, segments: Sequence[Pictures]) -> Iterator[Tensor]:
    """Give the pictures of all segments, (n, H, W, 3 · (1 + context)), chunk by chunk."""
    for shown in segments:
        previous: Tensor | None = None
        for frames in chunks(shown):
            pictures = engine.fit(frames)
            if engine.backbone.context:
                before = torch.cat([pictures[:1] if previous is None else previous, pictures[:-1]])
                previous = pictures[-1:]
                pictures = torch.cat([before, pictures], dim=3)
            yield pictures


def chunks(pictures: Pictures) -> Iterator[Pictures]:
    """Give decoded pictures so many at a time that cutting them to size takes little memory."""
    if not len(pictures):
        return
    step = max(1, min(CHUNK_FRAMES, CHUNK_BYTES // pictures[0].nbytes))
    for start in range(0, len(pictures), step):
        yield pictures[start : start + step]


def _split(
    values: NDArray[np.float32], batches: Sequence[FrameBatch], places: Sequence[Integers]
) -> list[FrameFeatures]:
    features, row = [], 0
    for batch, place in zip(batches, places, strict=True):
        here = values[row:][place]
        row += int(place[-1]) + 1 if len(place) else 0
        kept = batch.sample_index >= batch.segment.start
        features.append(
            FrameFeatures(
                video_id=batch.segment.video.video_id,
                start=batch.segment.start,
                stop=batch.segment.stop,
                num_samples=batch.segment.num_samples,
                # float16 holds what a network of bounded features gives; beyond it there is no row
                values=np.clip(here[kept], -65504, 65504).astype(np.float16),
                sample_index=batch.sample_index[kept],
                frame_index=batch.frame_index[kept],
                pts_seconds=batch.pts_seconds[kept],
                report=batch.report,
            )
        )
    return features
