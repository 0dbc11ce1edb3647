"""Copies through pinned buffers, tested on the CPU, where memory is not pinned."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from pipeline.encode.pinned_memory import NUM_BUFFERS, PinnedBuffers


def frames(count, level, size=(6, 8)):
    return np.full((count, *size, 3), level, np.uint8)


def test_copies_equal_the_frames():
    original = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3)).astype(np.uint8)

    copied = PinnedBuffers("cpu").copy_to_device(original)

    assert copied.shape == original.shape
    np.testing.assert_array_equal(copied.numpy(), original)


def test_copies_stay_when_buffers_are_reused():
    buffers = PinnedBuffers("cpu")
    copied = [buffers.copy_to_device(frames(3, level)) for level in range(2 * NUM_BUFFERS + 1)]

    for level, found in enumerate(copied):
        assert (found == level).all()


def test_frames_need_not_be_contiguous():
    large = np.arange(2 * 10 * 12 * 3, dtype=np.uint8).reshape(2, 10, 12, 3)

    copied = PinnedBuffers("cpu").copy_to_device(large[:, 2:8, ::2])

    np.testing.assert_array_equal(copied.numpy(), large[:, 2:8, ::2])


def test_buffers_grow():
    buffers = PinnedBuffers("cpu")
    for count in (1, 9, 0, 4):
        assert (buffers.copy_to_device(frames(count, count)) == count).all()


def test_many_threads_copy():
    buffers = PinnedBuffers("cpu")
    with ThreadPoolExecutor(8) as threads:
        copied = list(
            threads.map(lambda level: buffers.copy_to_device(frames(2, level)), range(64))
        )

    assert [int(found.max()) for found in copied] == list(range(64))


def test_a_buffer_is_not_overwritten_before_its_copy_has_ended():
    """An event simulates a running copy."""
    buffers = PinnedBuffers("cpu")
    buffers.copy_to_device(frames(1, 1))
    waited = []

    class Copying:
        def synchronize(self):
            waited.append(buffers._buffers[0].memory[0].item())

    buffers._buffers[0].copied = Copying()
    buffers.copy_to_device(frames(1, 2))
    assert waited == []
    buffers.copy_to_device(frames(1, 3))

    assert waited == [1]


@pytest.mark.cuda
def test_copies_on_a_cuda_device():
    if not torch.cuda.is_available():
        if os.environ.get("FAIL_WITHOUT_CUDA"):
            pytest.fail("FAIL_WITHOUT_CUDA is set, and torch sees no CUDA device")
        pytest.skip("torch sees no CUDA device")
    buffers = PinnedBuffers("cuda")
    copied = [buffers.copy_to_device(frames(64, level, (240, 320))) for level in range(40)]

    assert all(found.is_cuda for found in copied)
    assert [int(found.max()) for found in copied] == list(range(40))
    assert [int(found.min()) for found in copied] == list(range(40))
