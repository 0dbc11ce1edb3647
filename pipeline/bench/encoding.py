"""The engine alone, on frames in memory: each engine and precision, with its error."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.bench.rates import EngineRate, measure
from pipeline.encode.backbone import Backbone
from pipeline.encode.encoder import encode_frames
from pipeline.encode.engine import Arithmetic, Engine, Placement
from pipeline.encode.engine_lock import EngineLock
from pipeline.encode.precision import cosine_similarities, encode_exclusively
from pipeline.encode.preprocess import preprocess_batches
from pipeline.encode.torch_engine import TorchEngine
from pipeline.records import FrameBatch
from pipeline.run.choose_precision import EngineFactory

SLOW_FRAMES = 64
"""That features are compared on, and that engines on the CPU are timed on: torch takes seconds."""


@dataclass(frozen=True)
class Frames:
    """Decoded frames in memory."""

    batches: tuple[FrameBatch, ...]

    @property
    def count(self) -> int:
        """Frames of all batches."""
        return sum(len(batch.images) for batch in self.batches)

    def first(self, most: int) -> Frames:
        """Give the first frames."""
        kept, left = [], most
        for batch in self.batches:
            if left > 0:
                kept.append(_part(batch, slice(left)))
                left -= len(batch.images)
        return Frames(tuple(kept))

    def halves(self) -> tuple[Frames, Frames]:
        """Cut every batch in the middle."""
        cuts = [(batch, len(batch.images) // 2) for batch in self.batches]
        return (
            Frames(tuple(_part(batch, slice(middle)) for batch, middle in cuts)),
            Frames(tuple(_part(batch, slice(middle, None)) for batch, middle in cuts)),
        )


def _part(batch: FrameBatch, here: slice) -> FrameBatch:
    return replace(
        batch,
        images=batch.images[here],
        sample_index=batch.sample_index[here],
        frame_index=batch.frame_index[here],
        pts_seconds=batch.pts_seconds[here],
    )


def candidates(workbench: EngineFactory) -> Iterator[Engine]:
    """Make every engine that runs a backbone here, one at a time, the reference first."""
    backbone = workbench.backbone
    yield reference(backbone)
    if workbench.device == "cpu":
        yield TorchEngine(_own(backbone), Placement("cpu", "bfloat16"), SLOW_FRAMES // 2)
    precisions: tuple[Arithmetic, ...] = ("float32", "bfloat16", "float16")
    for precision in precisions[: 3 if workbench.device == "cuda" else 2]:
        made = workbench.make(precision)
        if workbench.device == "cuda" or made.name != "torch":
            yield made


def reference(backbone: Backbone) -> Engine:
    """Make the engine that others are held against: torch in float32 on the CPU."""
    return TorchEngine(_own(backbone), Placement("cpu", "float32"), SLOW_FRAMES // 2)


def _own(backbone: Backbone) -> Backbone:
    """Copy a network: an engine may move it to another device or layout."""
    return replace(backbone, module=copy.deepcopy(backbone.module))


def measure_engines(workbench: EngineFactory, frames: Frames, repeats: int) -> Iterator[EngineRate]:
    """Measure every engine: on CUDA with all frames, as its batches are large, else with a few."""
    few = frames.first(SLOW_FRAMES)
    expected: NDArray[np.float16] | None = None
    for engine in candidates(workbench):
        values = encode_exclusively(engine, few.batches)
        expected = values if expected is None else expected
        agree = cosine_similarities(values, expected)
        timed = few if engine.device == "cpu" else frames
        pictures = torch.cat(list(preprocess_batches(engine, timed.batches))).contiguous()
        yield EngineRate(
            engine=f"{engine.name} on {engine.device}",
            precision=engine.precision,
            rate=measure(Encoding(engine, timed), repeats).rate,
            network=measure(partial(_run, engine, pictures), repeats).rate,
            cosine_min=float(agree.min()),
            cosine_mean=float(agree.mean()),
        )


@dataclass(frozen=True)
class Encoding:
    """
    Encodes frames when called, and gives how many.

    Two threads share the engine, as two shards of a run do: one cuts pictures to size while the
    other waits for features. A single one leaves a tenth of the cores idle.
    """

    engine: Engine
    frames: Frames

    def __call__(self) -> int:
        """Encode."""
        encode = partial(encode_frames, self.engine, lock=EngineLock())
        with ThreadPoolExecutor() as threads:
            found = threads.map(encode, [half.batches for half in self.frames.halves()])
            return sum(len(part.values) for features in found for part in features)


def _run(engine: Engine, pictures: Tensor) -> int:
    return len(engine.start(pictures)())
