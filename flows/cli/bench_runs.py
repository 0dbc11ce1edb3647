"""Whole runs by the flow of `clipline run`, timed, with a Prefect API whose history is deleted."""

from __future__ import annotations

import contextlib
import gc
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flows.server.embedded import embedded_api
from pipeline.errors import MachineError

if TYPE_CHECKING:
    from flows.process_folder import PreparedRun
    from pipeline.bench.roofline import RunTiming
    from pipeline.config import RunOptions
    from pipeline.records import Video


@contextlib.contextmanager
def temporary_api(folder: Path) -> Iterator[None]:
    """Start a Prefect API with its history in `folder`, and wait until it answers."""
    with embedded_api(folder / "state") as server:
        if server is not None:
            server.wait_until_ready()
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            yield


class TimedRuns:
    """
    Processes videos when called, each time into a new results folder.

    Args:
        folder: of the results folders.
        options: of every run.
        process: what is timed; the flow by default.
    """

    def __init__(
        self,
        folder: Path,
        options: RunOptions,
        process: Callable[[PreparedRun], None] | None = None,
    ) -> None:
        self.folder, self.options, self.process = folder, options, process or run_flow
        self._numbers = itertools.count()

    def __call__(self, videos: Sequence[Video]) -> RunTiming:
        """Process the videos, and time the start and the work."""
        from flows.process_folder import open_prepared
        from pipeline.bench.decoding import warm_up
        from pipeline.bench.roofline import RunTiming
        from pipeline.progress import RunProgress

        out = self.folder / f"out-{next(self._numbers)}"
        progress = RunProgress()
        began = time.perf_counter()
        with open_prepared(out, self.options, videos, progress) as prepared:
            warm_up(prepared.session.pool)
            # as the command `run` does, so that the collector does not run while it is measured
            gc.collect()
            gc.freeze()
            started = time.perf_counter()
            self.process(prepared)
            ended = time.perf_counter()
            _wait_for_history(out)
            return RunTiming(
                seconds=ended - started,
                startup_seconds=started - began,
                precision=prepared.session.engine.precision,
                frames=progress.frames_encoded,
                decoded=progress.frames_decoded,
            )


def _wait_for_history(out: Path) -> None:
    """Wait until the server has stored the history of a run: it would slow the next measurement."""
    from flows.server.api import Api
    from flows.server.launch import await_history
    from pipeline.results.tables import read_run

    summary = read_run(out)
    if summary["flow_run_id"] is not None:
        await_history(Api.from_environment(), summary)


def run_flow(prepared: PreparedRun) -> None:
    """
    Run the flow, as `clipline run` does.

    Raises:
        MachineError: it failed.
    """
    from flows.process_folder import process_prepared

    state = process_prepared(prepared, [video.location for video in prepared.videos])
    if not state.is_completed():
        raise MachineError(f"a measured run failed: {state.message}")
