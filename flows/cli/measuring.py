"""Run the real thing to measure it: the flow with its server, and whole commands."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.server.embedded import embedded_api
from pipeline.errors import MachineError

if TYPE_CHECKING:
    from flows.process_folder import PreparedRun
    from pipeline.bench.roofline import Ran
    from pipeline.config import RunOptions
    from pipeline.records import Video


@contextlib.contextmanager
def own_server(folder: Path) -> Iterator[None]:
    """Start a Prefect API whose history is thrown away, and wait for it."""
    with embedded_api(folder / "state") as server:
        if server is not None:
            server.wait_until_ready()
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            yield


Run = Callable[["PreparedRun"], None]


class Runs:
    """
    Runs videos from the beginning, each time into a results folder of its own.

    Args:
        folder: where the results go.
        options: of every run.
        run: what is timed: `as_flow`, or `without_prefect`.
    """

    def __init__(self, folder: Path, options: RunOptions, run: Run) -> None:
        self.folder, self.options, self.run = folder, options, run
        self._numbers = itertools.count()

    def __call__(self, videos: Sequence[Video]) -> Ran:
        """Run once, and time it without its start."""
        from flows.process_folder import open_prepared
        from pipeline.bench.decoding import warm
        from pipeline.bench.roofline import Ran
        from pipeline.progress import RunProgress

        out = self.folder / f"out-{next(self._numbers)}"
        progress = RunProgress()
        began = time.perf_counter()
        with open_prepared(out, self.options, videos, progress) as prepared:
            warm(prepared.session.pool)
            # as the command does: no look for garbage is to fall into what is measured
            gc.collect()
            gc.freeze()
            started = time.perf_counter()
            self.run(prepared)
            ended = time.perf_counter()
            _let_server_rest(out)
            return Ran(
                seconds=ended - started,
                startup_seconds=started - began,
                precision=prepared.session.engine.precision,
                frames=progress.frames_encoded,
                decoded=progress.frames_decoded,
            )


def _let_server_rest(out: Path) -> None:
    """Wait for the server to store what it was told: that is not to slow what is measured next."""
    from flows.server.api import Api
    from flows.server.launch import await_history
    from pipeline.results.tables import read_run

    summary = read_run(out)
    if summary["flow_run_id"] is not None:
        await_history(Api.from_environment(), summary)


def as_flow(prepared: PreparedRun) -> None:
    """Run the flow on videos that were found before, as `clipline run` does."""
    from flows.process_folder import process_prepared

    state = process_prepared(prepared, _sources(prepared.videos))
    if not state.is_completed():
        raise MachineError(f"a run that was measured failed: {state.message}")


def without_prefect(prepared: PreparedRun) -> None:
    """Do the same in threads of this process."""
    from pipeline.run.process import run
    from pipeline.run.run_record import finish

    session, progress = prepared.session, prepared.progress
    failures = run(session, prepared.videos, progress)
    finish(session, progress, _sources(prepared.videos), failures)
    if failures:
        raise MachineError(f"a run that was measured failed: {failures[0]!r}")


def _sources(videos: Sequence[Video]) -> list[str]:
    return [video.location for video in videos]


def start_command(arguments: Sequence[str], state: Path) -> subprocess.Popen[str]:
    """Start `clipline` in a process of its own, with a run history of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli.app", *arguments],
        env={**os.environ, "XDG_STATE_HOME": str(state)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end_command(process: subprocess.Popen[str]) -> str:
    """
    Wait for a command, and give what it printed.

    Raises:
        MachineError: it failed, with what it said.
    """
    out, said = process.communicate()
    if process.returncode != 0:
        raise MachineError(f"a command that was measured failed: {said.strip()[-500:]}")
    return out


def time_command(arguments: Sequence[str], state: Path) -> tuple[float, Any]:
    """Time a command. Gives the seconds, and what it printed, read as JSON where it is."""
    start = time.perf_counter()
    out = end_command(start_command(arguments, state))
    seconds = time.perf_counter() - start
    return seconds, json.loads(out) if out.startswith("{") else out
