"""Choose the precision of the engine: a reduced one where its features are accurate enough."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.config import EncodeOptions, Geometry, Sampling, fingerprint, resolve_device
from pipeline.decode.fallback import decode_chunk, index_video, new_buffer
from pipeline.decode.process_pool import DecodePool, DecodeProcess, PoolStopped
from pipeline.decode.sampling import SamplePlan
from pipeline.encode.backbone import Backbone
from pipeline.encode.engine import Arithmetic, Engine, Placement
from pipeline.encode.engines import make_engine, reduced_precision
from pipeline.encode.precision import PrecisionCheck, compare_precisions
from pipeline.errors import MachineError, VideoError
from pipeline.records import Chunk, FrameBatch, Video
from pipeline.storage import write_json

CHECKED_VIDEOS = 4
CHECKED_FRAMES = 16
"""Of each video."""
CHECKED_PIXELS = 2 * 10**8
"""Decoded of each video: a second at most."""
MAX_ATTEMPTS = 16
"""Videos that are tried to find some that can be decoded."""


@dataclass(frozen=True)
class EngineFactory:
    """Makes engines of one backbone."""

    backbone: Backbone
    options: EncodeOptions
    cache: Path

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Device of the engines."""
        return resolve_device(self.options.device)

    def make(self, precision: Arithmetic) -> Engine:
        """Make the engine for a precision."""
        placement = Placement(self.device, precision)
        return make_engine(self.backbone, placement, self.options, self.cache)


@dataclass(frozen=True)
class PrecisionSelector:
    """
    Chooses the precision once for each feature store, so that a later run finds its features.

    Args:
        engines: makes the engines.
        folder: of the feature stores, where the choice is stored.
        sampling: which frames are compared.
        pool: decodes them.
    """

    engines: EngineFactory
    folder: Path
    sampling: Sampling
    pool: DecodePool

    def _path(self, reduced: Arithmetic | None) -> Path:
        """Name the file of the choice: it holds for one device and one reduced precision."""
        key = fingerprint("precision", self.engines.backbone.identity, self.engines.device, reduced)
        return self.folder / f"_precision-{key}.json"  # Parquet readers skip names with _

    def choose(self, videos: Sequence[Video]) -> tuple[Engine, PrecisionCheck | None]:
        """Make the engine in the precision that was asked for or chosen before, else compare."""
        precision = self.engines.options.precision
        if precision != "auto":
            return self.engines.make(precision), None
        reduced = reduced_precision(self.engines.device)
        path = self._path(reduced)
        if path.exists():
            check = PrecisionCheck.from_json(json.loads(path.read_text()))
            return self.engines.make(check.precision), check
        if reduced is None or not videos:
            return self.engines.make("float32"), PrecisionCheck("float32")
        return self._compare(reduced, videos)

    def _compare(
        self, precision: Arithmetic, videos: Sequence[Video]
    ) -> tuple[Engine, PrecisionCheck]:
        geometry = self.engines.backbone.geometry
        decode = partial(first_frames, sampling=self.sampling, geometry=geometry)
        waiting = [self.pool.submit(partial(decode, video=v)) for v in videos[:MAX_ATTEMPTS]]
        plain = self.engines.make("float32")
        reduced = self.engines.make(precision)
        batches = list(islice(_decoded(waiting), CHECKED_VIDEOS))
        for future in waiting:
            future.cancel()
        check = compare_precisions(plain, reduced, batches)
        if check.frames:
            write_json(check.to_json(), self._path(precision))
        return (plain if check.precision == "float32" else reduced), check


def _decoded(waiting: Sequence[Future[FrameBatch | None]]) -> Iterator[FrameBatch]:
    for future in waiting:
        try:
            batch = future.result()
        except PoolStopped:
            raise
        except MachineError:  # the run will try this video again
            continue
        if batch is not None and len(batch.images):
            yield batch


def first_frames(
    process: DecodeProcess, video: Video, sampling: Sampling, geometry: Geometry
) -> FrameBatch | None:
    """
    Decode the first samples of a video; None if its container cannot be read.

    Of sparse samples, frames closer to each other are used instead, to decode few.
    """
    try:
        index = index_video(process, video)
    except VideoError:
        return None
    plan = SamplePlan(index, sampling)
    within = min(
        len(index.pts), max(CHECKED_FRAMES, CHECKED_PIXELS // (index.width * index.height))
    )
    if np.searchsorted(plan.frame_indices(), within) < min(plan.num_samples, CHECKED_FRAMES):
        sampling = Sampling(every=-(-within // CHECKED_FRAMES))
    total = SamplePlan(index, sampling).num_samples
    chunk = Chunk(video, index, 0, min(total, CHECKED_FRAMES), total)
    return decode_chunk(process, chunk, sampling, geometry, new_buffer(chunk, geometry))
