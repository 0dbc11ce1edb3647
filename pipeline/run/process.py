"""
Process shards: find → plan → decode → encode → recognize → write.

    from pipeline.run.process import process_videos
    process_videos(["videos"], Path("OUT"), RunOptions())

Plain Python, without Prefect; the flows run the same stages as Prefect tasks.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipeline.config import RunOptions
from pipeline.encode.feature_store import StoredChunk
from pipeline.progress import RunProgress
from pipeline.records import NOT_STORED, DecodeReport, FrameFeatures, Shard, Video
from pipeline.results.rows import VideoRows
from pipeline.results.tables import lock_results
from pipeline.run import stages
from pipeline.run.load import open_session
from pipeline.run.planner import Planner
from pipeline.run.resume import resume
from pipeline.run.run_record import finish
from pipeline.run.session import Session
from pipeline.run.shard_decoder import Decoded
from pipeline.run.stages import Encoded
from pipeline.sources.discovery import find_videos

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stages:
    """The four stages, as plain functions or wrapped as tasks."""

    decode: Callable[[Session, Shard], Decoded] = stages.decode
    encode: Callable[[Session, Decoded], Encoded] = stages.encode
    recognize: Callable[[Session, Shard, Sequence[FrameFeatures]], list[VideoRows]] = (
        stages.recognize
    )
    write: Callable[[Session, Sequence[VideoRows]], int] = stages.write


PLAIN = Stages()


@dataclass(frozen=True, slots=True)
class ShardResult:
    """What processing one shard gave. The driver adds results up; nothing else is shared."""

    counts: Mapping[str, int] = field(default_factory=dict)
    """By the names of `RunProgress`."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Of each stage, its repetitions and the pauses between them included."""
    stored: tuple[StoredChunk, ...] = ()
    """What was added to the feature store."""
    not_stored: Mapping[str, DecodeReport] = field(default_factory=dict)
    """Videos by id that gave no features, for a reason that may not last."""


def process_shard(session: Session, shard: Shard, stages: Stages = PLAIN) -> ShardResult:
    """Take one shard through all stages, in this process."""
    seconds: dict[str, float] = {}
    counts = {"shards": 1}
    encoded = Encoded()
    if shard.chunks:
        with _timed(seconds, "decode"):
            decoded = stages.decode(session, shard)
        counts |= _count_decoded(decoded)
        try:
            with _timed(seconds, "encode"):
                encoded = stages.encode(session, decoded)
        finally:
            session.decoder.release(decoded)
        counts |= _count_encoded(encoded)
    if shard.shots_only:
        return ShardResult(counts, seconds)
    if session.out is None:
        counts |= _count_features(encoded, shard)
    else:
        with _timed(seconds, "recognize"):
            rows = stages.recognize(session, shard, encoded.features)
        with _timed(seconds, "write"):
            clips = stages.write(session, rows)
        counts |= _count_rows(rows, clips, cached=bool(shard.cached))
    not_stored = {f.video_id: f.report for f in encoded.features if f.report.status in NOT_STORED}
    return ShardResult(counts, seconds, encoded.stored, not_stored)


@contextlib.contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start


def _count_decoded(decoded: Decoded) -> dict[str, int]:
    return {
        "frames_decoded": sum(b.report.frames_decoded for b in decoded.batches),
        "bytes_pictures": sum(b.images.nbytes for b in decoded.batches),
    }


def _count_encoded(encoded: Encoded) -> dict[str, int]:
    return {
        "frames_encoded": sum(len(f.values) for f in encoded.features),
        "bytes_features": sum(f.values.nbytes for f in encoded.features),
    }


def _count_features(encoded: Encoded, shard: Shard) -> dict[str, int]:
    """Count the videos that are complete; a long one is counted with the last of its chunks."""
    if not all(chunk.whole for chunk in shard.chunks):
        return {}
    return _count_statuses([f.report.status for f in encoded.features])


def _count_rows(rows: Sequence[VideoRows], clips: int, *, cached: bool) -> dict[str, int]:
    return {
        "clips": clips,
        "frames_reused": sum(row.report.frames_sampled for row in rows) if cached else 0,
        **_count_statuses([row.report.status for row in rows]),
    }


def _count_statuses(statuses: Sequence[str]) -> dict[str, int]:
    partial = statuses.count("partial")
    return {
        "videos_done": len(statuses),
        "videos_partial": partial,
        "videos_failed": len(statuses) - partial - statuses.count("ok"),
    }


class Running(Protocol):
    """A shard that was submitted: a future of `concurrent.futures` or of Prefect."""

    def add_done_callback(self, fn: Callable[[Any], None], /) -> None:
        """Call a function with this future once it is done."""

    def result(self) -> Any:
        """Give the `ShardResult`, or raise what went wrong."""


Submit = Callable[[Shard], Running]


def drive(planner: Planner, shards: Iterator[Shard], submit: Submit) -> list[Exception]:
    """
    Keep a window of shards in flight until all are done, and add up their results.

    A shard that fails in all attempts does not stop the others.

    Returns:
        The error of each shard that failed, and of each video that could not be planned.
    """
    done: queue.SimpleQueue[tuple[Shard, Running]] = queue.SimpleQueue()
    failures: list[Exception] = []
    planner.progress.begin()
    in_flight = 0
    more = True
    while more or in_flight:
        while more and in_flight < planner.window:
            shard = next(shards, None)
            if shard is None:
                more = False
                break
            _launch(submit, shard, done)
            in_flight += 1
        if not in_flight:
            continue
        shard, future = done.get()
        in_flight -= 1
        try:
            result: ShardResult = future.result()
        except Exception as error:  # reported at the end, other shards go on
            again = planner.plan_again(shard)
            if again:
                shards, more = itertools.chain(shards, again), True
                continue
            logger.error("a shard failed: %r", error)
            failures.append(error)
            continue
        planner.progress.add_result(result.counts, result.seconds)
        following = planner.complete(shard, result.stored, result.not_stored)
        if following is not None:
            _launch(submit, following, done)
            in_flight += 1
    return [*failures, *planner.failures]


def _launch(submit: Submit, shard: Shard, done: queue.SimpleQueue[tuple[Shard, Running]]) -> None:
    future = submit(shard)
    future.add_done_callback(lambda _: done.put((shard, future)))


@contextlib.contextmanager
def in_threads(session: Session) -> Iterator[Submit]:
    """Process shards in threads of this process, without Prefect."""
    with ThreadPoolExecutor(session.window) as threads:
        yield lambda shard: threads.submit(process_shard, session, shard)


def run(
    session: Session,
    videos: Sequence[Video],
    progress: RunProgress | None = None,
    submit: Submit | None = None,
) -> list[Exception]:
    """
    Write the rows of all videos that have none yet.

    Args:
        session: with a results folder, which the caller has locked.
        videos: what to process.
        progress: counts what is done.
        submit: starts a shard; in threads of this process by default.

    Returns:
        The errors of shards that failed in all attempts. A bad video is a row, not an error.
    """
    if submit is None:
        with in_threads(session) as submit:
            return run(session, videos, progress, submit)
    progress = progress or RunProgress()
    unfinished = resume(session, videos)
    progress.add(videos_total=len(videos), videos_skipped=len(videos) - len(unfinished))
    planner = Planner.of_session(session, progress)
    return drive(planner, planner.plan(unfinished), submit)


def process_videos(sources: Sequence[str], out: Path, options: RunOptions) -> dict[str, Any]:
    """
    Process files, folders, globs and lists into a results folder, as `clipline run` does.

    Args:
        sources: what to process.
        out: results folder.
        options: of the run.

    Returns:
        The content of `run.json`: `failures` has the errors of shards that failed.

    Raises:
        PipelineError: something that was given cannot be used.
    """
    videos = find_videos(
        sources, image_fps=options.image_fps, full_hash=options.full_hash, strict=options.strict
    )
    progress = RunProgress()
    with lock_results(out, wait=options.wait):
        with open_session(out, options, videos=videos, progress=progress) as session:
            failures = run(session, videos, progress)
            return finish(session, progress, sources, failures)
