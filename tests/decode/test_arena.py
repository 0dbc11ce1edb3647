from __future__ import annotations

import mmap
import os
import threading

import numpy as np
import pytest

from pipeline.decode.arena import ALIGNMENT, Arena, ArenaPool, aligned


def is_open(descriptor):
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


class TestArena:
    def test_what_another_process_writes_is_seen(self):
        """A mapping of its own through the same descriptor is what a decode process has."""
        arena = Arena(4096)
        pictures = arena.pictures(64, (2, 3, 5, 3))
        with mmap.mmap(arena.descriptor, arena.num_bytes) as other:
            other[64:154] = bytes(range(90))

            assert pictures.tolist() == np.arange(90).reshape(2, 3, 5, 3).tolist()
        arena.close()

    def test_parts_do_not_overlap(self):
        arena = Arena(1000)
        first, second = arena.pictures(0, (1, 10, 10, 3)), arena.pictures(300, (1, 10, 10, 3))

        first[:], second[:] = 1, 2

        assert (first == 1).all()
        assert (second == 2).all()
        arena.close()

    def test_a_part_beyond_the_end_fails(self):
        arena = Arena(100)

        with pytest.raises(TypeError, match="buffer is too small"):
            arena.pictures(50, (1, 10, 10, 3))
        arena.close()

    def test_leaves_no_name_behind(self):
        arena = Arena(4096)

        assert os.readlink(f"/proc/self/fd/{arena.descriptor}") == "/memfd:frames (deleted)"
        assert not os.get_inheritable(arena.descriptor)
        arena.close()

    def test_memory_is_taken_only_where_written(self):
        arena = Arena(1 << 34)
        arena.pictures(1 << 33, (1, 8, 8, 3))[:] = 7

        assert os.fstat(arena.descriptor).st_blocks * 512 <= 1 << 21
        arena.close()

    def test_pictures_outlive_the_arena(self):
        arena = Arena(300)
        pictures = arena.pictures(0, (1, 10, 10, 3))
        pictures[:] = 9
        arena.close()

        assert not is_open(arena.descriptor)
        assert (pictures == 9).all()

    def test_no_bytes_are_an_arena_too(self):
        arena = Arena(0)

        assert arena.pictures(0, (0, 4, 4, 3)).shape == (0, 4, 4, 3)
        arena.close()


class TestArenaPool:
    def test_lends_the_smallest_that_fits(self):
        pool = ArenaPool(keep=3)
        arenas = [pool.take(size) for size in (100, 300, 200)]
        for arena in arenas:
            pool.give_back(arena)

        assert pool.take(150) is arenas[2]
        assert pool.take(150) is arenas[1]
        assert pool.take(50) is arenas[0]
        for arena in arenas:
            arena.close()

    def test_makes_a_new_one_where_none_is_free(self):
        pool = ArenaPool(keep=3)
        lent, other = pool.take(100), pool.take(101)

        assert other is not lent
        assert (lent.num_bytes, other.num_bytes) == (100, 101)
        lent.close()
        other.close()

    def test_the_largest_grows_where_none_fits_and_keeps_its_pages(self):
        pool = ArenaPool(keep=3)
        small, large = pool.take(100), pool.take(8 * mmap.PAGESIZE)
        large.pictures(0, (8, mmap.PAGESIZE, 1, 1))[:] = 1
        held = os.fstat(large.descriptor).st_blocks
        pool.give_back(large)
        pool.give_back(small)
        grown = pool.take(16 * mmap.PAGESIZE)

        assert grown is large
        assert grown.num_bytes == 16 * mmap.PAGESIZE
        assert os.fstat(grown.descriptor).st_blocks == held > 0
        pictures = grown.pictures(0, (16, mmap.PAGESIZE, 1, 1))
        assert pictures[:8].all()
        pictures[15] = 1
        grown.close()
        pool.close()

    def test_keeps_the_latest_and_gives_back_the_rest(self):
        pool = ArenaPool(keep=2)
        arenas = [pool.take(100) for _ in range(4)]
        descriptors = [arena.descriptor for arena in arenas]
        for arena in arenas:
            pool.give_back(arena)

        assert [is_open(descriptor) for descriptor in descriptors] == [False, False, True, True]
        pool.close()
        assert not any(map(is_open, descriptors))

    def test_may_keep_none(self):
        pool = ArenaPool(keep=0)
        arena = pool.take(100)
        pool.give_back(arena)

        assert not is_open(arena.descriptor)

    def test_never_lends_one_arena_twice(self):
        pool = ArenaPool(keep=8)
        lent, clashes = set(), []
        lock = threading.Lock()

        def borrow():
            for _ in range(200):
                arena = pool.take(64)
                with lock:
                    clashes.extend([arena] * (arena in lent))
                    lent.add(arena)
                with lock:
                    lent.discard(arena)
                pool.give_back(arena)

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
