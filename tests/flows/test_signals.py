"""SIGINT and SIGTERM end a command within seconds, whatever it is doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.signals import STOP_SECONDS, Interrupted, on_stop, signal_handlers, stop_on_signals

ROOT = Path(__file__).parents[2]
BOTH = pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
COMMAND = """
import os, signal, sys, threading, time
from flows.cli import app
from flows.server import launch

def run_once(*given, **options):
{work}

launch.run_once = run_once
sys.argv = ["clipline", "run", ".", "-o", "OUT"]
app.main()
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


NATIVE = """
import hashlib
threading.Timer(0.5, os.kill, (os.getpid(), {number})).start()
hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # minutes without a line of Python
"""
HANDLER_REPLACED = """
signal.signal({number}, lambda *_: None)  # as Prefect does while a flow runs
os.kill(os.getpid(), {number})
end = time.monotonic() + 50
while time.monotonic() < end:
    time.sleep(1)
"""
OTHER_EXCEPTION = """
try:
    signal.raise_signal({number})
finally:
    raise BaseException("whatever a library makes of it")
"""
LOGGING_LOCKED = """
import logging
handler = logging.StreamHandler()
logging.getLogger().addHandler(handler)
threading.Thread(target=lambda: (handler.acquire(), time.sleep(50)), daemon=True).start()
time.sleep(0.5)
os.kill(os.getpid(), {number})
time.sleep(50)
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended, and how many seconds after it began its work."""

    returncode: int
    stderr: str
    seconds: float


def command(work: str, number: int) -> Ended:
    """Run a command that does some work, which sends it a signal."""
    work = textwrap.indent(
        "print('working', flush=True)\n" + work.format(number=int(number)), "    "
    )
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND.format(work=work)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "working\n"
        begin = time.monotonic()
        _, stderr = process.communicate(timeout=300)
        return Ended(process.returncode, stderr, time.monotonic() - begin)
    finally:
        process.kill()
        process.communicate()


@BOTH
@pytest.mark.parametrize(
    "work", ["signal.raise_signal({number})", SIGNALLED_AGAIN, OTHER_EXCEPTION]
)
def test_a_signal_gives_a_message_and_an_exit_code(work, number, code):
    ended = command(work, number)

    assert ended.returncode == code
    assert "The same command goes on from there." in ended.stderr
    assert "Traceback" not in ended.stderr


@BOTH
@pytest.mark.parametrize(
    "work",
    [NATIVE, HANDLER_REPLACED, LOGGING_LOCKED],
    ids=["native code", "handler replaced", "logging locked"],
)
def test_the_deadline_holds_where_no_python_handler_can_end_the_process(work, number, code):
    ended = command(work, number)

    assert ended.returncode == code
    assert "The same command goes on from there." in ended.stderr
    assert ended.seconds < STOP_SECONDS + 5


@BOTH
def test_code_that_catches_every_exception_is_ended_by_the_deadline(number, code):
    """Some libraries catch BaseException while they are imported."""
    ended = command(STUBBORN, number)

    assert ended.returncode == code
    assert "The same command goes on from there." in ended.stderr
    assert ended.seconds > STOP_SECONDS


def test_signal_handlers_are_restored_after_the_block():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    with stop_on_signals():
        assert signal.getsignal(signal.SIGTERM) not in before
        with signal_handlers({signal.SIGTERM: signal.SIG_IGN}):
            os.kill(os.getpid(), signal.SIGTERM)

    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_the_exit_code_is_128_plus_the_signal():
    assert Interrupted(signal.SIGTERM).exit_code == 143


@BOTH
def test_callbacks_run_when_a_signal_arrives(number, code):
    """They stop work that no exception in the main thread reaches, such as decode processes."""
    work = (
        "import os, threading, time\n"
        "from flows.signals import on_stop, stop_on_signals\n"
        "called = threading.Event()\n"
        "with stop_on_signals(), on_stop(called.set):\n"
        "    try:\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "        time.sleep(50)\n"
        "    finally:\n"  # as a flow that waits for its threads
        "        print(called.wait(50), flush=True)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", work], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert ended.stdout == "True\n"


def test_without_signal_handling_callbacks_are_not_kept():
    with on_stop(pytest.fail):
        pass
