"""Write the record of a run when it ends: `run.json` and the report."""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pipeline.progress import RunProgress
from pipeline.results.report import write_report
from pipeline.results.tables import write_run
from pipeline.run.session import Session

VERSIONED = (
    "clipline",
    "torch",
    "timm",
    "openvino",
    "av",
    "decord2",
    "opencv-python-headless",
    "prefect",
    "pandas",
    "pyarrow",
)


def finish(
    session: Session,
    progress: RunProgress,
    sources: Sequence[str],
    failures: Sequence[Exception],
    run_id: str | None = None,
) -> dict[str, Any]:
    """
    Write `run.json` and the report.

    Args:
        session: with a results folder.
        progress: of the run.
        sources: what was processed, as the user named it.
        failures: what `drive` or `run` returned.
        run_id: of the flow run, if it was one.

    Returns:
        The content of `run.json`.
    """
    assert session.out is not None
    summary = summarize(session, progress, sources, failures, run_id)
    write_run(session.out, summary)
    write_report(session.out)
    return summary


def summarize(
    session: Session,
    progress: RunProgress,
    sources: Sequence[str],
    failures: Sequence[Exception],
    run_id: str | None,
) -> dict[str, Any]:
    """Collect the content of `run.json`."""
    counts = {name: value for name, value in vars(progress).items() if isinstance(value, int)}
    return {
        "config_id": session.config.config_id,
        "configuration": session.describe(),
        "sources": list(sources),
        "working_folder": os.getcwd(),
        "options": session.options.to_json(),
        "counts": counts,
        "failures": [repr(error) for error in failures],
        "flow_run_id": run_id,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "timings_seconds": timings(session, progress),
        "versions": {name: _version(name) for name in VERSIONED},
    }


def timings(session: Session, progress: RunProgress) -> dict[str, Any]:
    """
    Report the seconds that each part of a run took.

    Stages are added up over the shards in flight, so together they may take longer than the run.
    """
    startup = {**progress.startup, "decode processes": session.pool.start_seconds}
    lock = session.engine_lock
    return {
        "run": round(time.monotonic() - progress.started, 3),
        "stages": {name: round(value, 3) for name, value in progress.seconds.items()},
        "startup": {name: round(value, 3) for name, value in startup.items()},
        "engine_busy": round(lock.busy_seconds, 3),
        "engine_idle": round(lock.idle_seconds(progress.started), 3),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
