"""Memory of a process and its descendants over time."""

from __future__ import annotations

import contextlib
import threading
import time

import psutil

SAMPLE_SECONDS = 0.5


def tree_bytes(pid: int) -> int:
    """
    Sum the memory of a process and its descendants; 0 if it has ended.

    It is the proportional set size (PSS): shared pages are counted once.
    """
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total += process.memory_full_info().pss
    return total


class MemoryWatch:
    """
    Samples the memory of a process tree until the end of the block.

    Args:
        pid: root of the tree.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.seconds: list[float] = []
        """Time of each sample, since the first one."""
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
