"""Measure decoding, engines, and whole runs over some videos, in one go on one machine."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from pipeline.bench.decoding import (
    READERS,
    DecodeJobs,
    decode_frames,
    decode_work,
    measure_reader,
    plan_jobs,
)
from pipeline.bench.encoding import (
    EngineMeasurement,
    Frames,
    candidates,
    describe,
    encode_work,
)
from pipeline.bench.rates import DecodeRate, EngineRate, Roofline, Timed, seconds_of
from pipeline.config import DecodeOptions, Sampling
from pipeline.encode.engine import Arithmetic
from pipeline.errors import SourceError
from pipeline.records import Video
from pipeline.run.choose_precision import EngineFactory

MAX_FRAMES = 1024
"""Decoded frames that are held in memory to measure the engine alone."""
MAX_VIDEOS = 32
"""Videos that are decoded to measure the readers; of more, as many spread over all."""
MAX_INDEXED_VIDEOS = 1024
"""Videos whose containers are read; of more, as many spread over all."""
RUN_LIMITS = 2
"""Time limits that one whole run may take: of more videos, as many spread over all are run."""
ROUND_LIMITS = 6
"""Time limits after which no further repetition of the whole run is started."""


@dataclass(frozen=True, slots=True)
class RunTiming:
    """One whole run."""

    seconds: float
    """From its first shard to its last row, without the start."""
    startup_seconds: float
    precision: Arithmetic
    frames: int
    """Sampled frames that it encoded: a container may claim more than it holds."""
    decoded: int
    """Frames that were decoded for them."""


@dataclass(frozen=True, slots=True)
class BenchConfig:
    """How things are measured."""

    engines: EngineFactory
    sampling: Sampling
    decode: DecodeOptions
    repeats: int = 3
    seconds: float = 10.0
    """Time limit of each measurement, its repetitions included."""
    report: Callable[[str], None] = logging.getLogger(__name__).info
    """Called with what is measured next."""


T = TypeVar("T")
Run = Callable[[Sequence[Video]], RunTiming]
Part = DecodeRate | EngineRate | Roofline


@dataclass(frozen=True, slots=True)
class Rates:
    """The rates of readers and engines, and what they were measured on."""

    name: str
    jobs: DecodeJobs
    """Of all videos."""
    sample: DecodeJobs
    """Of the videos that were decoded."""
    frames: Frames
    decode: tuple[DecodeRate, ...]
    engines: tuple[EngineRate, ...]

    @property
    def fastest(self) -> DecodeRate:
        """The fastest reader on all cores."""
        return max(self.decode, key=lambda rate: rate.all_cores or 0.0)

    def run_seconds(self) -> float:
        """Estimate the time of a whole run in float32, for a machine that shares its cores."""
        decoded = sum(len(chunk.index.pts) for chunk in self.jobs.chunks if chunk.index)
        sampled = sum(chunk.num_samples for chunk in self.jobs.chunks)
        engine = [one.rate for one in self.engines if one.precision == "float32"][-1]
        return decoded / (self.fastest.all_cores or engine) + sampled / engine


def run_roofline(
    name: str, videos: Sequence[Video], config: BenchConfig, run: Run
) -> Iterator[Part]:
    """
    Measure videos: each reader, each engine, then whole runs.

    Args:
        name: of the videos.
        videos: to measure; only some of them where all would exceed the time limit.
        config: how they are measured.
        run: processes all videos that it is given, into a new results folder.

    Yields:
        Each rate as soon as it is measured. The last ones are rooflines, one after each repetition
        of the whole run; the last of them includes all repetitions.

    Raises:
        SourceError: none of the videos can be read.
    """
    backbone = config.engines.backbone
    config.report(f"{name}: reading containers")
    indexed = spread(videos, MAX_INDEXED_VIDEOS)
    jobs = plan_jobs(indexed, config.sampling, backbone.geometry, config.decode)
    if not jobs.frames:
        raise SourceError(f"nothing to measure: no frame of {name} can be decoded")
    sample = replace(jobs, chunks=spread(jobs.chunks, MAX_VIDEOS))
    decode = []
    for reader in READERS:
        config.report(f"{name}: decoding with {reader}")
        decode.append(measure_reader(reader, sample, config.decode, config.repeats, config.seconds))
        yield decode[-1]
    config.report(f"{name}: decoding frames for the engines")
    frames = Frames(tuple(decode_frames(sample, MAX_FRAMES, config.decode)))
    engines = []
    measure_engine = EngineMeasurement(frames, config.repeats, config.seconds)
    for engine in candidates(config.engines):
        config.report(f"{name}: encoding with {describe(engine)} in {engine.precision}")
        engines.append(measure_engine(engine))
        yield engines[-1]
    yield from measure_runs(
        Rates(name, jobs, sample, frames, tuple(decode), tuple(engines)), config, run
    )


def spread(items: Sequence[T], count: int) -> tuple[T, ...]:
    """Return at most `count` items, spread over all."""
    return tuple(items[:: max(1, -(-len(items) // count))])


def measure_runs(rates: Rates, config: BenchConfig, run: Run) -> Iterator[Roofline]:
    """
    Measure the fastest reader, the engine and the whole run in turn, after one run as a warm-up.

    So their ratios hold on a machine whose speed varies. Yields the result after each repetition.
    """
    end = time.perf_counter() + ROUND_LIMITS * config.seconds
    chunks = rates.jobs.chunks
    share = RUN_LIMITS * config.seconds / rates.run_seconds()
    if share < 1:
        chunks = spread(chunks, max(1, int(share * len(chunks))))
    videos = [chunk.video for chunk in chunks]
    config.report(f"{rates.name}: whole run over {len(videos)} videos, warm-up")
    precision = run(videos).precision
    engine = config.engines.make(precision)
    call_seconds = config.seconds / (config.repeats + 1)
    encode = encode_work(engine, rates.frames, call_seconds)
    options = replace(config.decode, reader=rates.fastest.reader)
    with decode_work(rates.sample, options, call_seconds) as decode:
        works: tuple[Callable[[], int], ...] = (decode, encode)
        frames = [work() for work in works]
        seconds: list[list[float]] = [[], []]
        runs: list[RunTiming] = []
        while not runs or (len(runs) < config.repeats and time.perf_counter() < end):
            config.report(
                f"{rates.name}: reader, engine and whole run in turn, "
                f"{len(runs) + 1} of {config.repeats}"
            )
            for work, taken in zip(works, seconds, strict=True):
                taken.append(seconds_of(work))
            runs.append(run(videos))
            timed = [Timed(n, tuple(s)) for n, s in zip(frames, seconds, strict=True)]
            video_seconds = sum(c.index.duration_seconds for c in chunks if c.index)
            yield _roofline(rates, config, timed, runs, len(videos), video_seconds)


def _roofline(
    rates: Rates,
    config: BenchConfig,
    alone: Sequence[Timed],
    runs: Sequence[RunTiming],
    videos: int,
    video_seconds: float,
) -> Roofline:
    """
    Put the result together.

    Args:
        rates: of readers and engines.
        config: how they were measured.
        alone: the fastest reader and the engine, in turn with the runs.
        runs: over the same videos.
        videos: number of videos of a run.
        video_seconds: duration of all of them.
    """
    reader, engine = alone
    whole = Timed(runs[0].frames, tuple(one.seconds for one in runs))
    return Roofline(
        name=rates.name,
        videos=videos,
        frames=whole.frames,
        decoded=runs[0].decoded,
        video_seconds=video_seconds,
        cores=config.decode.num_workers,
        shared=config.engines.device == "cpu",
        decode=rates.decode,
        engines=rates.engines,
        reader=reader.rate,
        engine=engine.rate,
        run=whole.rate,
        run_spread=whole.spread,
        startup_seconds=statistics.median(one.startup_seconds for one in runs),
        precision=runs[0].precision,
    )
