"""
Memory for pictures: a ring that a decode process fills, and blocks in which shards wait.

What is shared is anonymous (`memfd`): it has no name in the file system, so nothing is left behind
however a run ends, and the size of `/dev/shm` does not bound it. To touch a page for the first time
takes longer than to write to it: rings are small and filled again and again, and blocks are on huge
pages and go from one shard to the next.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.records import Images, Integers

ALIGNMENT = 64
SPARE_IMAGES = 16
"""More than a container let expect, for which room is made when they come."""


class RingBuffer:
    """Shared memory that a decode process fills with pictures, again and again."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self.descriptor = os.memfd_create("frames", os.MFD_CLOEXEC)
        os.ftruncate(self.descriptor, num_bytes)
        self._view = mmap.mmap(self.descriptor, num_bytes)

    def parts(self, size: tuple[int, int], start: int, stop: int) -> list[Images]:
        """View the pictures (T, h, w, 3) from one number to another, of all that it was given."""
        pictures = as_ring(self._view, size)
        count = len(pictures)
        middle = min(stop, (start // count + 1) * count)
        first = start % count
        parts = [pictures[first : first + middle - start], pictures[: stop - middle]]
        return [part for part in parts if len(part)]

    def close(self) -> None:
        """Give the memory back once no view is left."""
        os.close(self.descriptor)
        del self._view


def as_ring(view: mmap.mmap, size: tuple[int, int]) -> Images:
    """See memory as a ring of pictures (n, h, w, 3), as many as there is room for."""
    height, width = size
    count = len(view) // (height * width * 3)
    return np.ndarray((count, height, width, 3), np.uint8, buffer=view)


Resize = Callable[[Images, Integers], Images]
"""Makes other pictures of decoded ones, given the frame of each: one frame may come again."""


@dataclass(slots=True)
class FrameBuffer:
    """
    Where the pictures of one chunk go as they are decoded.

    Args:
        pictures: (T, H, W, 3), of which the first are filled.
        fit: what becomes of decoded pictures before; None copies them.
    """

    images: Images
    resize: Resize | None = None

    def put(self, start: int, pictures: Images, frame_index: Integers) -> None:
        """Put decoded pictures (n, h, w, 3) in the rows from `start` on."""
        stop = start + len(pictures)
        if stop > len(self.images):
            more = np.empty((stop + SPARE_IMAGES, *self.images.shape[1:]), np.uint8)
            more[:start] = self.images[:start]
            self.images = more
        self.images[start:stop] = self.resize(pictures, frame_index) if self.resize else pictures


def discard_buffer() -> FrameBuffer:
    """Give room in which nothing is kept."""
    return FrameBuffer(np.empty((0, 0, 0, 3), np.uint8), lambda pictures, _: pictures[:, :0, :0])


class BufferBlock:
    """Private memory for the pictures of one shard, handed out from its beginning on."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = max(1, num_bytes)
        self._lock = threading.Lock()
        self._used = 0
        self._view = mmap.mmap(-1, self.num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without huge pages
            self._view.madvise(mmap.MADV_HUGEPAGE)

    def allocate(self, shape: tuple[int, int, int, int]) -> Images:
        """
        Hand out memory for pictures, (T, H, W, 3), to any thread.

        Raises:
            TypeError: there is not so much left.
        """
        with self._lock:
            start = self._used
            self._used += aligned(math.prod(shape))
        return np.ndarray(shape, np.uint8, buffer=self._view, offset=min(start, self.num_bytes))

    def clear(self) -> None:
        """Hand out the same memory again; nobody may look at it any more."""
        self._used = 0


class BufferPool:
    """
    Lends blocks and takes them back, so that their pages are touched for the first time once.

    Args:
        keep: blocks at most, of what was given back.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._free: list[BufferBlock] = []
        self._lock = threading.Lock()

    def acquire(self, num_bytes: int) -> BufferBlock:
        """Lend a block of at least so many bytes; a new one takes the place of one too small."""
        with self._lock:
            fitting = [block for block in self._free if block.num_bytes >= num_bytes]
            if not fitting:
                self._free = sorted(self._free, key=lambda block: block.num_bytes)[1:]
                return BufferBlock(num_bytes)
            lent = min(fitting, key=lambda block: block.num_bytes)
            self._free.remove(lent)
        lent.clear()
        return lent

    def release(self, block: BufferBlock) -> None:
        """Take back a block that nobody looks at any more."""
        with self._lock:
            self._free = [*self._free, block][-self._keep :] if self._keep else []

    def close(self) -> None:
        """Give back all that is free."""
        with self._lock:
            self._free = []


def aligned(num_bytes: int) -> int:
    """Round up so that what follows starts on a cache line."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT
