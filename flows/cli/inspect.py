"""The command `inspect`: show what a results folder holds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from flows.cli.derive import integer
from flows.cli.options import SWITCH, AsJson
from flows.cli.retry import ResultsFolder

if TYPE_CHECKING:
    import pandas as pd

BAR_WIDTH = 40
"""Characters of the bar of the most frequent label."""


def inspect(
    out: ResultsFolder,
    /,
    *,
    failures: Annotated[
        bool, SWITCH, Parameter(help="List the videos that were not fully decoded.")
    ] = False,
    rows: Annotated[int, integer(0), Parameter(help="Rows of clips to print.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Show what a results folder holds: counts, labels, failures, and a few rows."""
    from flows.cli.console import print_line, print_table
    from pipeline.results.deleted_files import file_exists
    from pipeline.results.tables import load, read_run

    run = read_run(out)
    columns = ["video", "path", "status", "error", "duration_seconds"]
    videos = load(out, "videos", columns=columns)
    clips = load(out, columns=["video", "start_seconds", "end_seconds", "label", "score"])
    bad = videos[videos.status != "ok"]
    there = videos[videos.status != "missing"]
    deleted = int((~there.path.map(file_exists)).sum()) if len(there) else 0
    labels = clips.groupby("label").size().sort_values(ascending=False)
    if as_json:
        shown = {
            "config_id": run["config_id"],
            "videos": len(videos),
            "statuses": {str(k): int(v) for k, v in videos.status.value_counts().items()},
            "clips": len(clips),
            **_count_shots(out),
            "labels": {str(k): int(v) for k, v in labels.items()},
            "deleted_files": deleted,
            "failures": bad[["video", "status", "error"]].to_dict("records"),
        }
        sys.stdout.write(json.dumps(shown, indent=2) + "\n")
        return
    seconds = float(videos.duration_seconds.fillna(0).sum())
    print_line(f"{len(videos)} videos, {seconds / 3600:.2f} hours; {len(clips)} clips")
    _print_shots(out)
    if failures:
        cells = [[v.video, v.status, v.error or ""] for v in bad.itertuples()]
        print_table(["video", "status", "error"], cells)
        return
    _print_labels(labels)
    _print_statuses(bad, out)
    if deleted:
        print_line(
            f"{deleted} of the files no longer exist: clipline forget {out} drops their rows"
        )
    _print_clips(clips.head(rows))


def _count_shots(out: Path) -> dict[str, Any]:
    """Count the shots, and those that begin with each kind of transition."""
    from pipeline.results.tables import load

    kinds = load(out, "shots", columns=["kind"]).kind
    counts = {str(kind): int(count) for kind, count in kinds.value_counts().items()}
    return {"shots": len(kinds), "transitions": counts}


def _print_shots(out: Path) -> None:
    from flows.cli.console import print_line

    found = _count_shots(out)
    if found["shots"]:
        kinds = ", ".join(f"{count} {kind}" for kind, count in found["transitions"].items())
        print_line(f"{found['shots']} shots, which begin with: {kinds or 'no transition'}")


def _print_labels(labels: pd.Series[int]) -> None:
    from flows.cli.console import print_line, print_table

    if not len(labels):
        return
    bars = [
        [str(label), str(count), "█" * max(1, round(BAR_WIDTH * count / labels.iloc[0]))]
        for label, count in labels.items()
    ]
    print_line()
    print_table(["label", "clips", ""], bars)


def _print_statuses(bad: pd.DataFrame, out: Path) -> None:
    from flows.cli.console import print_line, print_table

    if not len(bad):
        return
    print_line()
    counts = bad.status.value_counts()
    print_table(["status", "videos"], [[str(k), str(v)] for k, v in counts.items()])
    print_line(f"clipline inspect {out} --failures lists them")


def _print_clips(clips: pd.DataFrame) -> None:
    from flows.cli.console import print_line, print_table

    if not len(clips):
        return
    clips = clips.assign(
        label=clips.label.fillna(""),  # no label reaches its threshold
        score=[f"{score:.2f}" if score >= 0 else "" for score in clips.score],
    )
    cells = [
        [c.video, f"{c.start_seconds:.2f}", f"{c.end_seconds:.2f}", c.label, c.score]
        for c in clips.itertuples()
    ]
    print_line()
    print_table(["video", "start_seconds", "end_seconds", "label", "score"], cells)
