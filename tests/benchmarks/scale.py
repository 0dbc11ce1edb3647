"""
Measure many short clips: the share of Prefect, growth with their number, and a second recognizer.

    python -m tests.benchmarks.scale [--clips 1000] [--repeats N] [--backbone NAME] [--json]
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.cli.bench_runs import TimedRuns, temporary_api
from pipeline.bench.roofline import RunTiming
from pipeline.config import DecodeOptions, EncodeOptions, RunOptions, Sampling
from pipeline.errors import MachineError
from pipeline.records import Video
from pipeline.run.load import load_models
from pipeline.run.process import run
from pipeline.run.run_record import finish
from pipeline.sources.discovery import find_videos
from tests.benchmarks.output import make_parser, print_values
from tests.benchmarks.synthetic import make_clips, untrained_recognizer

if TYPE_CHECKING:
    from flows.process_folder import PreparedRun

GROWTH = 10
"""How many times more clips the longer run has than the shorter one."""
SAMPLE_FPS = 8.0


def measure_scale(folder: Path, options: RunOptions, clips: int, repeats: int) -> dict[str, Any]:
    """
    Time runs with and without Prefect, over all clips and over few, and with a second recognizer.

    Args:
        folder: for clips and results.
        options: of features; the two recognizers use their backbone.
        clips: number of clips of two seconds.
        repeats: of each measurement.
    """
    found = find_videos([str(make_clips(folder / "clips", clips))])
    few = found[: max(1, clips // GROWTH)]
    default = RunOptions(encode=options.encode, decode=options.decode)
    with temporary_api(folder):
        flow = TimedRuns(folder / "a", default)
        plain = TimedRuns(folder / "b", default, run_without_prefect)
        flow(few)
        rounds = run_in_turn(repeats, [(flow, found), (plain, found), (flow, few)])
        first, second = measure_reuse(folder / "c", options, found, repeats)
    flow_seconds, plain_seconds, few_seconds = map(statistics.median, zip(*rounds, strict=True))
    return {
        "clips": len(found),
        "flow_seconds": flow_seconds,
        "without_prefect_seconds": plain_seconds,
        # the median of ratios: while a machine is slow, it is slow for both
        "prefect_share": statistics.median(1 - plain / flow for flow, plain, _ in rounds),
        "few_clips": len(few),
        "few_seconds": few_seconds,
        "growth": statistics.median(flow / few for flow, _, few in rounds),
        "clips_growth": len(found) / len(few),
        "first_recognizer_seconds": first,
        "second_recognizer_seconds": second,
        "reuse": first / second,
    }


def run_without_prefect(prepared: PreparedRun) -> None:
    """
    Do the work of the flow in threads of this process.

    Raises:
        MachineError: it failed.
    """
    session, progress = prepared.session, prepared.progress
    failures = run(session, prepared.videos, progress)
    finish(session, progress, [video.location for video in prepared.videos], failures)
    if failures:
        raise MachineError(f"a measured run failed: {failures[0]!r}")


def run_in_turn(
    repeats: int, jobs: Sequence[tuple[Callable[[Sequence[Video]], RunTiming], Sequence[Video]]]
) -> list[list[float]]:
    """
    Run jobs in turn, several times, every second time in reverse order.

    Returns:
        The seconds of each job, by round.
    """
    rounds = []
    for number in range(repeats):
        step = -1 if number % 2 else 1
        seconds = [run(videos).seconds for run, videos in jobs[::step]]
        rounds.append(seconds[::step])
    return rounds


def measure_reuse(
    folder: Path, options: RunOptions, videos: Sequence[Video], repeats: int
) -> tuple[float, float]:
    """Time a recognizer, then others with the same features; returns the median of those."""
    assert options.sampling is not None
    backbone = load_models(options)[1]
    times = []
    for seed in range(1 + repeats):
        recognizer = untrained_recognizer(
            folder / f"recognizer-{seed}",
            backbone,
            options.sampling,
            seed,
            tap=options.tap,
            grid=options.grid,
        )
        shared = str(folder / "features")
        chosen = replace(options, recognizer=str(recognizer), features=shared, sampling=None)
        times.append(TimedRuns(folder / f"of-{seed}", chosen)(videos).seconds)
    return times[0], statistics.median(times[1:])


def main() -> None:
    """Measure, and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--clips", type=int, default=1000, help="clips of two seconds")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--backbone", default="random:mobilenetv2_100")
    parser.add_argument("--tap", help="read the backbone after this module")
    parser.add_argument("--grid", type=int, help="pool feature maps to GRID × GRID cells")
    parser.add_argument("--sample-fps", type=float, default=SAMPLE_FPS)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--workers", type=int, default=0, help="decode processes; 0 is one per CPU")
    given = parser.parse_args()
    options = RunOptions(
        recognizer=None,
        backbone=given.backbone,
        tap=given.tap,
        grid=given.grid,
        sampling=Sampling(fps=given.sample_fps),
        encode=EncodeOptions(device=given.device, precision=given.precision),
        decode=DecodeOptions(workers=given.workers),
    )
    with tempfile.TemporaryDirectory(prefix="clipline-scale-") as folder:
        found = measure_scale(Path(folder), options, given.clips, given.repeats)
    print_values(found, as_json=given.json)


if __name__ == "__main__":
    main()
