"""Encode the decoded frames of a shard, in batches that continue across videos."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.encode.engine import Engine
from pipeline.encode.engine_lock import EngineLock
from pipeline.encode.preprocess import feature_rows, preprocess_batches
from pipeline.records import FrameBatch, FrameFeatures, Integers

MIN_IMAGES = 32
"""Fewer images wait for more before the engine starts: with few images, cores stay idle."""
MAX_FLOAT16 = 65504


def encode_frames(
    engine: Engine, batches: Sequence[FrameBatch], lock: EngineLock
) -> list[FrameFeatures]:
    """
    Encode the frames of a shard.

    Args:
        engine: engine that computes the features.
        batches: decoded chunks of the shard.
        lock: lock that shards share; it is not held while images are preprocessed.

    Returns:
        Features of each chunk, without its context frames.
    """
    rows: list[NDArray[np.float32]] = []
    pending: list[Tensor] = []
    for images in preprocess_batches(engine, batches):
        pending.append(images)
        pending = _run(engine, pending, rows, lock, last=False)
    _run(engine, pending, rows, lock, last=True)
    size = engine.backbone.feature_size
    values = np.concatenate([np.zeros((0, size), np.float32), *rows])
    indices = [
        feature_rows(batch.frame_index, engine.backbone.previous_frames) for batch in batches
    ]
    return _split(values, batches, indices)


def _run(
    engine: Engine,
    pending: list[Tensor],
    rows: list[NDArray[np.float32]],
    lock: EngineLock,
    *,
    last: bool,
) -> list[Tensor]:
    """Encode full batches, or everything if `last`; return the images that are left."""
    if not pending or (not last and sum(map(len, pending)) < MIN_IMAGES):
        return pending
    images = torch.cat(pending) if len(pending) > 1 else pending[0]
    count = len(images) if last else len(images) - len(images) % engine.batch_size
    if count:
        with lock.busy():
            with lock.start:
                features = engine.start(images[:count])
            # without the lock: the next shard starts now, so no core waits for our last batch
            rows.append(features())
    return [images[count:]] if count < len(images) else []


def _split(
    values: NDArray[np.float32], batches: Sequence[FrameBatch], indices: Sequence[Integers]
) -> list[FrameFeatures]:
    """Split features (rows, D) by chunk; `indices` holds the row of each sample of a chunk."""
    features, row = [], 0
    for batch, index in zip(batches, indices, strict=True):
        chunk_values = values[row:][index]  # (T, D)
        row += int(index[-1]) + 1 if len(index) else 0
        kept = batch.sample_index >= batch.chunk.start
        features.append(
            FrameFeatures(
                video_id=batch.chunk.video.video_id,
                start=batch.chunk.start,
                stop=batch.chunk.stop,
                num_samples=batch.chunk.num_samples,
                # stored features must be finite: float16 overflows to infinity beyond its maximum
                values=np.clip(chunk_values[kept], -MAX_FLOAT16, MAX_FLOAT16).astype(np.float16),
                sample_index=batch.sample_index[kept],
                frame_index=batch.frame_index[kept],
                pts_seconds=batch.pts_seconds[kept],
                report=batch.report,
            )
        )
    return features
