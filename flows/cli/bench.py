"""The command `bench`: the speed of decoding, of the engines, and of whole runs on this machine."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from flows.cli.derive import Given, integer, takes
from flows.cli.options import DECODING, ENCODING, RUN, SAMPLING, AsJson, run_options
from pipeline.config import Sampling

if TYPE_CHECKING:
    from pipeline.bench.rates import DecodeRate, EngineRate, Roofline
    from pipeline.bench.roofline import Part
    from pipeline.config import RunOptions
    from pipeline.records import Video

BACKBONE = "random:mobilenetv2_100"
SECONDS, SECONDS_OF_GENERATED = 10.0, 3.0
"""Default time limits of a measurement: generated videos are three groups, measured one by one."""
TOTAL_SECONDS = 150.0
"""Time after which no further generated video is measured."""


@takes(
    RUN.only("backbone", "weights", "tap", "grid", "image_fps").change(
        backbone={"default": BACKBONE}
    ),
    SAMPLING.change(fps={"default": "every frame"}),
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
    hours: Annotated[
        float,
        Parameter(help="Hours of video to predict the time for.", validator=Number(gte=0.01)),
    ] = 3.0,
    repeats: Annotated[
        int, integer(1), Parameter(help="Repetitions of each measurement, if time allows.")
    ] = 3,
    seconds: Annotated[
        float | None,
        Parameter(
            help="Time limit of each measurement with its repetitions; one whole run may take "
            "twice as long.",
            validator=Number(gte=0.1),
            show_default=f"{SECONDS:g}, {SECONDS_OF_GENERATED:g} for generated videos",
        ),
    ] = None,
    plot: Annotated[Path | None, Parameter(help="PNG file for a figure.")] = None,
    as_json: AsJson = False,
    given: Given,
) -> None:
    """Measure this machine: decoding, engines, whole runs; the bound, and how near a run comes.

    No files are left behind. Compare only figures of one command: the speed of a machine varies.
    """
    from flows.cli.bench_runs import temporary_api

    options = run_options(given, recognizer=None, backbone=BACKBONE, sampling=Sampling(every=1))
    limit = seconds or (SECONDS if videos else SECONDS_OF_GENERATED)
    with tempfile.TemporaryDirectory(prefix="clipline-bench-") as name:
        with temporary_api(Path(name)):
            groups = measure_groups(list(videos), Path(name), options, repeats, limit)
            show = _show_json if as_json else _show_tables
            found = show(groups, hours)
    if plot is not None:
        from pipeline.bench.plots import bars_of, plot_rates

        plot_rates({_title(one): bars_of(one) for one in found}, plot)


def measure_groups(
    videos: Sequence[str], folder: Path, options: RunOptions, repeats: int, seconds: float
) -> Iterator[tuple[str, Iterator[Part]]]:
    """
    Measure decoding, engines and whole runs.

    Args:
        videos: measured together; without any, generated ones are measured one by one.
        folder: for generated videos and results.
        options: of the runs.
        repeats: of each measurement.
        seconds: time limit of each measurement.

    Yields:
        The name of each group of videos, and its rates as soon as they are measured.
    """
    from flows.cli.bench_runs import TimedRuns
    from flows.cli.console import print_error
    from pipeline.bench.roofline import BenchConfig, run_roofline
    from pipeline.run.choose_precision import EngineFactory
    from pipeline.run.load import cache_folder, load_models
    from pipeline.sources.discovery import find_videos

    assert options.sampling is not None
    if videos:
        found = find_videos(videos, image_fps=options.image_fps)
        groups = iter([(f"{len(found)} videos", found)])
    else:
        groups = _generate(folder / "videos", options.decode.num_workers)
    engines = EngineFactory(load_models(options)[1], options.encode, cache_folder())
    config = BenchConfig(engines, options.sampling, options.decode, repeats, seconds, print_error)
    runs = TimedRuns(folder, options)
    end = time.monotonic() + TOTAL_SECONDS
    for name, group in groups:
        if time.monotonic() > end:
            print_error(f"{name} and larger: not measured, as the time is over")
            return
        yield name, run_roofline(name, group, config, runs)


def _generate(folder: Path, cores: int) -> Iterator[tuple[str, list[Video]]]:
    """Generate videos, the smallest first."""
    from flows.cli.console import print_error
    from pipeline.bench.synthetic import make_videos
    from pipeline.sources.discovery import find_videos

    print_error("generating videos")
    for path in make_videos(folder, cores):
        yield path.stem, find_videos([str(path)])


@dataclass
class Measured:
    """What has been measured of one group of videos."""

    name: str
    decode: list[DecodeRate] = field(default_factory=list)
    engines: list[EngineRate] = field(default_factory=list)
    roofline: Roofline | None = None
    """Of the repetitions so far."""

    def add(self, part: Part) -> None:
        """Add what was measured last."""
        from pipeline.bench.rates import DecodeRate, EngineRate

        if isinstance(part, DecodeRate):
            self.decode.append(part)
        elif isinstance(part, EngineRate):
            self.engines.append(part)
        else:
            self.roofline = part

    def to_json(self, hours: float) -> dict[str, Any]:
        """Return plain values; without a whole run, those of readers and engines."""
        if self.roofline is None:
            decode, engines = map(asdict, self.decode), map(asdict, self.engines)
            return {"name": self.name, "decode": [*decode], "engines": [*engines]}
        hours_predicted = {"hours_for": hours, "hours": self.roofline.hours(hours)}
        return {**self.roofline.to_json(), **hours_predicted}


Groups = Iterable[tuple[str, Iterator["Part"]]]


def _show_json(groups: Groups, hours: float) -> list[Roofline]:
    """Print JSON at the end; after an interruption, of what was measured until then."""
    found: list[Measured] = []
    try:
        for name, parts in groups:
            found.append(Measured(name))
            for part in parts:
                found[-1].add(part)
    finally:
        values = [one.to_json(hours) for one in found if one.decode]
        if values:
            sys.stdout.write(json.dumps(values, indent=2) + "\n")
            sys.stdout.flush()
    return [one.roofline for one in found if one.roofline]


def _show_tables(groups: Groups, hours: float) -> list[Roofline]:
    """Print each rate as soon as it is measured, and the conclusions at the end of each group."""
    found = []
    for name, parts in groups:
        measured = Measured(name)
        try:
            _print_rates(measured, parts)
        finally:  # if interrupted, of the repetitions so far
            if measured.roofline:
                _print_conclusions(measured.roofline, hours)
        if measured.roofline:
            found.append(measured.roofline)
    return found


def _print_rates(measured: Measured, parts: Iterator[Part]) -> None:
    from flows.cli.console import print_line
    from pipeline.bench.rates import DecodeRate, EngineRate

    print_line(f"{measured.name}, in frames per second")
    for part in parts:
        measured.add(part)
        if isinstance(part, DecodeRate):
            if len(measured.decode) == 1:
                _print_row("reader", "decoded, 1 core", "all cores")
            _print_row(*_reader_cells(part))
        elif isinstance(part, EngineRate):
            if len(measured.engines) == 1:
                print_line()
                _print_row("engine", "encoded", "network alone", "cosine min", "cosine mean")
            _print_row(*_engine_cells(part))


def _reader_cells(rate: DecodeRate) -> tuple[str, ...]:
    from pipeline.bench.rates import format_rate

    if rate.per_core is None:
        return rate.reader, "refused", "refused"
    return rate.reader, format_rate(rate.per_core), format_rate(rate.all_cores)


def _engine_cells(rate: EngineRate) -> tuple[str, ...]:
    from pipeline.bench.rates import format_rate

    return (
        f"{rate.engine}, {rate.precision}",
        format_rate(rate.rate),
        format_rate(rate.network),
        f"{rate.cosine_min:.5f}",
        f"{rate.cosine_mean:.5f}",
    )


def _print_row(first: str, *others: str) -> None:
    """Print a row of a table at once: aligned in a terminal, else separated by tabs."""
    from flows.cli.console import console, print_line

    if console.is_terminal:
        print_line(f"{first:28}" + "".join(f"{cell:>17}" for cell in others))
    else:
        print_line("\t".join([first, *others]))
    sys.stdout.flush()


def _title(found: Roofline) -> str:
    return f"{found.name}: {found.frames:,} of {found.decoded:,} frames, {found.cores} cores"


def _print_conclusions(found: Roofline, hours: float) -> None:
    from flows.cli.console import print_line, print_table

    print_line()
    print_line(_title(found))
    print_table(["what", "measured"], conclusions(found, hours))
    print_line()
    sys.stdout.flush()


def conclusions(found: Roofline, hours: float) -> list[list[str]]:
    """Return the rows of the table about whole runs."""
    from pipeline.bench.rates import format_rate

    return [
        [
            "whole run",
            f"{format_rate(found.run)} frames/s in {found.precision} (±{found.run_spread:.0%})",
        ],
        ["engine alone, in turn with it", f"{format_rate(found.engine)} frames/s"],
        ["fastest reader alone, in turn", f"{format_rate(found.reader)} frames/s decoded"],
        ["bound", f"{format_rate(found.bound)} frames/s"],
        ["efficiency", f"{found.efficiency:.0%} of the bound"],
        ["share of the engine alone", f"{found.share_of_engine:.0%}"],
        ["share of the fastest reader alone", f"{found.share_of_reader:.0%}"],
        ["bottleneck", found.bottleneck],
        [f"{hours:g} hours of such video", f"{found.hours(hours):.2g} hours"],
    ]
