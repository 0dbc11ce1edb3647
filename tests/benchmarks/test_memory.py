"""Memory of a process and its descendants."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tests.benchmarks import memory
from tests.benchmarks.memory import MemoryWatch, tree_bytes

HOLDS = "import sys; data = bytearray({}); print('ready', flush=True); sys.stdin.read()"
MIB = 1 << 20


@pytest.fixture
def child():
    """A process that holds 64 MiB until its input ends."""
    code = HOLDS.format(64 * MIB)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as process:
        process.stdout.readline()
        yield process
        process.stdin.close()


def test_memory_of_child_processes_is_included(child):
    alone = tree_bytes(child.pid)

    assert 64 * MIB < alone < 128 * MIB
    assert tree_bytes(os.getpid()) > alone


def test_a_process_that_has_ended_has_no_memory(child):
    child.stdin.close()
    child.wait()

    assert tree_bytes(child.pid) == 0


def test_samples_are_taken_until_the_end_of_the_block(child, monkeypatch):
    monkeypatch.setattr(memory, "SAMPLE_SECONDS", 0.01)
    with MemoryWatch(child.pid) as watch:
        time.sleep(0.1)

    assert len(watch.seconds) == len(watch.num_bytes) > 2
    assert watch.seconds == sorted(watch.seconds)
    assert min(watch.num_bytes) > 64 * MIB
