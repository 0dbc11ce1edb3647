from __future__ import annotations

import mmap
import os
import threading

import numpy as np
import pytest

from pipeline.decode.shared_memory import (
    ALIGNMENT,
    SPARE_PICTURES,
    Block,
    BlockPool,
    Ring,
    Room,
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
    """The first byte of each picture."""
    return [part[:, 0, 0, 0].tolist() for part in parts]


class TestRing:
    @pytest.fixture
    def ring(self):
        ring = Ring(5 * 2 * 3 * 3 + 7)  # five pictures, and not enough for a sixth
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
    def test_numbers_go_round(self, ring, start, stop, expected):
        """What another process writes is seen, by the number of each picture since the first."""
        assert marks(ring.parts((2, 3), start, stop)) == expected

    def test_leaves_no_name_behind(self, ring):
        assert os.readlink(f"/proc/self/fd/{ring.descriptor}") == "/memfd:frames (deleted)"
        assert not os.get_inheritable(ring.descriptor)

    def test_pictures_outlive_the_ring(self):
        ring = Ring(300)
        (pictures,) = ring.parts((10, 10), 0, 1)
        pictures[:] = 9
        ring.close()

        assert not is_open(ring.descriptor)
        assert (pictures == 9).all()


class TestRoom:
    def test_pictures_go_where_they_belong(self):
        room = Room(np.zeros((4, 2, 2, 3), np.uint8))

        room.put(1, np.full((2, 2, 2, 3), 7, np.uint8), np.array([5, 6]))

        assert marks([room.pictures]) == [[0, 7, 7, 0]]

    def test_what_does_not_fit_makes_room_for_more(self):
        room = Room(np.zeros((4, 2, 2, 3), np.uint8))
        room.put(0, np.full((4, 2, 2, 3), 1, np.uint8), np.arange(4))

        room.put(4, np.full((1, 2, 2, 3), 2, np.uint8), np.array([4]))

        assert len(room.pictures) == 5 + SPARE_PICTURES
        assert marks([room.pictures[:5]]) == [[1, 1, 1, 1, 2]]


class TestBlock:
    def test_parts_do_not_overlap(self):
        block = Block(2 * aligned(300))
        first, second = block.take((1, 10, 10, 3)), block.take((1, 10, 10, 3))

        first[:], second[:] = 1, 2

        assert (first == 1).all()
        assert (second == 2).all()

    def test_more_than_there_is_fails(self):
        block = Block(400)
        block.take((1, 10, 10, 3))

        with pytest.raises(TypeError, match="buffer is too small"):
            block.take((1, 10, 10, 3))

    def test_hands_out_the_same_memory_again_once_cleared(self):
        block = Block(400)
        block.take((1, 10, 10, 3))[:] = 5
        block.clear()

        assert (block.take((1, 10, 10, 3)) == 5).all()

    def test_no_bytes_are_a_block_too(self):
        assert Block(0).take((0, 4, 4, 3)).shape == (0, 4, 4, 3)

    def test_threads_get_different_parts(self):
        block = Block(400 * ALIGNMENT)
        taken = []

        def take():
            for _ in range(100):
                taken.append(block.take((1, 1, 10, 3)))

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        for number, part in enumerate(taken):
            part[:] = number % 251
        assert [int(part.min()) for part in taken] == [n % 251 for n in range(400)]


class TestBlockPool:
    def test_lends_the_smallest_that_fits(self):
        pool = BlockPool(keep=3)
        blocks = [pool.take(size) for size in (100, 300, 200)]
        for block in blocks:
            pool.give_back(block)

        assert pool.take(150) is blocks[2]
        assert pool.take(150) is blocks[1]
        assert pool.take(50) is blocks[0]

    def test_lends_a_block_from_its_beginning(self):
        pool = BlockPool(keep=1)
        block = pool.take(300)
        block.take((1, 10, 10, 3))
        pool.give_back(block)

        assert pool.take(300).take((1, 10, 10, 3)).shape == (1, 10, 10, 3)

    def test_makes_a_new_one_where_none_is_free(self):
        pool = BlockPool(keep=3)
        lent, other = pool.take(100), pool.take(101)

        assert other is not lent
        assert (lent.num_bytes, other.num_bytes) == (100, 101)

    def test_a_new_one_takes_the_place_of_the_smallest_where_none_fits(self):
        pool = BlockPool(keep=3)
        small, large = pool.take(100), pool.take(200)
        pool.give_back(large)
        pool.give_back(small)

        larger = pool.take(300)

        assert larger.num_bytes == 300
        assert pool.take(10) is large
        assert pool.take(10).num_bytes == 10

    def test_keeps_the_latest_and_gives_back_the_rest(self):
        pool = BlockPool(keep=2)
        blocks = [pool.take(100) for _ in range(4)]
        for block in blocks:
            pool.give_back(block)

        assert {pool.take(1), pool.take(1)} == set(blocks[2:])
        assert pool.take(1) not in blocks

    def test_may_keep_none(self):
        pool = BlockPool(keep=0)
        block = pool.take(100)
        pool.give_back(block)

        assert pool.take(100) is not block

    def test_never_lends_one_block_twice(self):
        pool = BlockPool(keep=8)
        lent, clashes = set(), []
        lock = threading.Lock()

        def borrow():
            for _ in range(200):
                block = pool.take(64)
                with lock:
                    clashes.extend([block] * (block in lent))
                    lent.add(block)
                with lock:
                    lent.discard(block)
                pool.give_back(block)

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
