"""The batch size that a device likes: a stand-in tells how long its batches take."""

from __future__ import annotations

import json
import sys
import time

import pytest
import torch

from pipeline.encode import batch_size as module
from pipeline.encode.batch_size import (
    find_batch_size,
    free_device_memory,
    is_out_of_memory,
)
from pipeline.errors import EngineError


class Device:
    """Takes a fixed time a batch and a time a picture, and has room for so many."""

    def __init__(self, monkeypatch, *, a_batch, a_picture, room=10**6):
        self.now, self.ran = 0.0, []
        self.a_batch, self.a_picture, self.room = a_batch, a_picture, room
        self.error = torch.OutOfMemoryError("no room")
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def __call__(self, count):
        if count > self.room:
            raise self.error
        self.ran.append(count)
        self.now += self.a_batch + count * self.a_picture


@pytest.mark.parametrize(
    ("a_batch", "expected"), [(0.0, 32), (0.0015, 64), (0.01, 256), (1.0, 1024)]
)
def test_the_smallest_that_is_about_fastest_is_taken(monkeypatch, tmp_path, a_batch, expected):
    device = Device(monkeypatch, a_batch=a_batch, a_picture=0.001)

    assert find_batch_size(device, tmp_path / "kept.json") == expected


def test_what_does_not_fit_is_left_out(monkeypatch, tmp_path):
    device = Device(monkeypatch, a_batch=1.0, a_picture=0.001, room=200)

    assert find_batch_size(device, tmp_path / "kept.json") == 128


def test_it_is_measured_once(monkeypatch, tmp_path):
    device = Device(monkeypatch, a_batch=0.1, a_picture=0.0)
    kept = tmp_path / "cache" / "kept.json"
    first = find_batch_size(device, kept)
    runs = len(device.ran)

    assert find_batch_size(device, kept) == first
    assert len(device.ran) == runs == 4 * len(module.GPU_BATCH_SIZES)
    assert json.loads(kept.read_text())["rates"]["32"] > 0


def test_where_it_cannot_be_kept_it_is_used_all_the_same(monkeypatch, tmp_path, caplog):
    device = Device(monkeypatch, a_batch=1.0, a_picture=0.001)
    (tmp_path / "cache").write_text("no folder")

    assert find_batch_size(device, tmp_path / "cache" / "kept.json") == 1024
    assert "the batch size cannot be stored" in caplog.text
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize(("a_batch", "runs"), [(2.0, 2), (0.5, 3), (0.1, 4), (0.01, 26)])
def test_short_runs_are_repeated_and_long_ones_are_not(monkeypatch, tmp_path, a_batch, runs):
    """The first is not counted; of the others a quarter of a second tells enough."""
    device = Device(monkeypatch, a_batch=a_batch, a_picture=0.0)
    find_batch_size(device, tmp_path / "kept.json", sizes=(1, 2))

    assert device.ran == runs * [1] + runs * [2]


def test_the_rate_counts_every_batch_of_a_run(monkeypatch, tmp_path):
    device, kept = Device(monkeypatch, a_batch=0.5, a_picture=0.0), tmp_path / "kept.json"
    find_batch_size(device, kept, sizes=(1, 2), batches=8)

    assert json.loads(kept.read_text())["rates"] == {"1": 16.0, "2": 32.0}


@pytest.mark.parametrize(("room", "expected"), [(31, 16), (8, 8), (1, 1)])
def test_a_device_without_room_for_the_usual_ones_takes_smaller_ones(
    monkeypatch, tmp_path, room, expected
):
    """Not for good: it may be others that use the device now."""
    device = Device(monkeypatch, a_batch=1.0, a_picture=0.001, room=room)
    kept = tmp_path / "kept.json"

    assert find_batch_size(device, kept) == expected
    assert not kept.exists()
    device.room = 10**6
    assert find_batch_size(device, kept) == 1024
    assert kept.exists()


def test_smaller_ones_are_measured_only_where_the_usual_ones_do_not_fit(monkeypatch, tmp_path):
    device = Device(monkeypatch, a_batch=0.01, a_picture=0.001, room=32)
    find_batch_size(device, tmp_path / "kept.json")

    assert set(device.ran) == {32}


def test_a_device_without_room_for_a_single_picture_fails(monkeypatch, tmp_path):
    device = Device(monkeypatch, a_batch=0.01, a_picture=0.001, room=0)
    with pytest.raises(EngineError, match="out of memory on the device with a single image"):
        find_batch_size(device, tmp_path / "kept.json")

    assert not (tmp_path / "kept.json").exists()


def test_what_libraries_say_of_too_little_memory_counts(monkeypatch, tmp_path):
    device = Device(monkeypatch, a_batch=1.0, a_picture=0.001, room=200)
    device.error = RuntimeError("GET was unable to find an engine to execute this computation")

    assert find_batch_size(device, tmp_path / "kept.json") == 128


def test_another_error_is_not_taken_for_it(monkeypatch, tmp_path):
    device = Device(monkeypatch, a_batch=1.0, a_picture=0.001, room=200)
    device.error = RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side assert"):
        find_batch_size(device, tmp_path / "kept.json")


def test_memory_is_given_back_once_the_errors_are_gone(monkeypatch, tmp_path):
    """An error holds what was computed until then."""
    device = Device(monkeypatch, a_batch=1.0, a_picture=0.001, room=8)
    handled = []
    monkeypatch.setattr(module, "free_device_memory", lambda: handled.append(sys.exception()))
    find_batch_size(device, tmp_path / "kept.json")

    assert handled == [None, None]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
    ],
)
def test_errors_of_libraries_that_mean_out_of_memory(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("out of memory"),
    ],
)
def test_other_errors_do_not_mean_out_of_memory(error):
    assert not is_out_of_memory(error)


def test_free_device_memory_does_nothing_without_a_device():
    free_device_memory()
