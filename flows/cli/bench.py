"""The command `bench`: what this machine can do, and what a run makes of it."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.options import (
    SAMPLE_FPS,
    AsJson,
    BackboneName,
    DeviceName,
    Every,
    Grid,
    ImageFps,
    PrecisionName,
    Tap,
    Weights,
    Workers,
    gather_options,
)

if TYPE_CHECKING:
    from pipeline.bench.rates import Roofline

CASES = ("roofline", "startup", "scale", "long")


def bench(
    videos: Annotated[
        list[str] | None,
        typer.Argument(help="Measured together; by default drawn ones of three sizes, each alone."),
    ] = None,
    case: Annotated[
        str,
        typer.Option(
            help="roofline: decoding, engines, whole runs; startup: commands on three clips; "
            "scale: Prefect's share, growth, a second recognizer; long: memory of a long video."
        ),
    ] = "roofline",
    backbone: BackboneName = "random:mobilenetv2_100",
    weights: Weights = None,
    tap: Tap = None,
    grid: Grid = None,
    sample_fps: Annotated[
        float | None,
        typer.Option(help=SAMPLE_FPS, show_default="every frame; 8 in the case scale"),
    ] = None,
    every: Every = None,
    image_fps: ImageFps = None,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    workers: Workers = 0,
    hours: Annotated[
        float, typer.Option(help="Of video: to predict for (roofline), or to run (long).", min=0.01)
    ] = 3.0,
    clips: Annotated[int, typer.Option(help="Clips of two seconds (scale).", min=10)] = 1000,
    repeats: Annotated[int, typer.Option(help="Of every measurement.", min=1)] = 3,
    plot: Annotated[
        Path | None, typer.Option(help="PNG file for a picture (roofline, long).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure this machine: decoding, engines, whole runs; the floor, and how near a run comes.

    Nothing is left behind. Compare figures of one command only: machines, and their days, differ.
    """
    from flows.cli import cases
    from pipeline.errors import OptionError

    if case not in CASES:
        raise OptionError(f"--case must be one of {', '.join(CASES)}, got {case}")
    values = {**locals(), **_READING, "recognizer": None}
    if sample_fps is None and every is None:
        values |= {"sample_fps": 8.0} if case == "scale" else {"every": 1}
    options = gather_options(values)
    with tempfile.TemporaryDirectory(prefix="clipline-bench-") as name:
        folder, sources = Path(name), videos or []
        if case == "roofline":
            found = cases.roofline(sources, folder, options, repeats)
            _show_rooflines(found, hours, plot, as_json=as_json)
        elif case == "startup":
            _show(cases.startup(sources, folder, repeats), as_json=as_json)
        elif case == "scale":
            _show(cases.scale(folder, options, clips, repeats), as_json=as_json)
        else:
            _show(cases.long(hours, folder, plot), as_json=as_json)


_READING: dict[str, Any] = {
    "reader": "auto",
    "batch_size": 0,
    "frame_timeout": 20.0,
    "video_timeout": 900.0,
    "max_pixels": 200_000_000,
    "max_video_seconds": 172_800.0,
    "decode_memory": 4096,
}
"""Options of other commands that make no difference to what is measured."""


def _show(found: dict[str, Any], *, as_json: bool) -> None:
    """Print what a case found."""
    from flows.cli.console import print_table

    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    print_table(["what", "measured"], [[name, text] for name, text in _lines(found)])


def _lines(values: dict[str, Any], before: str = "") -> list[tuple[str, str]]:
    lines = []
    for name, value in values.items():
        said = before + name.replace("_", " ")
        if isinstance(value, dict):
            lines += _lines(value, f"{said}: ")
        else:
            lines.append((said, f"{value:.3g}" if isinstance(value, float) else str(value)))
    return lines


def _show_rooflines(
    found: list[Roofline], hours: float, plot: Path | None, *, as_json: bool
) -> None:
    from flows.cli.console import print_line
    from pipeline.bench.plots import bars_of, plot_rates

    if plot is not None:
        plot_rates({_title(one): bars_of(one) for one in found}, plot)
    if as_json:
        said = [{**one.to_json(), "hours_for": hours, "hours": one.hours(hours)} for one in found]
        sys.stdout.write(json.dumps(said, indent=2) + "\n")
        return
    for one in found:
        _print_roofline(one, hours)
    if plot is not None:
        print_line(f"picture: {plot}")


def _title(found: Roofline) -> str:
    return f"{found.name}: {found.frames:,} of {found.decoded:,} frames, {found.cores} cores"


def _print_roofline(found: Roofline, hours: float) -> None:
    from flows.cli.console import print_line, print_table
    from pipeline.bench.rates import rounded

    def rate(value: float | None) -> str:
        return rounded(value) if value is not None else "refused"

    print_line(_title(found))
    print_table(
        ["reader", "frames/s decoded, 1 core", f"{found.cores} cores"],
        [[one.reader, rate(one.per_core), rate(one.all_cores)] for one in found.decode],
    )
    print_line()
    print_table(
        ["engine", "precision", "frames/s", "network alone", "cosine min", "mean"],
        [
            [
                one.engine,
                one.precision,
                rate(one.rate),
                rate(one.network),
                f"{one.cosine_min:.5f}",
                f"{one.cosine_mean:.5f}",
            ]
            for one in found.engines
        ],
    )
    print_line()
    print_table(["what", "measured"], _conclusions(found, hours))
    print_line()


def _conclusions(found: Roofline, hours: float) -> list[list[str]]:
    from pipeline.bench.rates import rounded

    rows = [
        [
            "whole run",
            f"{rounded(found.run)} frames/s in {found.precision} (±{found.run_spread:.0%})",
        ],
        ["engine alone, in turn with it", f"{rounded(found.engine)} frames/s"],
        ["fastest reader alone, likewise", f"{rounded(found.reader)} frames/s decoded"],
        ["floor", f"{rounded(found.floor)} frames/s"],
        ["efficiency", f"{found.efficiency:.0%} of the floor"],
        ["share of the engine alone", f"{found.share_of_engine:.0%}"],
        ["share of the fastest reader alone", f"{found.share_of_reader:.0%}"],
        ["bottleneck", found.bottleneck],
        [f"{hours:g} hours of such video", f"{found.hours(hours):.2g} hours"],
    ]
    if found.naive:
        times = f"{rounded(found.naive)} frames/s: the run is {found.times_naive:.1f} × as fast"
        rows.insert(2, ["naive loop", times])
    return rows
