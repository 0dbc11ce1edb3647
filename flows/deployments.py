"""Serve the flow on a schedule, and trigger a served one."""

import time
import zoneinfo
from collections.abc import Iterator
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
from pipeline.config import RunOptions
from pipeline.errors import OptionError

FLOW = "process-folder"
POLL_SECONDS = 1.0
READY_SECONDS = 8.0
"""How long a job that was served just now may take to ask the server for runs: then it is ready."""


def serve(
    sources: list[str], out: str, options: RunOptions, name: str, schedule: Schedule | None
) -> None:
    """
    Register the job, and run it whenever it is due or triggered, one run at a time, until stopped.

    Args:
        sources: files, folders, globs, lists.
        out: results folder.
        options: of each run.
        name: of the deployment, for `trigger`.
        schedule: when to run; None runs only when triggered.
    """
    process_folder.serve(
        name=name,
        schedules=[schedule] if schedule else None,
        parameters={"sources": sources, "out": out, "options": options.to_json()},
        limit=1,
        global_limit=1,
        print_starting_message=False,
        # by module, not by path: runs find it whatever their working directory is
        entrypoint_type=EntrypointType.MODULE_PATH,
        description=f"clipline run {' '.join(sources)} -o {out}",
    )


def schedule_of(cron: str, timezone: str) -> Schedule:
    """
    Make a schedule, and refuse one that never comes.

    Raises:
        OptionError: with what was wrong.
    """
    try:
        zoneinfo.ZoneInfo(timezone)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError) as error:
        raise OptionError(
            f"--timezone {timezone!r} is no time zone, such as Europe/Berlin"
        ) from error
    try:
        CronSchedule(cron=cron, timezone=timezone)
    except ValueError as error:
        raise OptionError(
            f"--cron {cron!r} is no schedule, such as '0 2 * * *' (2 a.m.)"
        ) from error
    return Cron(cron, timezone=timezone)


def trigger(name: str | None) -> tuple[UUID, str]:
    """
    Start a served job now.

    Returns:
        Its run id, and the name of the job.

    Raises:
        OptionError: no such job is served, or several are and none is named.
    """
    names = served()
    if name is None and len(names) == 1:
        name = names[0]
    if name not in names:
        wanted = f"no job {name!r} is served" if name else "which job?"
        there = ", ".join(names) or "none"
        raise OptionError(f"{wanted} (served: {there}); clipline serve registers one")
    run = run_deployment(f"{FLOW}/{name}", timeout=0, as_subflow=False)
    return run.id, name  # type: ignore[union-attr]


def served() -> list[str]:
    """Name the jobs that somebody serves now; where there are none, wait for one to begin."""
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
    """Give the state of a run each time that it changes, the final one last."""
    said = None
    with get_client(sync_client=True) as client:
        while True:
            try:
                state = client.read_flow_run(run_id).state
            except ObjectNotFound:
                state = None
            if state is not None and state.name != said:
                said = state.name
                yield state
                if state.is_final():
                    return
            time.sleep(POLL_SECONDS)
