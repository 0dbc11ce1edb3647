from __future__ import annotations

import mmap
import os
import threading

import numpy as np
import pytest

from pipeline.decode.shared_memory import (
    ALIGNMENT,
    SPARE_IMAGES,
    BufferBlock,
    BufferPool,
    FrameBuffer,
    RingBuffer,
    aligned,
    as_ring,
)


def is_open(descriptor):
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def marks(parts):
    """The first byte of each image."""
    return [part[:, 0, 0, 0].tolist() for part in parts]


class TestRingBuffer:
    @pytest.fixture
    def ring(self):
        ring = RingBuffer(5 * 2 * 3 * 3 + 7)  # five images, and not enough for a sixth
        with mmap.mmap(ring.descriptor, ring.num_bytes) as other:
            as_ring(other, (2, 3))[:] = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
        yield ring
        ring.close()

    @pytest.mark.parametrize(
        ("start", "stop", "expected"),
        [
            (0, 3, [[0, 1, 2]]),
            (0, 5, [[0, 1, 2, 3, 4]]),
            (5, 7, [[0, 1]]),
            (3, 7, [[3, 4], [0, 1]]),
            (13, 18, [[3, 4], [0, 1, 2]]),
            (4, 4, []),
        ],
    )
    def test_images_are_counted_since_the_first(self, ring, start, stop, expected):
        """Data of another process is visible, by the number of each image since the first."""
        assert marks(ring.parts((2, 3), start, stop)) == expected

    def test_leaves_no_file_behind(self, ring):
        assert os.readlink(f"/proc/self/fd/{ring.descriptor}") == "/memfd:frames (deleted)"
        assert not os.get_inheritable(ring.descriptor)

    def test_views_outlive_the_ring_buffer(self):
        ring = RingBuffer(300)
        (images,) = ring.parts((10, 10), 0, 1)
        images[:] = 9
        ring.close()

        assert not is_open(ring.descriptor)
        assert (images == 9).all()


class TestFrameBuffer:
    def test_images_are_stored_in_their_rows(self):
        buffer = FrameBuffer(np.zeros((4, 2, 2, 3), np.uint8))

        buffer.put(1, np.full((2, 2, 2, 3), 7, np.uint8), np.array([5, 6]))

        assert marks([buffer.images]) == [[0, 7, 7, 0]]

    def test_a_full_buffer_grows(self):
        buffer = FrameBuffer(np.zeros((4, 2, 2, 3), np.uint8))
        buffer.put(0, np.full((4, 2, 2, 3), 1, np.uint8), np.arange(4))

        buffer.put(4, np.full((1, 2, 2, 3), 2, np.uint8), np.array([4]))

        assert len(buffer.images) == 5 + SPARE_IMAGES
        assert marks([buffer.images[:5]]) == [[1, 1, 1, 1, 2]]


class TestBufferBlock:
    def test_allocations_do_not_overlap(self):
        block = BufferBlock(2 * aligned(300))
        first, second = block.allocate((1, 10, 10, 3)), block.allocate((1, 10, 10, 3))

        first[:], second[:] = 1, 2

        assert (first == 1).all()
        assert (second == 2).all()

    def test_allocating_too_much_fails(self):
        block = BufferBlock(400)
        block.allocate((1, 10, 10, 3))

        with pytest.raises(TypeError, match="buffer is too small"):
            block.allocate((1, 10, 10, 3))

    def test_clear_reuses_the_memory(self):
        block = BufferBlock(400)
        block.allocate((1, 10, 10, 3))[:] = 5
        block.clear()

        assert (block.allocate((1, 10, 10, 3)) == 5).all()

    def test_an_empty_block(self):
        assert BufferBlock(0).allocate((0, 4, 4, 3)).shape == (0, 4, 4, 3)

    def test_threads_get_different_memory(self):
        block = BufferBlock(400 * ALIGNMENT)
        taken = []

        def take():
            for _ in range(100):
                taken.append(block.allocate((1, 1, 10, 3)))

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        for number, part in enumerate(taken):
            part[:] = number % 251
        assert [int(part.min()) for part in taken] == [n % 251 for n in range(400)]


class TestBufferPool:
    def test_acquires_the_smallest_block_that_is_large_enough(self):
        pool = BufferPool(keep=3)
        blocks = [pool.acquire(size) for size in (100, 300, 200)]
        for block in blocks:
            pool.release(block)

        assert pool.acquire(150) is blocks[2]
        assert pool.acquire(150) is blocks[1]
        assert pool.acquire(50) is blocks[0]

    def test_an_acquired_block_is_cleared(self):
        pool = BufferPool(keep=1)
        block = pool.acquire(300)
        block.allocate((1, 10, 10, 3))
        pool.release(block)

        assert pool.acquire(300).allocate((1, 10, 10, 3)).shape == (1, 10, 10, 3)

    def test_creates_a_block_if_none_is_free(self):
        pool = BufferPool(keep=3)
        acquired, other = pool.acquire(100), pool.acquire(101)

        assert other is not acquired
        assert (acquired.num_bytes, other.num_bytes) == (100, 101)

    def test_a_new_block_replaces_the_smallest_free_one(self):
        pool = BufferPool(keep=3)
        small, large = pool.acquire(100), pool.acquire(200)
        pool.release(large)
        pool.release(small)

        larger = pool.acquire(300)

        assert larger.num_bytes == 300
        assert pool.acquire(10) is large
        assert pool.acquire(10).num_bytes == 10

    def test_keeps_the_last_released_blocks(self):
        pool = BufferPool(keep=2)
        blocks = [pool.acquire(100) for _ in range(4)]
        for block in blocks:
            pool.release(block)

        assert {pool.acquire(1), pool.acquire(1)} == set(blocks[2:])
        assert pool.acquire(1) not in blocks

    def test_keep_zero(self):
        pool = BufferPool(keep=0)
        block = pool.acquire(100)
        pool.release(block)

        assert pool.acquire(100) is not block

    def test_a_block_is_acquired_once_at_a_time(self):
        pool = BufferPool(keep=8)
        acquired, clashes = set(), []
        lock = threading.Lock()

        def borrow():
            for _ in range(200):
                block = pool.acquire(64)
                with lock:
                    clashes.extend([block] * (block in acquired))
                    acquired.add(block)
                with lock:
                    acquired.discard(block)
                pool.release(block)

        threads = [threading.Thread(target=borrow) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert clashes == []
        pool.close()


@pytest.mark.parametrize(("size", "rounded"), [(0, 0), (1, 64), (64, 64), (65, 128), (1000, 1024)])
def test_blocks_start_on_cache_lines(size, rounded):
    assert aligned(size) == rounded
    assert rounded % ALIGNMENT == 0
