"""Run `clipline` in a process of its own, with a Prefect history of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import MachineError


def start_command(arguments: Sequence[str], state: Path) -> subprocess.Popen[str]:
    """Start a command; `state` is the folder of the Prefect history."""
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli.app", *arguments],
        env={**os.environ, "XDG_STATE_HOME": str(state)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish_command(process: subprocess.Popen[str]) -> str:
    """
    Wait for a command, and return what it printed.

    Raises:
        MachineError: it failed.
    """
    out, errors = process.communicate()
    if process.returncode != 0:
        raise MachineError(f"a measured command failed: {errors.strip()[-500:]}")
    return out


def time_command(arguments: Sequence[str], state: Path) -> tuple[float, Any]:
    """Return the seconds of a command, and its output, parsed if it is JSON."""
    start = time.perf_counter()
    out = finish_command(start_command(arguments, state))
    seconds = time.perf_counter() - start
    return seconds, json.loads(out) if out.startswith("{") else out
