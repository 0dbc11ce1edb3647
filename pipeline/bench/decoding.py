"""Decode alone: each reader, on one core and on all, with the jobs that a run gives it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import get_args

from pipeline.bench.rates import DecodeRate, Timed, measure, seconds_of
from pipeline.config import DecodeOptions, Geometry, ReaderName, Sampling
from pipeline.decode.downscale import decoded_size
from pipeline.decode.fallback import decode_chunk, index_video, new_buffer
from pipeline.decode.process_pool import DecodePool, DecodeProcess
from pipeline.decode.sampling import SamplePlan
from pipeline.decode.shared_memory import FrameBuffer, discard_buffer
from pipeline.errors import VideoError
from pipeline.records import Chunk, DecodeReport, FrameBatch, Video

READERS: tuple[ReaderName, ...] = get_args(ReaderName)
MOST_BYTES = 256 << 20
"""Of pictures of one video; what is longer is measured by its beginning."""
MOST_SECONDS = 3.0
"""Of decoding at once; what takes longer is measured by the beginnings of its videos."""
TRIAL = 1 / 16
"""Share of the videos that tells how long all of them take."""


@dataclass(frozen=True)
class Jobs:
    """The decoding of some videos, as a run would have it done."""

    chunks: tuple[Chunk, ...]
    sampling: Sampling
    geometry: Geometry

    @property
    def frames(self) -> int:
        """Sampled frames."""
        return sum(chunk.stop - chunk.start for chunk in self.chunks)

    def beginnings(self, share: float) -> Jobs:
        """Cut the videos to this share of their samples, and at least one."""
        cut = [replace(s, stop=max(1, round(s.stop * share))) for s in self.chunks]
        return replace(self, chunks=tuple(cut))

    def decode(self, process: DecodeProcess, chunk: Chunk, buffer: FrameBuffer) -> FrameBatch:
        """Decode one chunk."""
        return decode_chunk(process, chunk, self.sampling, self.geometry, buffer)


def plan_jobs(
    videos: Sequence[Video], sampling: Sampling, geometry: Geometry, options: DecodeOptions
) -> Jobs:
    """Read the containers; what cannot be read is left out."""
    with DecodePool(options) as pool:
        indexes = [pool.submit(partial(index_video, video=video)) for video in videos]
        chunks = []
        for video, future in zip(videos, indexes, strict=True):
            try:
                index = future.result()
            except VideoError:
                continue
            height, width = decoded_size(index.height, index.width, geometry)
            total = SamplePlan(index, sampling).num_samples
            most = max(1, MOST_BYTES // (height * width * 3))
            chunks.append(Chunk(video, index, 0, min(total, most), total))
    return Jobs(tuple(chunks), sampling, geometry)


def measure_decoding(jobs: Jobs, options: DecodeOptions, repeats: int) -> Iterator[DecodeRate]:
    """Measure every reader on one core, then on all of them; `auto` as a run chooses."""
    for name in READERS:
        chosen = replace(options, reader=name)
        one = _measure(jobs, replace(chosen, workers=1), repeats)
        every = _measure(jobs, chosen, repeats) if one else None
        yield DecodeRate(name, one.rate if one else None, every.rate if every else None)


def _measure(jobs: Jobs, options: DecodeOptions, repeats: int) -> Timed | None:
    """Time a reader; None where it gives way to another for one of the videos."""
    with decoding(jobs, options) as work:
        timed = measure(work, repeats)
        used = {report.decoder for report in work.reports}
    alone = options.reader == "auto" or used <= {options.reader, "images"}
    return timed if alone else None


@contextlib.contextmanager
def decoding(jobs: Jobs, options: DecodeOptions) -> Iterator[Decoding]:
    """Start processes, and give the jobs to be timed: of long ones the beginnings."""
    with DecodePool(options) as pool:
        warm(pool)
        # every process gets every video, so that all of them end together
        make = partial(Decoding, pool=pool, copies=options.num_workers)
        whole_seconds = seconds_of(make(jobs.beginnings(TRIAL))) / TRIAL
        yield make(jobs.beginnings(min(1.0, MOST_SECONDS / whole_seconds)))


def warm(pool: DecodePool) -> None:
    """Start every process of a pool."""
    meeting = threading.Barrier(pool.options.num_workers)

    def start(process: DecodeProcess) -> None:
        meeting.wait()  # each process takes one of these
        process.start()

    waiting = [pool.submit(start) for _ in range(pool.options.num_workers)]
    for future in waiting:
        future.result()


class Decoding:
    """
    Decodes all jobs when called, and gives the frames that were decoded.

    Args:
        jobs: what to decode.
        pool: processes that do.
        copies: how often every job is done.
    """

    def __init__(self, jobs: Jobs, pool: DecodePool, copies: int) -> None:
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


def decoded_frames(jobs: Jobs, most: int, options: DecodeOptions) -> list[FrameBatch]:
    """Decode about `most` sampled frames, the same share of every video, and keep them."""
    share = min(1.0, most / jobs.frames)
    parts = jobs.beginnings(share).chunks
    with DecodePool(options) as pool:
        waiting = [
            pool.submit(partial(jobs.decode, chunk=part, buffer=new_buffer(part, jobs.geometry)))
            for part in parts
        ]
        return [future.result() for future in waiting]
