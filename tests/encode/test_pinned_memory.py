"""Frames on their way to a device. Without one, the CPU stands in: nothing is locked there."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from pipeline.encode.pinned_memory import NUM_BUFFERS, PinnedBuffers


def frames(count, level, size=(6, 8)):
    return np.full((count, *size, 3), level, np.uint8)


def test_frames_arrive_as_they_were():
    given = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3)).astype(np.uint8)

    sent = PinnedBuffers("cpu").copy_to_device(given)

    assert sent.shape == given.shape
    np.testing.assert_array_equal(sent.numpy(), given)


def test_what_was_sent_outlives_the_buffers():
    buffers = PinnedBuffers("cpu")
    sent = [buffers.copy_to_device(frames(3, level)) for level in range(2 * NUM_BUFFERS + 1)]

    for level, found in enumerate(sent):
        assert (found == level).all()


def test_frames_may_be_a_view_of_larger_ones():
    large = np.arange(2 * 10 * 12 * 3, dtype=np.uint8).reshape(2, 10, 12, 3)

    sent = PinnedBuffers("cpu").copy_to_device(large[:, 2:8, ::2])

    np.testing.assert_array_equal(sent.numpy(), large[:, 2:8, ::2])


def test_buffers_grow_with_what_is_sent():
    buffers = PinnedBuffers("cpu")
    for count in (1, 9, 0, 4):
        assert (buffers.copy_to_device(frames(count, count)) == count).all()


def test_many_threads_send():
    buffers = PinnedBuffers("cpu")
    with ThreadPoolExecutor(8) as threads:
        sent = list(threads.map(lambda level: buffers.copy_to_device(frames(2, level)), range(64)))

    assert [int(found.max()) for found in sent] == list(range(64))


def test_a_buffer_is_not_filled_before_it_was_copied():
    """An event stands in for a copy that is under way."""
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
def test_frames_arrive_on_a_cuda_device():
    if not torch.cuda.is_available():
        if os.environ.get("FAIL_WITHOUT_CUDA"):
            pytest.fail("FAIL_WITHOUT_CUDA is set, and torch sees no CUDA device")
        pytest.skip("torch sees no CUDA device")
    buffers = PinnedBuffers("cuda")
    sent = [buffers.copy_to_device(frames(64, level, (240, 320))) for level in range(40)]

    assert all(found.is_cuda for found in sent)
    assert [int(found.max()) for found in sent] == list(range(40))
    assert [int(found.min()) for found in sent] == list(range(40))
