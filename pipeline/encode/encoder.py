"""Encode decoded frames: whatever lies in memory of one shard, in batches that are full."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.encode.engines import Engine
from pipeline.encode.preprocess import fit_pictures, rows_of
from pipeline.progress import Turns
from pipeline.records import FrameBatch, FrameFeatures, Integers

FEW = 32
"""Pictures that are not begun with before others join them: cores idle while few are awaited."""


def encode_frames(
    engine: Engine, batches: Sequence[FrameBatch], turns: Turns
) -> list[FrameFeatures]:
    """
    Encode the frames of a shard, in batches that run on from one video to the next.

    Args:
        engine: what computes.
        batches: the chunks of the shard.
        turns: of the shards with the engine; nobody waits for one while pictures are cut to size.

    Returns:
        Features of each chunk, without its context.
    """
    rows: list[NDArray[np.float32]] = []
    pending: list[Tensor] = []
    for pictures in fit_pictures(engine, batches):
        pending.append(pictures)
        pending = _run(engine, pending, rows, turns, last=False)
    _run(engine, pending, rows, turns, last=True)
    size = engine.backbone.feature_size
    values = np.concatenate([np.zeros((0, size), np.float32), *rows])
    places = [rows_of(batch.frame_index, engine.backbone.context) for batch in batches]
    return _split(values, batches, places)


def _run(
    engine: Engine,
    pending: list[Tensor],
    rows: list[NDArray[np.float32]],
    turns: Turns,
    *,
    last: bool,
) -> list[Tensor]:
    """Run whole batches, of many pictures; give back those that are left over, none at last."""
    if not pending or (not last and sum(map(len, pending)) < FEW):
        return pending
    pictures = torch.cat(pending) if len(pending) > 1 else pending[0]
    whole = len(pictures) if last else len(pictures) - len(pictures) % engine.batch_size
    if whole:
        with turns.at_work():
            with turns.turn:
                features = engine.start(pictures[:whole])
            # the next shard begins meanwhile, so that no core waits for the last batch of this one
            rows.append(features())
    return [pictures[whole:]] if whole < len(pictures) else []


def _split(
    values: NDArray[np.float32], batches: Sequence[FrameBatch], places: Sequence[Integers]
) -> list[FrameFeatures]:
    features, row = [], 0
    for batch, place in zip(batches, places, strict=True):
        here = values[row:][place]
        row += int(place[-1]) + 1 if len(place) else 0
        kept = batch.sample_index >= batch.chunk.start
        features.append(
            FrameFeatures(
                video_id=batch.chunk.video.video_id,
                start=batch.chunk.start,
                stop=batch.chunk.stop,
                num_samples=batch.chunk.num_samples,
                # float16 holds what a network of bounded features gives; beyond it there is no row
                values=np.clip(here[kept], -65504, 65504).astype(np.float16),
                sample_index=batch.sample_index[kept],
                frame_index=batch.frame_index[kept],
                pts_seconds=batch.pts_seconds[kept],
                report=batch.report,
            )
        )
    return features
