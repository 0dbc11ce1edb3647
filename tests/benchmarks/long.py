"""
Run one long video: the memory of all processes, and whether its rows are those of an undivided run.

    python -m tests.benchmarks.long [--hours 3] [--plot memory.png] [--json]
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.bench.synthetic import make_video
from pipeline.config import DecodeOptions, RunOptions, ShardOptions
from pipeline.results.plots import new_figure, save_figure
from pipeline.run.process import process_videos
from tests.benchmarks.commands import finish_command, start_command
from tests.benchmarks.compare_runs import compare_runs
from tests.benchmarks.memory import MemoryWatch
from tests.benchmarks.output import make_parser, print_values

SIZE = (160, 120)
LIMIT_GIB = 2.0


def measure_long(hours: float, folder: Path, plot: Path | None) -> dict[str, Any]:
    """
    Run a generated video, sample the memory of all processes, and compare its rows.

    Args:
        hours: duration of the video.
        folder: for the video and results.
        plot: PNG file.
    """
    video = make_video(folder / "long.mp4", SIZE, hours * 3600)
    out = folder / "out"
    start = time.perf_counter()
    process = start_command(["run", str(video), "-o", str(out), "--json"], folder / "state")
    with MemoryWatch(process.pid) as memory:
        finish_command(process)
    seconds = time.perf_counter() - start
    gibibytes = [count / 2**30 for count in memory.num_bytes]
    if plot is not None:
        plot_memory(memory.seconds, gibibytes, LIMIT_GIB, plot)
    half = [g for s, g in zip(memory.seconds, gibibytes, strict=True) if s > memory.seconds[-1] / 2]
    return {
        "hours": hours,
        "seconds": seconds,
        "peak_gib": max(gibibytes),
        "second_half_growth_gib": max(half) - half[0],
        "rows": compare_with_undivided_run(out, folder / "whole", video),
    }


def compare_with_undivided_run(out: Path, whole: Path, video: Path) -> dict[str, Any]:
    """Process a video in one piece, and compare its rows with those of a run that split it."""
    # with one decode process there is no reason to split, and shards have no limit
    shards = ShardOptions(max_frames=2**31, max_bytes=2**40, window=2)
    options = RunOptions(decode=DecodeOptions(workers=1), shards=shards)
    process_videos([str(video)], whole, options)
    return compare_runs(out, whole)


def plot_memory(
    seconds: Sequence[float], gibibytes: Sequence[float], limit: float, path: Path
) -> None:
    """
    Plot the memory of a run over time.

    Args:
        seconds: time of each sample, (n,).
        gibibytes: memory of the process tree, (n,).
        limit: in GiB, drawn as a line.
        path: PNG file.
    """
    figure = new_figure(8.0, 3.6)
    axes = figure.subplots()
    axes.fill_between(seconds, gibibytes, alpha=0.25, color="tab:blue")
    axes.plot(seconds, gibibytes, color="tab:blue")
    axes.axhline(limit, color="tab:red", linestyle="--", linewidth=1)
    axes.set(xlabel="seconds", ylabel="GiB, all processes", xlim=(0, max(seconds)))
    axes.set_ylim(0, 1.1 * max(limit, *gibibytes))
    axes.grid(alpha=0.3)
    save_figure(figure, path)


def main() -> None:
    """Measure, and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--hours", type=float, default=3.0, help="duration of the video")
    parser.add_argument("--plot", type=Path, help="PNG file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="clipline-long-") as folder:
        found = measure_long(given.hours, Path(folder), given.plot)
    print_values(found, as_json=given.json)


if __name__ == "__main__":
    main()
