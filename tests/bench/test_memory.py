"""Memory is counted over all processes of a run, and what they share counts once."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time

import pytest

from pipeline.bench import memory
from pipeline.bench.memory import MemoryWatch, process_tree, tree_bytes

MIB = 1 << 20
PARENT = (
    "import subprocess, sys\n"
    "child = subprocess.Popen([sys.executable, '-c', 'print(1, flush=True); input()'], "
    "stdin=subprocess.PIPE)\n"
    "held = bytearray(64 << 20)\n"
    "print(child.pid, flush=True)\n"
    "input()\n"
    "child.communicate(b'\\n')\n"
)


@pytest.fixture
def family():
    """A process that holds 64 MiB, and its child."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        said = {parent.stdout.readline().strip() for _ in range(2)} - {"1"}
        yield parent.pid, int(said.pop())
        parent.communicate("\n")


def test_a_process_is_counted_with_its_children(family):
    parent, child = family

    assert process_tree(parent) == [parent, child]
    assert process_tree(child) == [child]
    assert tree_bytes(parent) > 64 * MIB + tree_bytes(child) / 2 > tree_bytes(child)


def test_shared_memory_counts_once():
    before = tree_bytes(os.getpid())
    with mmap.mmap(-1, 64 * MIB) as shared:  # anonymous, shared with forked children
        shared.write(b"1" * 64 * MIB)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.read(reading, 1)
            os._exit(int(shared[-1] != ord("1")))
        grown = tree_bytes(os.getpid()) - before
        os.write(writing, b"1")
        assert os.waitpid(child, 0)[1] == 0
    os.close(reading)
    os.close(writing)

    assert 60 * MIB < grown < 100 * MIB


def test_a_process_that_is_gone_has_none():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()

    assert tree_bytes(gone.pid) == 0


def test_a_watch_takes_samples_until_the_end(family, monkeypatch):
    monkeypatch.setattr(memory, "SAMPLE_SECONDS", 0.01)

    with MemoryWatch(family[0]) as watch:
        end = time.monotonic() + 10
        while len(watch.num_bytes) < 3 and time.monotonic() < end:
            time.sleep(0.01)
    count = len(watch.num_bytes)
    time.sleep(0.03)

    assert count == len(watch.seconds) == len(watch.num_bytes) >= 3
    assert watch.seconds == sorted(watch.seconds)
    assert min(watch.num_bytes) > 64 * MIB
