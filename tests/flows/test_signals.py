"""Ctrl-C and SIGTERM end a command soon, whatever it is doing, and it says how to go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from flows.signals import LATEST_SECONDS, Stopped, handling, stop_on_signals

ROOT = Path(__file__).parents[2]
BOTH = pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
COMMAND = """
import os, signal, sys, threading, time
from flows import cli, launch

def run_once(*given):
{work}

launch.run_once = run_once
sys.argv = ["clipline", "run", ".", "-o", "OUT"]
cli.main()
"""
STUBBORN = """
while True:
    try:
        signal.raise_signal({number})
        time.sleep(50)
    except BaseException:
        pass
"""
SIGNALLED_AGAIN = """
try:
    signal.raise_signal({number})
finally:
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
"""


def command(work: str, number: int) -> subprocess.CompletedProcess[str]:
    """Run a command that does some work, which sends it a signal."""
    work = textwrap.indent(work.format(number=int(number)), "    ")
    return subprocess.run(
        [sys.executable, "-c", COMMAND.format(work=work)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@BOTH
@pytest.mark.parametrize("work", ["signal.raise_signal({number})", SIGNALLED_AGAIN])
def test_a_stop_has_words_and_an_exit_code(work, number, code):
    ended = command(work, number)

    assert ended.returncode == code
    assert "The same command goes on from there." in ended.stderr
    assert "Traceback" not in ended.stderr


@BOTH
def test_work_that_lets_nothing_pass_is_cut_short(number, code):
    """Some libraries catch everything while they are imported."""
    begin = time.monotonic()

    ended = command(STUBBORN, number)

    assert ended.returncode == code
    assert "The same command goes on from there." in ended.stderr
    assert time.monotonic() - begin > LATEST_SECONDS


def test_signals_are_handled_as_before_once_the_block_ends():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    with stop_on_signals():
        assert signal.getsignal(signal.SIGTERM) not in before
        with handling({signal.SIGTERM: signal.SIG_IGN}):
            os.kill(os.getpid(), signal.SIGTERM)

    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_the_exit_code_tells_the_signal():
    assert Stopped(signal.SIGTERM).exit_code == 143
