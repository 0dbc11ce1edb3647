"""
The flow of a run: find videos, plan shards, keep a window of shards in flight, report.

Runs started by a deployment import this module by its path, and Prefect reads the parameters'
types: annotations must not be postponed here.
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Completed, Failed

from flows.signals import on_stop
from flows.tasks import as_tasks
from pipeline.config import RunOptions
from pipeline.progress import RunProgress
from pipeline.records import Video
from pipeline.results.tables import lock_results
from pipeline.run.load import open_session
from pipeline.run.process import run
from pipeline.run.run_record import finish
from pipeline.run.session import Session
from pipeline.sources.discovery import find_videos


@dataclass(frozen=True)
class PreparedRun:
    """A run whose videos were found, whose results folder is locked, and whose models are open."""

    session: Session
    videos: Sequence[Video]
    progress: RunProgress = field(default_factory=RunProgress)


PREPARED: ContextVar[PreparedRun | None] = ContextVar("prepared", default=None)
"""The run that a command has prepared for the flow; a served run prepares its own."""


def prepared_run() -> PreparedRun | None:
    """
    Return the run that a command has prepared.

    Prefect pickles the flow function of a served run by value with its globals, and a `ContextVar`
    cannot be pickled; functions such as this one are pickled by name.
    """
    return PREPARED.get()


@contextlib.contextmanager
def prepare_run(sources: Sequence[str], out: Path, options: RunOptions) -> Iterator[PreparedRun]:
    """Find videos, lock the results folder, and open a session."""
    videos = find_videos(
        sources, image_fps=options.image_fps, full_hash=options.full_hash, strict=options.strict
    )
    with lock_results(out, wait=options.wait):
        with open_prepared(out, options, videos, RunProgress()) as prepared:
            yield prepared


@contextlib.contextmanager
def open_prepared(
    out: Path, options: RunOptions, videos: Sequence[Video], progress: RunProgress
) -> Iterator[PreparedRun]:
    """Open a session for videos that were found, on a results folder that is locked."""
    with open_session(out, options, videos=videos, progress=progress) as session:
        with on_stop(session.stop):
            yield PreparedRun(session, videos, progress)


@flow(name="process-folder", flow_run_name="{out}", persist_result=False)
def process_folder(sources: list[str], out: str, options: dict[str, Any]) -> State[dict[str, Any]]:
    """
    Process videos into the results folder `out`.

    Args:
        sources: files, folders, globs, lists.
        out: results folder.
        options: `RunOptions` as plain values; unknown names are refused.
    """
    prepared = prepared_run()
    if prepared is not None:
        return _process(prepared, sources)
    with prepare_run(sources, Path(out), RunOptions.from_json(options)) as prepared:
        return _process(prepared, sources)


def process_prepared(prepared: PreparedRun, sources: list[str]) -> State[Any]:
    """Run the flow on what a command has prepared."""
    out = str(prepared.session.out)
    token = PREPARED.set(prepared)
    try:
        return process_folder(sources, out, prepared.session.options.to_json(), return_state=True)
    finally:
        PREPARED.reset(token)


def _process(prepared: PreparedRun, sources: Sequence[str]) -> State[dict[str, Any]]:
    session, progress = prepared.session, prepared.progress
    with as_tasks(session) as submit:
        failures = run(session, prepared.videos, progress, submit)
    context = FlowRunContext.get()
    run_id = str(context.flow_run.id) if context and context.flow_run else None
    summary = finish(session, progress, sources, failures, run_id)
    if failures:
        message = f"{len(failures)} shards failed, the first with {failures[0]!r}"
        return Failed(message=message, data=summary)
    return Completed(message=f"{summary['counts']['clips']} clips", data=summary)
