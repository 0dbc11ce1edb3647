"""The engine alone, on frames in memory: each engine and precision, and its accuracy."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.bench.rates import EngineRate, measure, seconds_of
from pipeline.encode.backbone import Backbone
from pipeline.encode.encoder import encode_frames
from pipeline.encode.engine import Arithmetic, Engine, Placement
from pipeline.encode.engine_lock import EngineLock
from pipeline.encode.precision import cosine_similarities, encode_exclusively
from pipeline.encode.preprocess import preprocess_batches
from pipeline.encode.torch_engine import TorchEngine
from pipeline.records import FrameBatch
from pipeline.run.choose_precision import EngineFactory

COMPARED_FRAMES = 64
"""Frames whose features are compared, and with which engines on the CPU are timed."""
PROBE_FRAMES = 8
"""Frames that are encoded first on the CPU; on other devices it is one batch."""
MIN_RELATIVE_RATE = 0.1
"""An engine whose first frames are encoded at less than this share of the best rate is not
measured further."""


@dataclass(frozen=True)
class Frames:
    """Decoded frames in memory."""

    batches: tuple[FrameBatch, ...]

    @property
    def count(self) -> int:
        """Frames of all batches."""
        return sum(len(batch.images) for batch in self.batches)

    def first(self, count: int) -> Frames:
        """Keep the first frames."""
        kept, left = [], count
        for batch in self.batches:
            if left > 0:
                kept.append(_part(batch, slice(left)))
                left -= len(batch.images)
        return Frames(tuple(kept))

    def beginnings(self, share: float) -> Frames:
        """Keep this share of each batch, at least one frame, from its beginning."""
        parts = [(batch, max(1, round(len(batch.images) * share))) for batch in self.batches]
        return Frames(tuple(_part(batch, slice(count)) for batch, count in parts))

    def halves(self) -> tuple[Frames, Frames]:
        """Split every batch in the middle."""
        cuts = [(batch, len(batch.images) // 2) for batch in self.batches]
        return (
            Frames(tuple(_part(batch, slice(middle)) for batch, middle in cuts)),
            Frames(tuple(_part(batch, slice(middle, None)) for batch, middle in cuts)),
        )


def _part(batch: FrameBatch, rows: slice) -> FrameBatch:
    return replace(
        batch,
        images=batch.images[rows],
        sample_index=batch.sample_index[rows],
        frame_index=batch.frame_index[rows],
        pts_seconds=batch.pts_seconds[rows],
    )


def candidates(engines: EngineFactory) -> Iterator[Engine]:
    """Make every engine that runs a backbone here, one at a time, the reference first."""
    backbone = engines.backbone
    yield reference(backbone)
    if engines.device == "cpu":
        yield TorchEngine(_copy(backbone), Placement("cpu", "bfloat16"), COMPARED_FRAMES // 2)
    precisions: tuple[Arithmetic, ...] = ("float32", "bfloat16", "float16")
    for precision in precisions[: 3 if engines.device == "cuda" else 2]:
        made = engines.make(precision)
        if engines.device == "cuda" or made.name != "torch":
            yield made


def reference(backbone: Backbone) -> Engine:
    """Make the engine with which others are compared: torch in float32 on the CPU."""
    return TorchEngine(_copy(backbone), Placement("cpu", "float32"), COMPARED_FRAMES // 2)


def _copy(backbone: Backbone) -> Backbone:
    """Copy a network: an engine may move it to another device or layout."""
    return replace(backbone, module=copy.deepcopy(backbone.module))


def describe(engine: Engine) -> str:
    """Name an engine and its device."""
    return f"{engine.name} on {engine.device}"


@dataclass
class EngineMeasurement:
    """
    Measures engines one after the other, the reference first.

    Args:
        frames: decoded frames; on the CPU only the first ones are timed.
        repeats: measurements of each engine.
        seconds: time limit for each engine.
    """

    frames: Frames
    repeats: int
    seconds: float
    _expected: NDArray[np.float16] | None = field(default=None, init=False)
    """Features of the first engine."""
    _best_rate: float = field(default=0.0, init=False)

    def __call__(self, engine: Engine) -> EngineRate:
        """Measure an engine; a very slow one is measured with few frames only."""
        probe = self.frames.first(PROBE_FRAMES if engine.device == "cpu" else engine.batch_size)
        rate = self._probe(engine, probe)
        slow = rate < MIN_RELATIVE_RATE * self._best_rate
        compared = self.frames.first(
            min(COMPARED_FRAMES, max(PROBE_FRAMES, round(rate * self.seconds)))
        )
        values = encode_exclusively(engine, (probe if slow else compared).batches)
        if self._expected is None:
            self._expected = values
        count = min(len(values), len(self._expected))
        cosines = cosine_similarities(values[:count], self._expected[:count])
        if not slow:
            rate, network = self._measure(engine, rate)
        return EngineRate(
            engine=describe(engine),
            precision=engine.precision,
            rate=rate,
            network=None if slow else network,
            cosine_min=float(cosines.min()),
            cosine_mean=float(cosines.mean()),
        )

    def _probe(self, engine: Engine, probe: Frames) -> float:
        """Encode the first frames, again if the first call was slow: it may include a set-up."""
        work = EncodeWork(engine, probe)
        rate = probe.count / seconds_of(work)
        if rate >= MIN_RELATIVE_RATE * self._best_rate:
            return rate
        return max(rate, probe.count / seconds_of(work))

    def _measure(self, engine: Engine, rate: float) -> tuple[float, float]:
        """Measure resizing with the network, then the network alone."""
        call_seconds = self.seconds / 2 / (self.repeats + 1)
        fitting = max(PROBE_FRAMES, round(rate * call_seconds))
        largest = COMPARED_FRAMES if engine.device == "cpu" else self.frames.count
        timed = self.frames.first(min(fitting, largest))
        images = torch.cat(list(preprocess_batches(engine, timed.batches))).contiguous()
        whole = measure(EncodeWork(engine, timed), self.repeats, self.seconds / 2).rate
        network = measure(partial(_run, engine, images), self.repeats, self.seconds / 2).rate
        self._best_rate = max(self._best_rate, whole)
        return whole, network


@dataclass(frozen=True)
class EncodeWork:
    """
    Encodes frames when called, and returns how many.

    Two threads share the engine, as two shards of a run do: one resizes images while the other
    waits for features. A single thread leaves a tenth of the CPU time unused.
    """

    engine: Engine
    frames: Frames

    def __call__(self) -> int:
        """Encode."""
        encode = partial(encode_frames, self.engine, lock=EngineLock())
        with ThreadPoolExecutor() as threads:
            found = threads.map(encode, [half.batches for half in self.frames.halves()])
            return sum(len(part.values) for features in found for part in features)


def encode_work(engine: Engine, frames: Frames, seconds: float) -> EncodeWork:
    """Return work that the engine does in about `seconds`: a share of each batch, or all."""
    probe = EncodeWork(engine, frames.beginnings(PROBE_FRAMES / frames.count))
    probe()  # warm-up
    rate = probe.frames.count / seconds_of(probe)
    return EncodeWork(engine, frames.beginnings(min(1.0, rate * seconds / frames.count)))


def _run(engine: Engine, images: Tensor) -> int:
    return len(engine.start(images)())
