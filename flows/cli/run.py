"""The command `run`: process videos, and print a summary."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from flows.cli.derive import Given, takes
from flows.cli.options import (
    CLIPS,
    DECODING,
    ENCODING,
    OUTPUT_PANEL,
    RECOGNIZER_BACKBONE,
    RECOGNIZER_SAMPLING,
    RUN,
    SWITCH,
    AsJson,
    Out,
    Quiet,
    Videos,
    run_options,
)
from flows.signals import BROKEN, SOME_FAILED, exit_now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.config import RunOptions

RUN_FIELDS = (
    *("recognizer", "backbone", "weights", "image_fps", "frames", "embeddings", "shots"),
    *("novelty", "features", "full_hash", "strict"),
)
"""Fields of `RunOptions` that are options of `run` and of `serve`."""
LABELLING = RUN.change(backbone=RECOGNIZER_BACKBONE)

Fresh = Annotated[bool, SWITCH, Parameter(help="Delete the results and features in OUT first.")]
Timings = Annotated[
    bool,
    SWITCH,
    Parameter(help="Also print the time of each part of the run.", group=OUTPUT_PANEL),
]


@takes(LABELLING.only(*RUN_FIELDS, "wait"), RECOGNIZER_SAMPLING, CLIPS, ENCODING, DECODING)
def run(
    *videos: Videos,
    out: Out,
    fresh: Fresh = False,
    timings: Timings = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    given: Given,
) -> None:
    """Label videos: write rows of clips, segments and frames to OUT.

    The same command again processes only what is missing.
    """
    run_and_exit(videos, out, run_options(given), Output(as_json, quiet, timings), fresh=fresh)


@dataclass(frozen=True, slots=True)
class Output:
    """What a run prints."""

    as_json: bool
    quiet: bool
    timings: bool = False


def run_and_exit(
    videos: Sequence[str], out: Path, options: RunOptions, output: Output, *, fresh: bool = False
) -> None:
    """Process videos, print a summary, and exit."""
    from flows.cli.console import watch
    from flows.server.launch import run_once

    outcome = run_once(
        list(videos),
        out,
        options,
        partial(watch, quiet=output.quiet or output.as_json),
        fresh=fresh,
    )
    code = _print_results(out, outcome.failures, output)
    sys.stdout.flush()
    exit_now(code)


def _print_results(out: Path, failures: int, output: Output) -> int:
    """Print the results of a run, and return its exit code."""
    from flows.cli import console
    from pipeline.results.tables import load, read_run

    summary = read_run(out)
    videos = load(out, "videos", columns=["status"])
    statuses = {str(k): int(v) for k, v in videos.status.value_counts().items()}
    bad = len(videos) - statuses.get("ok", 0)
    if output.as_json:
        sys.stdout.write(json.dumps({**summary, "statuses": statuses}, indent=2) + "\n")
    elif not output.quiet:
        _print_summary(out, summary, statuses)
        if output.timings:
            print_timings(summary)
    if failures:
        console.print_error(f"{failures} shards failed: {summary['failures'][0]}")
        console.print_error("All other results are kept. The same command retries these shards.")
        return BROKEN
    if bad and not output.quiet and not output.as_json:
        console.print_error(
            f"{bad} of {len(videos)} videos could not be fully decoded: "
            f"clipline inspect {out} --failures"
        )
    return SOME_FAILED if bad else 0


def _print_summary(out: Path, summary: dict[str, Any], statuses: dict[str, int]) -> None:
    from flows.cli.console import print_line

    counts, seconds = summary["counts"], summary["timings_seconds"]["run"]
    found = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
    skipped = counts["videos_skipped"]
    before = f" ({skipped} were done before)" if skipped else ""
    rows = sum(statuses.values())  # includes copies, and videos of earlier runs on OUT
    print_line(f"{counts['videos_total']} videos{before}; {rows} rows: {found}")
    print_line(
        f"{counts['clips']} new clips; {counts['frames_encoded']} frames encoded, "
        f"{counts['frames_reused']} reused, in {seconds:.1f} s"
    )
    others = len(summary.get("configurations", {})) - 1
    if others:
        print_line(
            f"{out} also holds rows of {others} other configurations, distinguished by config_id; "
            "pipeline.results.load reads the newest"
        )
    print_line(f"rows: {out / 'clips'}   page: {out / 'report.html'}")


def print_timings(summary: dict[str, Any]) -> None:
    """Print the timings in `run.json`, and the time since the command started."""
    from flows.cli.console import print_line, print_table
    from flows.server.launch import process_age_seconds

    timings, counts = summary["timings_seconds"], summary["counts"]
    run = timings["run"]
    rows = [
        *((f"start: {part}", seconds, "") for part, seconds in timings["startup"].items()),
        ("run: from the first shard to the last", run, _rate(counts["frames_encoded"], run)),
        *(
            (f"run: {stage}", seconds, _output_size(stage, counts))
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
    print_line("Stages of several shards run in parallel; their times are summed.")


def _rate(frames: int, seconds: float) -> str:
    return f"{frames / seconds:,.0f} frames/s" if seconds else ""


def _share(seconds: float, whole: float) -> str:
    return f"{seconds / whole:.0%} of the run" if whole else ""


def _output_size(stage: str, counts: dict[str, int]) -> str:
    sizes = {"decode": "bytes_pictures", "encode": "bytes_features"}
    if stage not in sizes:
        return ""
    return f"{counts[sizes[stage]] / 2**20:,.1f} MiB of output"
