"""
Run a flow from the command line, with a server that starts while the networks load.

If the server does not start, the videos are processed without a run history.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flows.server.api import Api
from flows.server.embedded import EmbeddedServer, embedded_api
from flows.server.environment import state_folder
from pipeline.config import RunOptions
from pipeline.errors import MachineError
from pipeline.progress import RunProgress
from pipeline.storage import redact_url

if TYPE_CHECKING:
    from flows.process_folder import PreparedRun
    from pipeline.records import DecodeReport, Video
    from pipeline.run.session import Session

logger = logging.getLogger(__name__)
T = TypeVar("T")

DRAIN_SECONDS = 5.0
"""Maximum time at the end of a run for storing its history."""
M_ARENA_MAX, MAX_ARENAS = -8, 2
"""Option of `mallopt`, and its value."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    failures: int
    """Shards that failed for good."""
    flow_run_id: str | None


Watch = Callable[[RunProgress], contextlib.AbstractContextManager[None]]
"""Shows the counters of a run while it is entered."""


def run_once(
    sources: list[str], out: Path, options: RunOptions, watch: Watch, *, fresh: bool = False
) -> Outcome:
    """
    Process videos once, as a flow run.

    Args:
        sources: files, folders, globs, lists.
        out: results folder.
        options: of the run.
        watch: context manager that shows the counters of the run.
        fresh: delete the results of earlier runs first.

    Raises:
        InputError: a source or an option is not valid.
    """
    progress = RunProgress()
    progress.startup["interpreter"] = process_age_seconds()
    with contextlib.ExitStack() as opened:
        # first what is cheap: invalid input is reported before anything heavy is imported
        with progress.starting("sources"):
            from pipeline.results.tables import delete_results, lock_results
            from pipeline.sources.discovery import find_videos

            opened.enter_context(lock_results(out, wait=options.wait))
            videos = find_videos(
                sources,
                image_fps=options.image_fps,
                full_hash=options.full_hash,
                strict=options.strict,
            )
            if fresh:
                delete_results(out)
        server = opened.enter_context(embedded_api(state_folder()))
        with _loading():
            with progress.starting("imports"):
                # only now: Prefect reads the environment when it is imported
                from flows.process_folder import open_prepared

            prepared = opened.enter_context(open_prepared(out, options, videos, progress))
        with watch(progress):
            with progress.starting("waiting for the API"):
                ready = _ready(server)
            if ready:
                return _run_flow(server, prepared, sources)
            return _run_plain(prepared, sources)


@contextlib.contextmanager
def open_with_features(
    options: RunOptions,
    videos: Sequence[Video],
    watch: Watch,
    check: Callable[[Session], None] = lambda session: None,
) -> Iterator[tuple[Session, Mapping[str, DecodeReport]]]:
    """
    Open a session without a results folder, in whose store the features of videos are.

    What is missing is computed by tasks of a flow run, with a server of its own; where nothing is
    missing, none is started.

    Args:
        options: of the run; they name a folder of features.
        videos: whose features are needed.
        watch: shows the counters.
        check: called before anything is decoded.

    Returns:
        The session, and what `ensure_features` gave.
    """
    from flows.signals import on_stop
    from pipeline.run.features import ensure_features, missing_features
    from pipeline.run.load import open_session

    progress = RunProgress()
    with open_session(None, options, videos=videos, progress=progress) as session:
        check(session)
        not_stored: Mapping[str, DecodeReport] = {}
        if missing_features(session, videos):

            def load() -> Callable[[bool], Mapping[str, DecodeReport]]:
                from flows.features import ensure_features_in_flow

                return lambda has_api: (ensure_features_in_flow if has_api else ensure_features)(
                    session, videos, progress
                )

            with watch(progress), on_stop(session.stop):
                not_stored = with_server(load)
        yield session, not_stored


@contextlib.contextmanager
def _loading() -> Iterator[None]:
    """
    Disable garbage collection during imports, and freeze the ~500k objects that they create.

    They live as long as the process; a collection among them takes up to a second. Also limit the
    arenas of `malloc`: with one for each thread, each keeps as much as any shard ever needed.
    """
    ctypes.CDLL(None).mallopt(M_ARENA_MAX, MAX_ARENAS)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def process_age_seconds() -> float:
    """Return the seconds since this process was started."""
    stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    ticks_after_boot = int(stat[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks_after_boot / os.sysconf("SC_CLK_TCK")


def _ready(server: EmbeddedServer | None) -> bool:
    if server is None:
        _require_answer()
        return True
    try:
        server.wait_until_ready()
    except MachineError as error:
        logger.warning("%s; continuing without a run history", error)
        return False
    threading.Thread(target=_cleanup_runs, args=[server], name="cleanup", daemon=True).start()
    return True


def _require_answer() -> None:
    """
    Check that the server which the user selected, or that of `serve`, answers, before any work.

    Raises:
        MachineError: it does not answer.
    """
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        error = client.api_healthcheck()
    if error is not None:
        raise MachineError(
            f"no answer from {redact_url(os.environ['PREFECT_API_URL'])}: {error}; "
            "start that server, or unset PREFECT_API_URL"
        )


def _cleanup_runs(server: EmbeddedServer) -> None:
    with contextlib.suppress(OSError, ValueError):
        server.cleanup_runs()


def _run_flow(server: EmbeddedServer | None, prepared: PreparedRun, sources: list[str]) -> Outcome:
    from flows.process_folder import process_prepared
    from pipeline.results.tables import read_run

    out = prepared.session.out
    assert out is not None
    with _heartbeats(server):
        ended = process_prepared(prepared, sources)
    error = None if ended.is_completed() else ended.result(raise_on_failure=False)
    summary = read_run(out)
    if isinstance(error, BaseException) or not summary:
        raise error if isinstance(error, BaseException) else MachineError(str(ended.message))
    if server is not None:
        await_history(server.api, summary)
    return Outcome(len(summary["failures"]), summary["flow_run_id"])


def _run_plain(prepared: PreparedRun, sources: list[str]) -> Outcome:
    from pipeline.run.process import run
    from pipeline.run.run_record import finish

    session, progress = prepared.session, prepared.progress
    failures = run(session, prepared.videos, progress)
    finish(session, progress, sources, failures)
    return Outcome(len(failures), None)


def with_server(load: Callable[[], Callable[[bool], T]]) -> T:
    """
    Call a function that runs flows, with a server.

    Args:
        load: imports what is needed while the server starts, and returns the function; its
            argument is whether there is a server.
    """
    with embedded_api(state_folder()) as server:
        with _loading():
            work = load()
        has_api = _ready(server)
        with _heartbeats(server):
            result = work(has_api)
        if server is not None and has_api:
            _drain_events()
        return result


def _heartbeats(server: EmbeddedServer | None) -> contextlib.AbstractContextManager[Any]:
    """Send no heartbeats to a server of our own: ending them takes a second."""
    if server is None:
        return contextlib.nullcontext()
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    return temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})


def _drain_events() -> None:
    from prefect.events.worker import EventsWorker

    drained = threading.Thread(target=EventsWorker.drain_all, daemon=True)
    drained.start()
    drained.join(DRAIN_SECONDS)


def await_history(api: Api, summary: dict[str, Any]) -> None:
    """Wait up to `DRAIN_SECONDS` until the server has stored a run; `summary` is its `run.json`."""
    end = time.monotonic() + DRAIN_SECONDS
    _drain_events()
    final = {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]}}
    run = {"id": {"any_": [summary["flow_run_id"]]}}
    body = {"flow_runs": run, "task_runs": {"state": final}}
    while time.monotonic() < end:
        with contextlib.suppress(OSError, ValueError):
            if api.request("/task_runs/count", body) >= summary["counts"]["shards"] * 3:
                return
        time.sleep(0.1)
