"""Memory of a process and all that it started, over time."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from pathlib import Path

SAMPLE_SECONDS = 0.5


def process_tree(pid: int) -> list[int]:
    """Give a process and its descendants."""
    children: dict[int, list[int]] = defaultdict(list)
    for path in Path("/proc").glob("[0-9]*/stat"):
        fields = _read(path).rpartition(")")[2].split()
        if fields:
            children[int(fields[1])].append(int(path.parent.name))
    found = [pid]
    for parent in found:
        found += children[parent]
    return found


def tree_bytes(pid: int) -> int:
    """
    Add up the memory of a process and its descendants.

    What several of them share counts once (PSS), shared memory included.
    """
    total = 0
    for member in process_tree(pid):
        lines = _read(Path(f"/proc/{member}/smaps_rollup")).splitlines()
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return total


def _read(path: Path) -> str:
    """Read a file of the kernel; empty where its process has ended."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


class MemoryWatch:
    """
    Samples the memory of a process tree while it is entered.

    Args:
        pid: root of the tree.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.seconds: list[float] = []
        """When each sample was taken, from the beginning."""
        self.num_bytes: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)

    def _watch(self) -> None:
        start = time.monotonic()
        while True:
            found = tree_bytes(self.pid)
            if found:
                self.seconds.append(time.monotonic() - start)
                self.num_bytes.append(found)
            if self._stop.wait(SAMPLE_SECONDS):
                return

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
