"""Two checkouts are compared: order of the commands, CPU time of all processes, ratios."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline.errors import MachineError
from tests.benchmarks.compare_commits import Checkout, Timing, compare, summarize

PROGRAM = """
import json, subprocess, sys, time
subprocess.run([sys.executable, "-c", "import time; e = time.process_time() + 0.2\\n"
    "while time.process_time() < e: pass"], check=True)
if "bad" in sys.argv: sys.exit("no such video")
print(json.dumps({"timings_seconds": {"run": 0.5}, "arguments": sys.argv[1:]}))
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose command uses 0.2 s of CPU time in a child process."""
    for name in ("flows", "flows/cli"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "flows" / "cli" / "app.py").write_text(PROGRAM)
    return Checkout(tmp_path, tmp_path / "results")


def test_cpu_time_of_child_processes_is_included(checkout):
    timing = checkout.time_command(["run"], ["a.mp4"], 0)

    assert timing.cpu_seconds > 0.2
    assert timing.wall_seconds > 0
    assert timing.run_seconds == 0.5


def test_other_processes_are_not_waited_for(checkout):
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        checkout.time_command(["run"], ["a.mp4"], 0)

        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_errors_of_a_command_are_raised(checkout):
    with pytest.raises(MachineError, match="no such video"):
        checkout.time_command(["run"], ["bad"], 0)


def test_the_module_of_older_checkouts_is_found(tmp_path):
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "cli.py").touch()

    assert Checkout(tmp_path, tmp_path).module == "flows.cli"


class FakeCheckout:
    def __init__(self, name, calls, seconds):
        self.name, self.calls, self.seconds = name, calls, seconds

    def time_command(self, command, videos, number):
        self.calls.append((self.name, number))
        return Timing(self.seconds, 2 * self.seconds, 1.0)


def test_the_order_alternates_and_the_first_round_is_a_warm_up():
    calls = []
    checkouts = [FakeCheckout("old", calls, 4.0), FakeCheckout("new", calls, 2.0)]

    measured = compare(checkouts, ["run"], ["a.mp4"], 2)

    assert calls == [("old", 0), ("new", 0), ("new", 1), ("old", 1), ("old", 2), ("new", 2)]
    assert measured == [(Timing(4.0, 8.0, 1.0), Timing(2.0, 4.0, 1.0))] * 2


def test_ratios_are_medians_over_rounds():
    timings = [(Timing(old, 1.0, 1.0), Timing(1.0, 1.0, 2.0)) for old in (1.0, 2.0, 9.0)]

    found = summarize(timings)

    assert found["wall_seconds"] == {"old": 2.0, "new": 1.0, "speed_ratio": 2.0}
    assert found["run_seconds"]["speed_ratio"] == 0.5
