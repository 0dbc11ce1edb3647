"""What a run says of itself at its end: `run.json`, and the page."""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pipeline.results.report import write_report
from pipeline.results.tables import write_run
from pipeline.run.session import Pipeline

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
    pipeline: Pipeline,
    sources: Sequence[str],
    failures: Sequence[Exception],
    run_id: str | None = None,
) -> dict[str, Any]:
    """
    Write `run.json` and the page.

    Args:
        pipeline: that has run.
        sources: what it was run on, as the user named it.
        failures: what `drive` or `run` returned.
        run_id: of the flow, if it was one.

    Returns:
        What `run.json` says.
    """
    summary = summarize(pipeline, sources, failures, run_id)
    write_run(pipeline.out, summary)
    write_report(pipeline.out)
    return summary


def summarize(
    pipeline: Pipeline, sources: Sequence[str], failures: Sequence[Exception], run_id: str | None
) -> dict[str, Any]:
    """Give what `run.json` says of a run."""
    tally = pipeline.tally
    counts = {name: value for name, value in vars(tally).items() if isinstance(value, int)}
    return {
        "config_id": pipeline.config_id,
        "configuration": pipeline.describe(),
        "sources": list(sources),
        "working_folder": os.getcwd(),
        "options": pipeline.options.to_json(),
        "counts": counts,
        "failures": [repr(error) for error in failures],
        "flow_run_id": run_id,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "timings_seconds": timings(pipeline),
        "versions": {name: _version(name) for name in VERSIONED},
    }


def timings(pipeline: Pipeline) -> dict[str, Any]:
    """
    Give the seconds that a run took, by what it did.

    Stages are added up over the shards in flight, so together they may take longer than the run.
    """
    tally = pipeline.tally
    startup = {**tally.startup, "decode processes": pipeline.pool.start_seconds}
    return {
        "run": round(time.monotonic() - tally.started, 3),
        "stages": {name: round(value, 3) for name, value in tally.seconds.items()},
        "startup": {name: round(value, 3) for name, value in startup.items()},
        "engine_busy": round(tally.engine.busy_seconds, 3),
        "engine_idle": round(tally.engine_idle_seconds, 3),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
