"""Decoding alone: each reader on one core and on all cores, with the decode jobs of a run."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import get_args

from pipeline.bench.rates import DecodeRate, Timed, measure, seconds_of
from pipeline.config import DecodeOptions, Geometry, ReaderName, Sampling
from pipeline.decode.downscale import decoded_size
from pipeline.decode.fallback import decode_chunk, index_video, new_buffer
from pipeline.decode.process_pool import DecodePool, DecodeProcess
from pipeline.decode.sampling import SamplePlan, sampling_of
from pipeline.decode.shared_memory import FrameBuffer, discard_buffer
from pipeline.errors import VideoError
from pipeline.records import Chunk, DecodeReport, FrameBatch, Video

READERS: tuple[ReaderName, ...] = get_args(ReaderName)
MAX_BYTES = 256 << 20
"""Decoded images of one video; of longer videos the beginning is measured."""
FIRST_SHARE = 1 / 64
"""Share of the videos that is decoded first, to find out how much can be decoded in time."""
MIN_DECODED_FRAMES = 64
"""Frames that are decoded at once, at least: with fewer, opening the files would be measured. Very
slow readers decode fewer."""
MAX_EXCESS = 4
"""How many times longer than planned decoding may take for the sake of `MIN_DECODED_FRAMES`."""


@dataclass(frozen=True)
class DecodeJobs:
    """The decode jobs of some videos, as in a run."""

    chunks: tuple[Chunk, ...]
    sampling: Sampling
    geometry: Geometry

    @property
    def frames(self) -> int:
        """Sampled frames."""
        return sum(chunk.stop - chunk.start for chunk in self.chunks)

    def beginnings(self, share: float) -> DecodeJobs:
        """Keep this share of the samples of each video, at least one, from its beginning."""
        cut = [replace(s, stop=max(1, round(s.stop * share))) for s in self.chunks]
        return replace(self, chunks=tuple(cut))

    def decode(self, process: DecodeProcess, chunk: Chunk, buffer: FrameBuffer) -> FrameBatch:
        """Decode one chunk."""
        return decode_chunk(process, chunk, self.sampling, self.geometry, buffer)


def plan_jobs(
    videos: Sequence[Video], sampling: Sampling, geometry: Geometry, options: DecodeOptions
) -> DecodeJobs:
    """Read the containers; unreadable videos are left out."""
    with DecodePool(options) as pool:
        indexes = [pool.submit(partial(index_video, video=video)) for video in videos]
        chunks = []
        for video, future in zip(videos, indexes, strict=True):
            try:
                index = future.result()
            except VideoError:
                continue
            height, width = decoded_size(index.height, index.width, geometry)
            total = SamplePlan(index, sampling_of(index, sampling)).num_samples
            max_samples = max(1, MAX_BYTES // (height * width * 3))
            chunks.append(Chunk(video, index, 0, min(total, max_samples), total))
    return DecodeJobs(tuple(chunks), sampling, geometry)


def measure_reader(
    reader: ReaderName, jobs: DecodeJobs, options: DecodeOptions, repeats: int, seconds: float
) -> DecodeRate:
    """Measure one reader on one core, then on all cores, in about `seconds` together."""
    chosen = replace(options, reader=reader)
    one = _measure(jobs, replace(chosen, workers=1), repeats, seconds / 2)
    every = _measure(jobs, chosen, repeats, seconds / 2) if one else None
    return DecodeRate(reader, one.rate if one else None, every.rate if every else None)


def _measure(
    jobs: DecodeJobs, options: DecodeOptions, repeats: int, seconds: float
) -> Timed | None:
    """Time a reader; None if another reader had to decode one of the videos."""
    call_seconds = seconds / (repeats + 2)  # beside the repetitions: finding the size, a warm-up
    with decode_work(jobs, options, call_seconds) as work:
        timed = measure(work, repeats, seconds - call_seconds)
        used = {report.decoder for report in work.reports}
    alone = options.reader == "auto" or used <= {options.reader, "images"}
    return timed if alone else None


@contextlib.contextmanager
def decode_work(jobs: DecodeJobs, options: DecodeOptions, seconds: float) -> Iterator[DecodeWork]:
    """Start decode processes; give work that they do in about `seconds` or less."""
    with DecodePool(options) as pool:
        warm_up(pool)
        # every process decodes every video, so that all of them end at the same time
        make = partial(DecodeWork, pool=pool, copies=options.num_workers)
        yield make(jobs.beginnings(find_share(jobs, make, seconds)))


def find_share(
    jobs: DecodeJobs, make: Callable[[DecodeJobs], Callable[[], int]], seconds: float
) -> float:
    """Find the share of each video that is decoded in about `seconds`; 1 if all of it is."""
    decoded = sum(len(chunk.index.pts) for chunk in jobs.chunks if chunk.index)
    first = share = min(1.0, max(FIRST_SHARE, MIN_DECODED_FRAMES / decoded))
    while True:
        taken = seconds_of(make(jobs.beginnings(share)))
        if share == 1 or taken > seconds / 4:
            fitting = share * seconds / taken
            return min(1.0, max(fitting, min(first, MAX_EXCESS * fitting)))
        share = min(1.0, 4 * share)


def warm_up(pool: DecodePool) -> None:
    """Start every process of a pool."""
    barrier = threading.Barrier(pool.options.num_workers)

    def start(process: DecodeProcess) -> None:
        barrier.wait()  # each process takes one of these jobs
        process.start()

    waiting = [pool.submit(start) for _ in range(pool.options.num_workers)]
    for future in waiting:
        future.result()


class DecodeWork:
    """
    Decodes all jobs when called, and returns the number of decoded frames.

    Args:
        jobs: what to decode.
        pool: decode processes.
        copies: how often each job is done.
    """

    def __init__(self, jobs: DecodeJobs, pool: DecodePool, copies: int) -> None:
        self.jobs, self.pool, self.copies = jobs, pool, copies
        self.reports: list[DecodeReport] = []
        """Of the last call."""

    def __call__(self) -> int:
        """Decode."""
        waiting = [
            self.pool.submit(partial(self.jobs.decode, chunk=chunk, buffer=discard_buffer()))
            for chunk in self.jobs.chunks
            for _ in range(self.copies)
        ]
        self.reports = [future.result().report for future in waiting]
        return sum(report.frames_decoded for report in self.reports)


def decode_frames(jobs: DecodeJobs, max_frames: int, options: DecodeOptions) -> list[FrameBatch]:
    """Decode about `max_frames` sampled frames into memory, the same share of every video."""
    share = min(1.0, max_frames / jobs.frames)
    parts = jobs.beginnings(share).chunks
    with DecodePool(options) as pool:
        waiting = [
            pool.submit(partial(jobs.decode, chunk=part, buffer=new_buffer(part, jobs.geometry)))
            for part in parts
        ]
        return [future.result() for future in waiting]
