"""
Shared memory for decoded pictures.

Anonymous (`memfd`): it has no name in the file system, so nothing is left behind however a run
ends, and the size of `/dev/shm` does not bound it. It is reserved generously; only pages that are
written to take memory, and they are used again by the next shard.
"""

from __future__ import annotations

import mmap
import os
import threading

import numpy as np

from pipeline.records import Pictures

ALIGNMENT = 64


class Arena:
    """One block of shared memory, filled by decode processes and read by the encoder."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = max(1, num_bytes)
        self.descriptor = os.memfd_create("frames", os.MFD_CLOEXEC)
        os.ftruncate(self.descriptor, self.num_bytes)
        self._view = mmap.mmap(self.descriptor, self.num_bytes)

    def grow(self, num_bytes: int) -> None:
        """Make room for more; the pages that are there stay. Nobody may look at it meanwhile."""
        os.ftruncate(self.descriptor, num_bytes)
        self.num_bytes = num_bytes
        self._view = mmap.mmap(self.descriptor, num_bytes)

    def pictures(self, offset: int, shape: tuple[int, int, int, int]) -> Pictures:
        """View a part as pictures, (T, H, W, 3)."""
        return np.ndarray(shape, np.uint8, buffer=self._view, offset=offset)

    def close(self) -> None:
        """Give the memory back once no view is left."""
        os.close(self.descriptor)
        del self._view


class ArenaPool:
    """Lends arenas and takes them back, so that their pages are touched for the first time once."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._free: list[Arena] = []
        self._lock = threading.Lock()

    def take(self, num_bytes: int) -> Arena:
        """Lend an arena of at least so many bytes."""
        with self._lock:
            fitting = [arena for arena in self._free if arena.num_bytes >= num_bytes]
            if fitting:
                arena = min(fitting, key=lambda arena: arena.num_bytes)
            elif self._free:
                arena = max(self._free, key=lambda arena: arena.num_bytes)
            else:
                return Arena(num_bytes)
            self._free.remove(arena)
        if arena.num_bytes < num_bytes:
            arena.grow(num_bytes)
        return arena

    def give_back(self, arena: Arena) -> None:
        """Take back an arena that nobody looks at any more."""
        with self._lock:
            self._free.append(arena)
            surplus = self._free[: max(0, len(self._free) - self._keep)]
            self._free = self._free[len(surplus) :]
        for old in surplus:
            old.close()

    def close(self) -> None:
        """Give all free arenas back."""
        with self._lock:
            free, self._free = self._free, []
        for arena in free:
            arena.close()


def aligned(num_bytes: int) -> int:
    """Round up so that the next block starts on a cache line."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT
