"""Frames of shards in memory: cut to size at once on the CPU, as they are for an accelerator."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.config import DecodeOptions, Sampling
from pipeline.decode.fallback import index_video
from pipeline.decode.process_pool import DecodePool, PoolStopped
from pipeline.records import Chunk, DecodeReport, Shard
from pipeline.run.shard_decoder import ShardDecoder
from tests.decode.decoding import as_video
from tests.encode.toy_engine import engine
from tests.videos import draw_number, write_video

EVERY = Sampling(every=1)


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    """A video in two chunks, one that could not be read, and one of another size."""
    folder = tmp_path_factory.mktemp("videos")
    paths = [
        write_video(folder / "a.mp4", 30),
        write_video(folder / "b.mp4", 10, first=50, size=(128, 64)),
    ]
    with DecodePool(DecodeOptions(workers=1)) as pool:
        a, b = (
            pool.submit(lambda process, path=path: index_video(process, as_video(path))).result(60)
            for path in paths
        )
    broken = Chunk(as_video("c"), None, 0, 0, 0, report=DecodeReport("not_video", "no video"))
    return Shard(
        (
            Chunk(as_video(paths[0]), a, 0, 20, 30),
            broken,
            Chunk(as_video(paths[0]), a, 20, 30, 30, context=1),
            Chunk(as_video(paths[1]), b, 0, 10, 10),
        )
    )


@pytest.fixture
def pool():
    with DecodePool(DecodeOptions(workers=2)) as pool:
        yield pool


def intake(pool, device="cpu"):
    """An engine for pictures of 8 × 8, and what decodes for it."""
    made = engine()
    made.device = device
    return made, ShardDecoder(pool, made, EVERY, keep=2)


def drawn(first, count, size):
    return np.stack([draw_number(first + number, *size) for number in range(count)])


def test_on_the_cpu_pictures_are_cut_to_size(pool, shard):
    made, lender = intake(pool)

    decoded = lender.decode(shard)

    shapes = [batch.images.shape for batch in decoded.batches]
    assert shapes == [(20, 8, 8, 3), (11, 8, 8, 3), (10, 8, 8, 3)]
    assert all(batch.resized for batch in decoded.batches)
    raw = intake(pool, "cuda")[1].decode(shard)
    for batch, as_decoded in zip(decoded.batches, raw.batches, strict=True):
        assert batch.frame_index.tolist() == as_decoded.frame_index.tolist()
        np.testing.assert_array_equal(batch.images, made.preprocess(as_decoded.images).numpy())


def test_for_an_accelerator_they_stay_as_they_were_decoded(pool, shard):
    _, lender = intake(pool, "cuda")

    decoded = lender.decode(shard)

    assert not any(batch.resized for batch in decoded.batches)
    assert [batch.images.shape[0] for batch in decoded.batches] == [20, 11, 10]
    assert all(batch.images.shape[1] > 8 for batch in decoded.batches)
    level = decoded.batches[2].images[:, -1, 0].mean(-1)
    expected = drawn(50, 10, (128, 64))[:, -1, 0].mean(-1)
    np.testing.assert_allclose(level, expected, atol=6)


def test_pictures_wait_beside_each_other_in_one_block(pool, shard):
    _, lender = intake(pool)

    decoded = lender.decode(shard)

    starts = sorted(batch.images.ctypes.data for batch in decoded.batches)
    assert starts[-1] - starts[0] < 41 * 8 * 8 * 3
    assert decoded.block is not None


def test_memory_goes_to_the_next_shard(pool, shard):
    _, lender = intake(pool)
    first = lender.decode(shard)
    second = lender.decode(shard)
    lender.release(first)

    third = lender.decode(shard)

    assert first.block is third.block is not second.block
    assert [len(batch.images) for batch in third.batches] == [20, 11, 10]


def test_a_shard_of_nothing_takes_no_memory(pool, shard):
    _, lender = intake(pool)

    decoded = lender.decode(Shard(shard.chunks[1:2]))
    lender.release(decoded)

    assert (decoded.batches, decoded.block) == ((), None)


def test_a_fit_that_fails_ends_the_shard_and_not_the_process(pool, shard):
    """What the decode process waits for would never come: it is replaced."""
    made, lender = intake(pool)
    right = made.preprocess
    made.preprocess = lambda _: 1 / 0

    with pytest.raises(ZeroDivisionError):
        lender.decode(shard)

    made.preprocess = right
    assert [len(batch.images) for batch in lender.decode(shard).batches] == [20, 11, 10]


def test_a_pool_that_was_stopped_says_so(pool, shard):
    _, lender = intake(pool)
    pool.kill()

    with pytest.raises(PoolStopped):
        lender.decode(shard)
