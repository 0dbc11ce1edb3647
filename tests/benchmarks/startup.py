"""
Time whole commands: `--help`, and `run` on three short clips, cold and with warm caches.

    python -m tests.benchmarks.startup [VIDEOS…] [--repeats N] [--json]
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.commands import time_command
from tests.benchmarks.output import make_parser, print_values
from tests.benchmarks.synthetic import make_clips


def measure_startup(videos: Sequence[str], folder: Path, repeats: int) -> dict[str, Any]:
    """
    Time commands; the first one of each kind is a warm-up.

    Args:
        videos: by default three generated clips.
        folder: for clips and results.
        repeats: of each command.
    """
    sources = list(videos) or [str(make_clips(folder / "clips", 3, (340, 256)))]
    state = folder / "state"
    help_seconds = [time_command(["--help"], state)[0] for _ in range(repeats + 1)]
    runs = []
    for number in range(repeats + 1):
        out = str(folder / f"out-{number}")
        runs.append(time_command(["run", *sources, "-o", out, "--json"], state))
    summary = runs[-1][1]
    return {
        "help_seconds": statistics.median(help_seconds[1:]),
        "run_seconds": statistics.median(seconds for seconds, _ in runs[1:]),
        "first_run_seconds": runs[0][0],
        "videos": summary["counts"]["videos_total"],
        "timings_seconds": summary["timings_seconds"],
    }


def main() -> None:
    """Measure, and print."""
    parser = make_parser(__doc__)
    parser.add_argument("videos", nargs="*", help="by default three generated clips")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="clipline-startup-") as folder:
        found = measure_startup(given.videos, Path(folder), given.repeats)
    print_values(found, as_json=given.json)


if __name__ == "__main__":
    main()
