"""Serve the flow on a schedule, and trigger a run of a served one."""

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import DeploymentStatus
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron, Schedule
from prefect.types.entrypoint import EntrypointType

from flows.process_folder import process_folder
from flows.schedules import check_schedule, cron_error
from flows.signals import BROKEN, SignalWatch
from pipeline.config import RunOptions
from pipeline.errors import OptionError

FLOW = "process-folder"
POLL_SECONDS = 1.0
READY_SECONDS = 8.0
"""How long `serve` may take after its start to poll for runs, with which its job gets ready."""
RUN_STOP_SECONDS = 2.0
"""As `flows.signals.STOP_SECONDS`: Prefect looks after 3 s whether the process has ended."""


class EndWithServe:
    """
    Ends the process of a served run with `serve`, and within seconds after a signal.

    A hook of the flow, with which it is pickled into the process of the run. Unpickling comes
    before the first request to the server, for which a run would wait if `serve` was killed.
    """

    __name__ = "end-with-serve"

    def __reduce__(self) -> tuple[Callable[[int], "EndWithServe"], tuple[int]]:
        """Call `_in_run_process` where this is unpickled."""
        return _in_run_process, (os.getpid(),)

    def __call__(self, flow: Any, flow_run: Any, state: Any) -> None:
        """Do nothing when the run starts."""


def _in_run_process(serve_pid: int) -> EndWithServe:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != serve_pid:  # it ended before this call
        os._exit(BROKEN)
    SignalWatch(RUN_STOP_SECONDS).start()
    return EndWithServe()


def serve(
    sources: list[str], out: str, options: RunOptions, name: str, schedule: Schedule | None
) -> None:
    """
    Register a deployment, and run it on schedule or when triggered, one run at a time.

    Args:
        sources: files, folders, globs, lists.
        out: results folder.
        options: of each run.
        name: of the deployment, for `trigger`.
        schedule: when to run; None runs only when triggered.
    """
    process_folder.with_options(on_running=[EndWithServe()]).serve(
        name=name,
        schedules=[schedule] if schedule else None,
        parameters={"sources": sources, "out": out, "options": options.to_json()},
        limit=1,
        global_limit=1,
        print_starting_message=False,
        # by module, so that runs find it from any working directory
        entrypoint_type=EntrypointType.MODULE_PATH,
        description=f"clipline run {' '.join(sources)} -o {out}",
    )


def schedule_of(cron: str, timezone: str) -> Schedule:
    """
    Return a cron schedule.

    Raises:
        OptionError: the expression or the time zone is not valid.
    """
    check_schedule(cron, timezone)
    try:
        CronSchedule(cron=cron, timezone=timezone)
    except ValueError as error:
        raise cron_error(cron) from error
    return Cron(cron, timezone=timezone)


def trigger(name: str | None) -> tuple[UUID, str]:
    """
    Start a run of a served job now.

    Returns:
        The id of the run, and the name of the job.

    Raises:
        OptionError: no such job is served, or several are served and `name` is None.
    """
    names = list_deployments()
    if name is None and len(names) == 1:
        name = names[0]
    if name not in names:
        wanted = f"no job {name!r} is served" if name else "which job?"
        there = ", ".join(names) or "none"
        raise OptionError(f"{wanted} (served: {there}); clipline serve registers one")
    run = run_deployment(f"{FLOW}/{name}", timeout=0, as_subflow=False)
    return run.id, name  # type: ignore[union-attr]


def list_deployments() -> list[str]:
    """Return the names of the jobs that are served now; wait `READY_SECONDS` for the first."""
    ours = FlowFilter(name=FlowFilterName(any_=[FLOW]))
    end = time.monotonic() + READY_SECONDS
    with get_client(sync_client=True) as client:
        while True:
            found = client.read_deployments(flow_filter=ours)
            names = sorted(job.name for job in found if job.status is DeploymentStatus.READY)
            if names or time.monotonic() >= end:
                return names
            time.sleep(POLL_SECONDS)


def follow(run_id: UUID) -> Iterator[Any]:
    """Yield the state of a run when it changes, until it is final."""
    name = None
    with get_client(sync_client=True) as client:
        while True:
            try:
                state = client.read_flow_run(run_id).state
            except ObjectNotFound:
                state = None
            if state is not None and state.name != name:
                name = state.name
                yield state
                if state.is_final():
                    return
            time.sleep(POLL_SECONDS)
