"""
Compare the speed of two checkouts: run the same command with both, in turn.

    python -m tests.benchmarks.compare_commits OLD NEW VIDEOS… [--rounds N] [--command run]

OLD and NEW are folders with a checkout each. Both run `clipline COMMAND VIDEOS… -o OUT` with a new
results folder each time and Prefect histories of their own: old, new, new, old, and so on, after
one run of each as a warm-up. On a machine that does other work too, compare CPU seconds: they
include all processes of a command.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from pipeline.errors import MachineError
from tests.benchmarks.output import make_parser, print_values

PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Timing:
    """One command."""

    wall_seconds: float
    cpu_seconds: float
    """User and system time of all its processes."""
    run_seconds: float
    """From the first shard to the last, as `run.json` says."""


@dataclass(frozen=True)
class Checkout:
    """
    A checkout, and where its commands leave their files.

    Args:
        path: folder of the checkout.
        folder: for results and history.
    """

    path: Path
    folder: Path

    @property
    def module(self) -> str:
        """The module of the command line; before the packages were rearranged it was another."""
        is_new = (self.path / "flows" / "cli" / "app.py").exists()
        return "flows.cli.app" if is_new else "flows.cli"

    def time_command(self, command: Sequence[str], videos: Sequence[str], number: int) -> Timing:
        """
        Run a command into a new results folder.

        Raises:
            MachineError: it failed.
        """
        out = self.folder / f"out-{number}"
        arguments = [*command, *videos, "-o", str(out), "--json"]
        others, before = _children(), _children_cpu_seconds()
        start = time.perf_counter()
        ended = subprocess.run(
            [sys.executable, "-m", self.module, *arguments],
            cwd=self.path,
            env={
                **os.environ,
                "PYTHONPATH": str(self.path),
                "XDG_STATE_HOME": str(self.folder / "state"),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        wall = time.perf_counter() - start
        if ended.returncode != 0:
            raise MachineError(f"{self.path}: {ended.stderr.strip()[-500:]}")
        _wait_for_orphans(others)
        cpu = _children_cpu_seconds() - before
        return Timing(wall, cpu, json.loads(ended.stdout)["timings_seconds"]["run"])


def _children_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _adopt_orphans() -> None:
    """Become the parent of orphaned descendants, so that their CPU time is counted here."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def _wait_for_orphans(others: set[int]) -> None:
    """Wait for processes that a command has left, such as its Prefect server."""
    while left := _children() - others:
        os.waitpid(left.pop(), 0)


def compare(
    checkouts: Sequence[Checkout], command: Sequence[str], videos: Sequence[str], rounds: int
) -> list[tuple[Timing, Timing]]:
    """Time the command with both checkouts, in alternating order; a first round is a warm-up."""
    measured = []
    for number in range(rounds + 1):
        step = -1 if number % 2 else 1
        timings = [one.time_command(command, videos, number) for one in checkouts[::step]]
        old, new = timings[::step]
        measured.append((old, new))
        print(
            f"round {number} of {rounds}: {old.wall_seconds:.2f} and {new.wall_seconds:.2f} s, "
            f"CPU {old.cpu_seconds:.2f} and {new.cpu_seconds:.2f} s",
            file=sys.stderr,
        )
    return measured[1:]


def summarize(measured: Sequence[tuple[Timing, Timing]]) -> dict[str, Any]:
    """Return the median seconds of both, and the median over rounds of old divided by new."""
    found: dict[str, Any] = {"rounds": len(measured)}
    pairs = [(asdict(old), asdict(new)) for old, new in measured]
    for name in pairs[0][0]:
        found[name] = {
            "old": statistics.median(old[name] for old, _ in pairs),
            "new": statistics.median(new[name] for _, new in pairs),
            "speed_ratio": statistics.median(old[name] / new[name] for old, new in pairs),
        }
    return found


def main() -> None:
    """Measure, and print."""
    parser = make_parser(__doc__)
    parser.add_argument("old", type=Path, help="folder of a checkout")
    parser.add_argument("new", type=Path, help="folder of another checkout")
    parser.add_argument("videos", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--command", default="run", help='such as "run --sample-fps 4"')
    given = parser.parse_args()
    _adopt_orphans()
    videos = [str(Path(video).resolve()) for video in given.videos]
    with tempfile.TemporaryDirectory(prefix="clipline-compare-") as name:
        checkouts = [
            Checkout(path.resolve(), Path(name, which))
            for which, path in (("old", given.old), ("new", given.new))
        ]
        measured = compare(checkouts, shlex.split(given.command), videos, given.rounds)
    print_values(summarize(measured), as_json=given.json)


if __name__ == "__main__":
    main()
