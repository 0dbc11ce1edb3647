"""Where the time of a run went, as a table."""

from __future__ import annotations

from typing import Any

from flows.cli.console import print_line, print_table
from flows.server.launch import process_age_seconds


def print_timings(summary: dict[str, Any]) -> None:
    """Print the timings of `run.json`, and the time of the whole command until now."""
    timings, counts = summary["timings_seconds"], summary["counts"]
    run = timings["run"]
    rows = [
        *((f"start: {part}", seconds, "") for part, seconds in timings["startup"].items()),
        ("run: from the first shard to the last", run, _rate(counts["frames_encoded"], run)),
        *(
            (f"run: {stage}", seconds, _moved(stage, counts))
            for stage, seconds in timings["stages"].items()
        ),
        ("run: engine computes", timings["engine_busy"], _share(timings["engine_busy"], run)),
        ("run: engine waits", timings["engine_idle"], _share(timings["engine_idle"], run)),
        ("whole command", process_age_seconds(), ""),
    ]
    print_line()
    print_table(
        ["what", "seconds", ""], [[what, f"{seconds:.2f}", note] for what, seconds, note in rows]
    )
    print_line("Stages run beside each other: they are added up over the shards in flight.")


def _rate(frames: int, seconds: float) -> str:
    return f"{frames / seconds:,.0f} frames/s" if seconds else ""


def _share(seconds: float, whole: float) -> str:
    return f"{seconds / whole:.0%} of the run" if whole else ""


def _moved(stage: str, counts: dict[str, int]) -> str:
    moved = {"decode": "bytes_pictures", "encode": "bytes_features"}
    if stage not in moved:
        return ""
    return f"{counts[moved[stage]] / 2**20:,.1f} MiB handed on"
