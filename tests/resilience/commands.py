"""Run the command line in processes that can be killed, and find all of their child processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.results.tables import load, read_run

ROOT = Path(__file__).resolve().parents[2]
MARKER_VARIABLE = "CLIPLINE_TEST"
"""Environment variable that marks all processes started by a test, whoever their parent is."""
ORDER = {
    "clips": ["video", "clip_index"],
    "segments": ["video", "segment_index"],
    "frames": ["video", "sample_index"],
    "videos": ["video"],
}


@dataclass(frozen=True)
class Ended:
    """Result of a command."""

    code: int
    out: str
    err: str
    seconds: float


class Commands:
    """Runs commands with their own home folder, without files of the user."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._mark = f"{MARKER_VARIABLE}={uuid.uuid4().hex}"
        self._begun: list[subprocess.Popen[str]] = []

    def environment(self, **more: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "XDG_"))}
        name, _, value = self._mark.partition("=")
        return {**kept, "HOME": str(self.home), "COLUMNS": "200", name: value, **more}

    def begin(
        self,
        *arguments: Any,
        module: str = "flows.cli.app",
        before: tuple[str, ...] = (),
        **environment: str,
    ) -> subprocess.Popen[str]:
        """
        Start a command.

        Args:
            arguments: of the command.
            module: that is run instead of the command line.
            before: a command that runs the command.
            environment: variables beside the usual ones.
        """
        process = subprocess.Popen(
            [*before, sys.executable, "-m", module, *map(str, arguments)],
            cwd=ROOT,
            env=self.environment(**environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._begun.append(process)
        return process

    def end(self, process: subprocess.Popen[str], timeout: float = 900) -> Ended:
        """Wait for the end of a command."""
        begin = time.monotonic()
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.close()
            raise
        return Ended(process.returncode, out, err, time.monotonic() - begin)

    def __call__(self, *arguments: Any, timeout: float = 900, **options: Any) -> Ended:
        """Run a command to its end."""
        return self.end(self.begin(*arguments, **options), timeout)

    def processes(self) -> dict[int, str]:
        """Return the living processes of these commands, with their command lines."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # it ended meanwhile
            if os.fsencode(self._mark) in variables and state not in "ZX":
                found[int(entry.name)] = line
        return found

    def running(self, part: str) -> list[int]:
        """Return the processes whose command line contains a text."""
        return [pid for pid, line in self.processes().items() if part in line]

    def kill(self, part: str = "") -> list[int]:
        """Kill all processes, or those whose command line contains a text."""
        found = self.running(part)
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return found

    def close(self) -> None:
        """Kill all processes, and close their output."""
        self.kill()
        for process in self._begun:
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()

    def left(self, seconds: float = 10) -> dict[int, str]:
        """Return the processes that are still alive after some seconds."""
        end = time.monotonic() + seconds
        while (found := self.processes()) and time.monotonic() < end:
            time.sleep(0.05)
        return found


def wait_until(condition: Callable[[], Any], seconds: float = 300) -> None:
    """Wait until a condition is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


def tables(out: Path, *without: str) -> dict[str, pd.DataFrame]:
    """Return all rows of the newest run, sorted."""
    return {
        name: load(out, name)
        .drop(columns=list(without), errors="ignore")
        .sort_values(by, ignore_index=True)
        for name, by in ORDER.items()
    }


def assert_same(one: dict[str, pd.DataFrame], other: dict[str, pd.DataFrame]) -> None:
    """Assert that two results have equal rows: all columns, all values."""
    for name in one:
        pd.testing.assert_frame_equal(one[name], other[name], obj=name)


def committed(out: Path) -> int:
    """Count the finished videos."""
    parts = [path for path in out.glob("videos/part-*.parquet")]
    return sum(len(pd.read_parquet(path, columns=["video"])) for path in parts)


def counts(out: Path) -> dict[str, int]:
    """Return the counts of the last run."""
    return read_run(out)["counts"]


def temporary_files(folder: Path) -> list[str]:
    """List hidden temporary files, which no finished run leaves in results and state."""
    kept = {".lock"}
    return sorted(
        str(path.relative_to(folder))
        for path in folder.glob("**/.*")
        if path.name not in kept and path.name.endswith(".new")
    )


def from_json(ended: Ended) -> Any:
    """Parse the output of a command with --json."""
    return json.loads(ended.out)
