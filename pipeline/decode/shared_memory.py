"""
Memory for decoded frames: ring buffers that decode processes fill, and buffers of whole shards.

Shared memory is anonymous (`memfd`): it has no name in the file system, so nothing is left behind
however a run ends, and the size of `/dev/shm` is no limit. Page faults cost more than the copy:
ring buffers are small and reused, buffers of shards use huge pages and go from shard to shard.
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
"""Bytes of a cache line."""
RING_PARTS = 4
"""Parts of a ring buffer: the parent reads one while the others are filled."""
SPARE_IMAGES = 16
"""Images beyond the expected number for which a buffer grows at once."""


class RingBuffer:
    """Shared memory that one decode process fills with images, again and again."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self.descriptor = os.memfd_create("frames", os.MFD_CLOEXEC)
        os.ftruncate(self.descriptor, num_bytes)
        self._view = mmap.mmap(self.descriptor, num_bytes)

    def parts(self, size: tuple[int, int], start: int, stop: int) -> list[Images]:
        """
        View the images [start, stop), counted since the first one of the job.

        Returns:
            One view (n, h, w, 3), or two where the range passes the end of the ring.
        """
        images = as_ring(self._view, size)
        count = len(images)
        middle = min(stop, (start // count + 1) * count)
        first = start % count
        parts = [images[first : first + middle - start], images[: stop - middle]]
        return [part for part in parts if len(part)]

    def close(self) -> None:
        """Free the memory as soon as no view of it is left."""
        os.close(self.descriptor)
        del self._view


def as_ring(view: mmap.mmap, size: tuple[int, int]) -> Images:
    """View memory as images (n, h, w, 3), as many as fit."""
    height, width = size
    count = len(view) // (height * width * 3)
    return np.ndarray((count, height, width, 3), np.uint8, buffer=view)


Resize = Callable[[Images, Integers], Images]
"""Resizes images (n, h, w, 3), given the frame position of each, (n,): a frame may repeat."""


@dataclass(slots=True)
class FrameBuffer:
    """
    Receives the images of one chunk while they are decoded.

    Args:
        images: (T, H, W, 3), filled from the beginning; replaced by a larger array when full.
        resize: applied to decoded images before they are stored; None copies them.
    """

    images: Images
    resize: Resize | None = None

    def put(self, start: int, images: Images, frame_index: Integers) -> None:
        """Store decoded images (n, h, w, 3) in the rows from `start` on."""
        stop = start + len(images)
        if stop > len(self.images):
            larger = np.empty((stop + SPARE_IMAGES, *self.images.shape[1:]), np.uint8)
            larger[:start] = self.images[:start]
            self.images = larger
        self.images[start:stop] = self.resize(images, frame_index) if self.resize else images


def discard_buffer() -> FrameBuffer:
    """Create a buffer that discards all images."""
    return FrameBuffer(np.empty((0, 0, 0, 3), np.uint8), lambda images, _: images[:, :0, :0])


class BufferBlock:
    """Private memory for the images of one shard, allocated from its beginning."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = max(1, num_bytes)
        self._lock = threading.Lock()
        self._used = 0
        self._view = mmap.mmap(-1, self.num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without huge pages
            self._view.madvise(mmap.MADV_HUGEPAGE)

    def allocate(self, shape: tuple[int, int, int, int]) -> Images:
        """
        Allocate memory for images, (T, H, W, 3); any thread may call this.

        Raises:
            TypeError: not enough memory is left.
        """
        with self._lock:
            start = self._used
            self._used += aligned(math.prod(shape))
        return np.ndarray(shape, np.uint8, buffer=self._view, offset=min(start, self.num_bytes))

    def clear(self) -> None:
        """Free all that is allocated; nothing may refer to it any more."""
        self._used = 0


class BufferPool:
    """
    Keeps released blocks for reuse, so that their page faults happen only once.

    Args:
        keep: maximum number of released blocks that are kept.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._free: list[BufferBlock] = []
        self._lock = threading.Lock()

    def acquire(self, num_bytes: int) -> BufferBlock:
        """Return a block of at least this size; a new one replaces the smallest free one."""
        with self._lock:
            large_enough = [block for block in self._free if block.num_bytes >= num_bytes]
            if not large_enough:
                self._free = sorted(self._free, key=lambda block: block.num_bytes)[1:]
                return BufferBlock(num_bytes)
            block = min(large_enough, key=lambda block: block.num_bytes)
            self._free.remove(block)
        block.clear()
        return block

    def release(self, block: BufferBlock) -> None:
        """Take back a block; nothing may refer to its memory any more."""
        with self._lock:
            self._free = [*self._free, block][-self._keep :] if self._keep else []

    def close(self) -> None:
        """Free all released blocks."""
        with self._lock:
            self._free = []


def aligned(num_bytes: int) -> int:
    """Round up to whole cache lines."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT
