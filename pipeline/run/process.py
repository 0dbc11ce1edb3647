"""
The data's way, composed: plan → decode → encode → recognize → write.

    from pipeline.run.process import process_videos
    process_videos(["videos"], Path("OUT"), RunOptions())

It works from a plain Python prompt; the flows run the same stages as Prefect tasks.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.config import RunOptions
from pipeline.records import FrameFeatures, Shard, Video
from pipeline.results.rows import VideoRows
from pipeline.results.tables import lock_results
from pipeline.run.load import open_session
from pipeline.run.run_record import finish
from pipeline.run.session import Session
from pipeline.run.shard_decoder import Decoded
from pipeline.sources.discovery import find_videos

__all__ = ["Session", "drive", "open_session", "process_shard", "process_videos", "run"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stages:
    """The four stages, as plain calls or wrapped as tasks."""

    decode: Callable[[Shard], Decoded]
    encode: Callable[[Decoded], list[FrameFeatures]]
    recognize: Callable[[Shard, Sequence[FrameFeatures]], list[VideoRows]]
    write: Callable[[Sequence[VideoRows]], int]


def process_shard(session: Session, shard: Shard, stages: Stages | None = None) -> int:
    """Take one shard the whole way. Returns the clips written."""
    stages = stages or Stages(session.decode, session.encode, session.recognize, session.write)
    features: list[FrameFeatures] = []
    if shard.chunks:
        decoded = stages.decode(shard)
        try:
            features = stages.encode(decoded)
        finally:
            session.release(decoded)
    return stages.write(stages.recognize(shard, features))


class Running(Protocol):
    """A shard that was submitted: a future of `concurrent.futures` or of Prefect."""

    def add_done_callback(self, fn: Callable[[Any], None], /) -> None:
        """Call a function with this future once it is done."""

    def result(self) -> Any:
        """Give the result, or raise what went wrong."""


Submit = Callable[[Shard], Running]


def drive(session: Session, shards: Iterator[Shard], submit: Submit) -> list[Exception]:
    """
    Keep a window of shards in flight until all are done.

    A shard that fails for good does not stop the others.

    Returns:
        What went wrong, one error a failed shard.
    """
    done: queue.SimpleQueue[tuple[Shard, Running]] = queue.SimpleQueue()
    failures: list[Exception] = []
    session.progress.begin()
    flying = 0
    more = True
    while more or flying:
        while more and flying < session.window:
            shard = next(shards, None)
            if shard is None:
                more = False
                break
            _launch(submit, shard, done)
            flying += 1
        if not flying:
            continue
        shard, future = done.get()
        flying -= 1
        try:
            future.result()
        except (
            Exception
        ) as error:  # whatever a stage could not overcome: reported, and the rest goes on
            logger.error("a shard failed: %r", error)
            failures.append(error)
            continue
        following = session.planner.finished(shard)
        if following is not None:
            _launch(submit, following, done)
            flying += 1
    return failures


def _launch(submit: Submit, shard: Shard, done: queue.SimpleQueue[tuple[Shard, Running]]) -> None:
    future = submit(shard)
    future.add_done_callback(lambda _: done.put((shard, future)))


def run(session: Session, videos: Sequence[Video]) -> list[Exception]:
    """
    Process videos without Prefect, in threads of this process.

    Returns:
        What went wrong, one error a failed shard; a bad video is no error but a row.
    """
    with ThreadPoolExecutor(session.window) as threads:
        return drive(
            session,
            session.planner.plan(videos),
            lambda shard: threads.submit(process_shard, session, shard),
        )


def process_videos(sources: Sequence[str], out: Path, options: RunOptions) -> dict[str, Any]:
    """
    Process files, folders, globs and lists into a results folder, as `clipline run` does.

    Args:
        sources: what to process.
        out: results folder.
        options: of the run.

    Returns:
        What `run.json` says: `failures` names the shards that failed for good.

    Raises:
        PipelineError: something that was given cannot be used.
    """
    videos = find_videos(sources, image_fps=options.image_fps, full_hash=options.full_hash)
    with lock_results(out, wait=options.wait):
        with open_session(out, options, videos=videos) as session:
            return finish(session, sources, run(session, videos))
