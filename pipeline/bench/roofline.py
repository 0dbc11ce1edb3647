"""Measure some videos part by part, and whole runs over them, in one go on one machine."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pipeline.bench.decoding import (
    Jobs,
    decoded_frames,
    decoding,
    measure_decoding,
    plan_jobs,
)
from pipeline.bench.encoding import Encoding, Frames, measure_engines
from pipeline.bench.naive import NaiveLoop
from pipeline.bench.rates import Roofline, Timed, seconds_of
from pipeline.config import DecodeOptions, Sampling
from pipeline.decode.sampling import SamplePlan
from pipeline.encode.engine import Arithmetic
from pipeline.errors import SourceError
from pipeline.records import Chunk, Video
from pipeline.run.choose_precision import EngineFactory

MOST_FRAMES = 1024
"""Decoded frames that are held in memory to measure the engine alone."""
NAIVE_FRAMES = 512
"""About as many are encoded by the naive loop, of all videos the same number."""
MOST_VIDEOS = 32
"""That are decoded to measure the readers; of more, as many spread over all."""


@dataclass(frozen=True, slots=True)
class Ran:
    """One whole run."""

    seconds: float
    """From its beginning to its last row, after the start."""
    startup_seconds: float
    precision: Arithmetic
    frames: int
    """Sampled frames that it encoded: a container may promise more than it holds."""
    decoded: int
    """Frames that were decoded for them."""


@dataclass(frozen=True, slots=True)
class Setup:
    """How things are measured."""

    workbench: EngineFactory
    sampling: Sampling
    decode: DecodeOptions
    repeats: int = 3


def survey(
    name: str, videos: Sequence[Video], setup: Setup, run: Callable[[Sequence[Video]], Ran]
) -> Roofline:
    """
    Measure videos.

    Fastest reader, engine, naive loop, and whole run take turns, so that their ratios hold on a
    machine whose speed changes.

    Args:
        name: of the videos.
        videos: that are run.
        setup: how they are measured.
        run: runs all of them from the beginning, into a results folder of its own.

    Raises:
        SourceError: not one of the videos can be read.
    """
    backbone = setup.workbench.backbone
    every = plan_jobs(videos, setup.sampling, backbone.geometry, setup.decode)
    if not every.frames:
        raise SourceError(f"nothing to measure: no frame of {name} can be decoded")
    step = -(-len(every.chunks) // MOST_VIDEOS)
    some = Jobs(every.chunks[::step], every.sampling, every.geometry)
    decode = tuple(measure_decoding(some, setup.decode, setup.repeats))
    frames = Frames(tuple(decoded_frames(some, MOST_FRAMES, setup.decode)))
    engines = tuple(measure_engines(setup.workbench, frames, setup.repeats))
    loop = NaiveLoop(
        backbone, some.chunks, stride=_stride(every.chunks, setup.sampling), most=NAIVE_FRAMES
    )
    precision = run(videos).precision  # once unmeasured
    encode = Encoding(setup.workbench.make(precision), frames)
    fastest = max(decode, key=lambda rate: rate.all_cores or 0.0).reader
    with decoding(some, replace(setup.decode, reader=fastest)) as read:
        timed, ran = _in_turn((read, encode, loop), lambda: run(videos), setup.repeats)
    reader, engine, naive = timed
    whole = Timed(ran[0].frames, tuple(one.seconds for one in ran))
    return Roofline(
        name=name,
        videos=len(videos),
        frames=whole.frames,
        decoded=ran[0].decoded,
        video_seconds=sum(s.index.duration_seconds for s in every.chunks if s.index),
        cores=setup.decode.num_workers,
        shared=setup.workbench.device == "cpu",
        decode=decode,
        engines=engines,
        reader=reader.rate,
        engine=engine.rate,
        run=whole.rate,
        run_spread=whole.spread,
        naive=naive.rate,
        startup_seconds=statistics.median(one.startup_seconds for one in ran),
        precision=precision,
    )


def _stride(chunks: Sequence[Chunk], sampling: Sampling) -> int:
    """Tell of how many frames of the videos one is sampled."""
    plans = [SamplePlan(chunk.index, sampling) for chunk in chunks if chunk.index]
    decoded, sampled = sum(len(p.index.pts) for p in plans), sum(p.num_samples for p in plans)
    return max(1, round(decoded / sampled))


def _in_turn(
    works: Sequence[Callable[[], int]], run: Callable[[], Ran], repeats: int
) -> tuple[list[Timed], list[Ran]]:
    """Time works, each of which gives its frames, and the run, in turn, several times."""
    frames = [work() for work in works]
    seconds: list[list[float]] = [[] for _ in works]
    ran = []
    for _ in range(repeats):
        for work, taken in zip(works, seconds, strict=True):
            taken.append(seconds_of(work))
        ran.append(run())
    return [Timed(*one) for one in zip(frames, map(tuple, seconds), strict=True)], ran
