"""Memory of a process and of what it started."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from pipeline.bench import memory
from pipeline.bench.memory import MemoryWatch, process_tree, tree_bytes

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


def test_the_tree_holds_those_who_were_started(child):
    assert child.pid in process_tree(os.getpid())
    assert process_tree(child.pid) == [child.pid]


def test_memory_of_the_tree_is_added_up(child):
    alone = tree_bytes(child.pid)

    assert 64 * MIB < alone < 128 * MIB
    assert tree_bytes(os.getpid()) > alone


def test_a_process_that_has_ended_takes_none(child):
    child.stdin.close()
    child.wait()

    assert tree_bytes(child.pid) == 0


def test_samples_are_taken_while_it_is_watched(child, monkeypatch):
    monkeypatch.setattr(memory, "SAMPLE_SECONDS", 0.01)
    with MemoryWatch(child.pid) as watch:
        time.sleep(0.1)

    assert len(watch.seconds) == len(watch.num_bytes) > 2
    assert watch.seconds == sorted(watch.seconds)
    assert min(watch.num_bytes) > 64 * MIB
