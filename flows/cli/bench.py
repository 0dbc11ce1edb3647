"""The command `bench`: the speed of decoding, of the engines, and of whole runs on this machine."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from flows.cli.derive import Given, integer, takes
from flows.cli.options import DECODING, ENCODING, RUN, SAMPLING, AsJson, run_options
from pipeline.config import DEFAULT_SAMPLING, Sampling

if TYPE_CHECKING:
    from pipeline.bench.rates import Roofline

Case = Literal["roofline", "startup", "scale", "long"]
BACKBONE = "random:mobilenetv2_100"


@takes(
    RUN.only("backbone", "weights", "tap", "grid", "image_fps").change(
        backbone={"default": BACKBONE}
    ),
    SAMPLING.change(fps={"default": f"every frame; {DEFAULT_SAMPLING.fps:g} in the case scale"}),
    ENCODING.only("device", "precision"),
    DECODING.only("workers"),
)
def bench(
    *videos: Annotated[
        str,
        Parameter(
            help="Measured together; by default generated videos of three sizes, one by one.",
            required=False,
        ),
    ],
    case: Annotated[
        Case,
        Parameter(
            help="roofline: decoding, engines, whole runs; startup: commands on three clips; "
            "scale: Prefect's share, growth, a second recognizer; long: memory of a long video."
        ),
    ] = "roofline",
    hours: Annotated[
        float,
        Parameter(
            help="Hours of video to predict the time for (roofline), or to run (long).",
            validator=Number(gte=0.01),
        ),
    ] = 3.0,
    clips: Annotated[int, integer(10), Parameter(help="Clips of two seconds (scale).")] = 1000,
    repeats: Annotated[int, integer(1), Parameter(help="Repetitions of each measurement.")] = 3,
    plot: Annotated[Path | None, Parameter(help="PNG file for a figure (roofline, long).")] = None,
    as_json: AsJson = False,
    given: Given,
) -> None:
    """Measure this machine: decoding, engines, whole runs; the bound, and how near a run comes.

    No files are left behind. Compare only figures of one command: the speed of a machine varies.
    """
    from flows.cli import cases

    sampling = DEFAULT_SAMPLING if case == "scale" else Sampling(every=1)
    options = run_options(given, recognizer=None, backbone=BACKBONE, sampling=sampling)
    with tempfile.TemporaryDirectory(prefix="clipline-bench-") as name:
        folder, sources = Path(name), list(videos)
        if case == "roofline":
            found = cases.roofline(sources, folder, options, repeats)
            _show_rooflines(found, hours, plot, as_json=as_json)
        elif case == "startup":
            _show(cases.startup(sources, folder, repeats), as_json=as_json)
        elif case == "scale":
            _show(cases.scale(folder, options, clips, repeats), as_json=as_json)
        else:
            _show(cases.long(hours, folder, plot), as_json=as_json)


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
