"""The fastest batch size, with a simulated device."""

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
    """Simulate the time of batches, and memory for a limited number of images."""

    def __init__(self, monkeypatch, *, seconds_per_batch, seconds_per_image, capacity=10**6):
        self.now, self.ran = 0.0, []
        self.seconds_per_batch, self.seconds_per_image = seconds_per_batch, seconds_per_image
        self.capacity = capacity
        self.error = torch.OutOfMemoryError("no memory")
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def __call__(self, count):
        if count > self.capacity:
            raise self.error
        self.ran.append(count)
        self.now += self.seconds_per_batch + count * self.seconds_per_image


@pytest.mark.parametrize(
    ("seconds_per_batch", "expected"), [(0.0, 32), (0.0015, 64), (0.01, 256), (1.0, 1024)]
)
def test_the_smallest_size_that_is_about_fastest_is_chosen(
    monkeypatch, tmp_path, seconds_per_batch, expected
):
    device = Device(monkeypatch, seconds_per_batch=seconds_per_batch, seconds_per_image=0.001)

    assert find_batch_size(device, tmp_path / "stored.json") == expected


def test_sizes_without_enough_memory_are_ignored(monkeypatch, tmp_path):
    device = Device(monkeypatch, seconds_per_batch=1.0, seconds_per_image=0.001, capacity=200)

    assert find_batch_size(device, tmp_path / "stored.json") == 128


def test_it_is_measured_once(monkeypatch, tmp_path):
    device = Device(monkeypatch, seconds_per_batch=0.1, seconds_per_image=0.0)
    stored = tmp_path / "cache" / "stored.json"
    first = find_batch_size(device, stored)
    runs = len(device.ran)

    assert find_batch_size(device, stored) == first
    assert len(device.ran) == runs == 4 * len(module.GPU_BATCH_SIZES)
    assert json.loads(stored.read_text())["rates"]["32"] > 0


def test_a_size_that_cannot_be_stored_is_used(monkeypatch, tmp_path, caplog):
    device = Device(monkeypatch, seconds_per_batch=1.0, seconds_per_image=0.001)
    (tmp_path / "cache").write_text("no folder")

    assert find_batch_size(device, tmp_path / "cache" / "stored.json") == 1024
    assert "the batch size cannot be stored" in caplog.text
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize(("seconds_per_batch", "runs"), [(2.0, 2), (0.5, 3), (0.1, 4), (0.01, 26)])
def test_short_runs_are_repeated_and_long_ones_are_not(
    monkeypatch, tmp_path, seconds_per_batch, runs
):
    """The first run is a warm-up; 0.25 s of further runs are enough."""
    device = Device(monkeypatch, seconds_per_batch=seconds_per_batch, seconds_per_image=0.0)
    find_batch_size(device, tmp_path / "stored.json", sizes=(1, 2))

    assert device.ran == runs * [1] + runs * [2]


def test_the_rate_counts_every_batch_of_a_run(monkeypatch, tmp_path):
    device = Device(monkeypatch, seconds_per_batch=0.5, seconds_per_image=0.0)
    stored = tmp_path / "stored.json"
    find_batch_size(device, stored, sizes=(1, 2), batches=8)

    assert json.loads(stored.read_text())["rates"] == {"1": 16.0, "2": 32.0}


@pytest.mark.parametrize(("capacity", "expected"), [(31, 16), (8, 8), (1, 1)])
def test_with_little_memory_a_fallback_size_is_chosen(monkeypatch, tmp_path, capacity, expected):
    """It is not stored: other processes may use the device now."""
    device = Device(monkeypatch, seconds_per_batch=1.0, seconds_per_image=0.001, capacity=capacity)
    stored = tmp_path / "stored.json"

    assert find_batch_size(device, stored) == expected
    assert not stored.exists()
    device.capacity = 10**6
    assert find_batch_size(device, stored) == 1024
    assert stored.exists()


def test_fallback_sizes_are_measured_only_if_no_other_fits(monkeypatch, tmp_path):
    device = Device(monkeypatch, seconds_per_batch=0.01, seconds_per_image=0.001, capacity=32)
    find_batch_size(device, tmp_path / "stored.json")

    assert set(device.ran) == {32}


def test_memory_too_small_for_a_single_image_fails(monkeypatch, tmp_path):
    device = Device(monkeypatch, seconds_per_batch=0.01, seconds_per_image=0.001, capacity=0)
    with pytest.raises(EngineError, match="out of memory on the device with a single image"):
        find_batch_size(device, tmp_path / "stored.json")

    assert not (tmp_path / "stored.json").exists()


def test_out_of_memory_errors_of_libraries_are_recognized(monkeypatch, tmp_path):
    device = Device(monkeypatch, seconds_per_batch=1.0, seconds_per_image=0.001, capacity=200)
    device.error = RuntimeError("GET was unable to find an engine to execute this computation")

    assert find_batch_size(device, tmp_path / "stored.json") == 128


def test_other_errors_are_raised(monkeypatch, tmp_path):
    device = Device(monkeypatch, seconds_per_batch=1.0, seconds_per_image=0.001, capacity=200)
    device.error = RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side assert"):
        find_batch_size(device, tmp_path / "stored.json")


def test_memory_is_freed_outside_of_except_blocks(monkeypatch, tmp_path):
    """The error references tensors of the computation."""
    device = Device(monkeypatch, seconds_per_batch=1.0, seconds_per_image=0.001, capacity=8)
    handled = []
    monkeypatch.setattr(module, "free_device_memory", lambda: handled.append(sys.exception()))
    find_batch_size(device, tmp_path / "stored.json")

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
