"""What `clipline bench` measures: each case gives plain values."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.cli.measuring import (
    Runs,
    as_flow,
    end_command,
    own_server,
    start_command,
    time_command,
    without_prefect,
)

if TYPE_CHECKING:
    from pipeline.bench.rates import Roofline
    from pipeline.bench.roofline import Ran
    from pipeline.config import RunOptions
    from pipeline.records import Video
    from pipeline.run.choose_precision import EngineFactory

LONG_SIZE = (160, 120)
LONG_LIMIT_GIB = 2.0
GROWTH = 10
"""How many times more clips the longer of two runs has."""


def roofline(
    videos: Sequence[str], folder: Path, options: RunOptions, repeats: int
) -> list[Roofline]:
    """
    Measure decoding, engines and whole runs.

    Args:
        videos: measured together; without any, drawn ones are measured one by one.
        folder: for what is drawn and for results.
        options: of the runs.
        repeats: of every measurement.
    """
    from pipeline.bench.roofline import Setup, survey
    from pipeline.sources.discovery import find_videos

    assert options.sampling is not None
    setup = Setup(make_workbench(options), options.sampling, options.decode, repeats)
    if videos:
        found = find_videos(videos, image_fps=options.image_fps)
        groups = {f"{len(found)} videos": found}
    else:
        groups = _drawn(folder / "videos")
    with own_server(folder):
        runs = Runs(folder, options, as_flow)
        return [survey(name, group, setup, runs) for name, group in groups.items()]


def _drawn(folder: Path) -> dict[str, list[Video]]:
    from pipeline.bench.material import draw_videos
    from pipeline.sources.discovery import find_videos

    return {path.stem: find_videos([str(path)]) for path in draw_videos(folder)}


def make_workbench(options: RunOptions) -> EngineFactory:
    """Load the backbone that options name."""
    from pipeline.run.choose_precision import EngineFactory
    from pipeline.run.load import cache_folder, load_models

    return EngineFactory(load_models(options)[1], options.encode, cache_folder())


def startup(videos: Sequence[str], folder: Path, repeats: int) -> dict[str, Any]:
    """Time whole commands: `--help`, and `run` on three short clips, caches warm."""
    from pipeline.bench.material import draw_clips

    sources = list(videos) or [str(draw_clips(folder / "clips", 3, (340, 256)))]
    state = folder / "state"
    helped = [time_command(["--help"], state)[0] for _ in range(repeats + 1)]
    ran = []
    for number in range(repeats + 1):
        out = str(folder / f"out-{number}")
        ran.append(time_command(["run", *sources, "-o", out, "--json"], state))
    said = ran[-1][1]
    return {
        "help_seconds": statistics.median(helped[1:]),
        "run_seconds": statistics.median(seconds for seconds, _ in ran[1:]),
        "first_run_seconds": ran[0][0],
        "videos": said["counts"]["videos_total"],
        "timings_seconds": said["timings_seconds"],
    }


def scale(folder: Path, options: RunOptions, clips: int, repeats: int) -> dict[str, Any]:
    """
    Measure what many short clips cost: Prefect's share, growth, and a second recognizer.

    Args:
        folder: for what is drawn and for results.
        options: of features; their backbone is that of the two recognizers.
        clips: of two seconds each.
        repeats: of every measurement.
    """
    from pipeline.bench.material import draw_clips
    from pipeline.config import RunOptions
    from pipeline.sources.discovery import find_videos

    found = find_videos([str(draw_clips(folder / "clips", clips))])
    few = found[: max(1, clips // GROWTH)]
    usual = RunOptions(encode=options.encode, decode=options.decode)
    with own_server(folder):
        run, bare = Runs(folder / "a", usual, as_flow), Runs(folder / "b", usual, without_prefect)
        run(few)
        rounds = _in_turn(repeats, [(run, found), (bare, found), (run, few)])
        first, second = _reuse(folder / "c", options, found, repeats)
    with_it, without, short = map(statistics.median, zip(*rounds, strict=True))
    return {
        "clips": len(found),
        "flow_seconds": with_it,
        "without_prefect_seconds": without,
        # of each round: a machine that is slower for a while is slower for both
        "prefect_share": statistics.median(1 - plain / flow for flow, plain, _ in rounds),
        "few_clips": len(few),
        "few_seconds": short,
        "growth": statistics.median(flow / few for flow, _, few in rounds),
        "clips_growth": len(found) / len(few),
        "first_recognizer_seconds": first,
        "second_recognizer_seconds": second,
        "reuse": first / second,
    }


def _in_turn(
    repeats: int, jobs: Sequence[tuple[Callable[[Sequence[Video]], Ran], Sequence[Video]]]
) -> list[list[float]]:
    """
    Run jobs one after the other, several times over, every second time backwards.

    Returns:
        Seconds of each job, round by round.
    """
    rounds = []
    for number in range(repeats):
        backwards = number % 2 == 1
        seconds = [run(videos).seconds for run, videos in (jobs[::-1] if backwards else jobs)]
        rounds.append(seconds[::-1] if backwards else seconds)
    return rounds


def _reuse(
    folder: Path, options: RunOptions, videos: Sequence[Video], repeats: int
) -> tuple[float, float]:
    """Time one recognizer, then others on the same features: the median of those."""
    from pipeline.bench.material import untrained_recognizer

    assert options.sampling is not None
    backbone = make_workbench(options).backbone
    times = []
    for seed in range(1 + repeats):
        place = folder / f"recognizer-{seed}"
        made = untrained_recognizer(
            place, backbone, options.sampling, seed, tap=options.tap, grid=options.grid
        )
        shared = str(folder / "features")
        chosen = replace(options, recognizer=str(made), features=shared, sampling=None)
        times.append(Runs(folder / f"of-{seed}", chosen, as_flow)(videos).seconds)
    return times[0], statistics.median(times[1:])


def long(hours: float, folder: Path, plot: Path | None) -> dict[str, Any]:
    """
    Run one long video, watch the memory of all processes, and check the rows.

    The rows must be those of a run that does not cut the video.
    """
    from pipeline.bench.material import draw_video
    from pipeline.bench.memory import MemoryWatch
    from pipeline.bench.plots import plot_memory

    video = draw_video(folder / "long.mp4", LONG_SIZE, hours * 3600)
    out = folder / "out"
    start = time.perf_counter()
    process = start_command(["run", str(video), "-o", str(out), "--json"], folder / "state")
    with MemoryWatch(process.pid) as memory:
        end_command(process)
    seconds = time.perf_counter() - start
    gibibytes = [count / 2**30 for count in memory.num_bytes]
    if plot is not None:
        plot_memory(memory.seconds, gibibytes, LONG_LIMIT_GIB, plot)
    half = [g for s, g in zip(memory.seconds, gibibytes, strict=True) if s > memory.seconds[-1] / 2]
    return {
        "hours": hours,
        "seconds": seconds,
        "peak_gib": max(gibibytes),
        "second_half_growth_gib": max(half) - half[0],
        "rows": _compare(out, folder / "whole", video),
    }


def _compare(cut: Path, whole: Path, video: Path) -> dict[str, Any]:
    """Run a video in one piece, and tell how its rows differ from those of a run in many."""
    from pipeline.bench.same import compare_rows
    from pipeline.config import DecodeOptions, RunOptions, ShardOptions
    from pipeline.run.process import process_videos

    # one decode process leaves no reason to cut, and shards no need to
    shards = ShardOptions(max_frames=2**31, max_bytes=2**40, window=2)
    options = RunOptions(decode=DecodeOptions(workers=1), shards=shards)
    process_videos([str(video)], whole, options)
    return compare_rows(cut, whole)
