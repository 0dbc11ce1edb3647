"""Find the fastest batch size of a device by measurement, and store it for later runs."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from pipeline.errors import EngineError, MachineError
from pipeline.storage import write_json

logger = logging.getLogger(__name__)

GPU_BATCH_SIZES = (32, 64, 128, 256, 512, 1024)
FALLBACK_BATCH_SIZES = (1, 2, 4, 8, 16)
"""Measured only if the smallest of the others does not fit into memory."""
CPU_BATCH_SIZES = (1, 2, 4)
"""For one core: if activations fill the cache, 1 is fastest; if weights dominate, larger ones are,
since the images of a batch share each read of the weights."""
MIN_SECONDS, MAX_SECONDS = 0.25, 1.0
"""Time for measuring one size: the minimum, and the time after which fewer than 3 runs suffice."""
MIN_RELATIVE_RATE = 0.97
"""The smallest batch size with this share of the best rate is chosen: it uses the least memory."""

OUT_OF_MEMORY_MESSAGES = (
    "out of memory",
    "ALLOC_FAILED",  # cuBLAS: no memory for its workspace
    "ALLOCATION_FAILED",  # cuDNN
    "unable to find an engine to execute this computation",  # cuDNN: no memory for any workspace
    "Unable to find a valid cuDNN algorithm",  # the same, in its older interface
)
"""Messages of errors that mean too little device memory but are not `torch.OutOfMemoryError`."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a device has too little memory."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    messages = OUT_OF_MEMORY_MESSAGES
    return isinstance(error, RuntimeError) and any(text in str(error) for text in messages)


def free_device_memory() -> None:
    """
    Wait for the device, and release its unused cached memory.

    Do not call it in an `except` block: the error still references tensors of the computation.
    """
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def find_batch_size(
    run: Callable[[int], None], path: Path, sizes: Sequence[int] = GPU_BATCH_SIZES, batches: int = 1
) -> int:
    """
    Find the smallest batch size that is about as fast as the fastest.

    A fallback size is not stored: other processes may use the memory of the device only now.

    Args:
        run: computes batches of a given size, and returns when they are done.
        path: file in which the result is stored, and from which later runs read it.
        sizes: sizes to measure, ascending.
        batches: number of batches that `run` computes.

    Raises:
        EngineError: the device memory is too small for a single image.
    """
    if path.exists():
        stored: int = json.loads(path.read_text())["batch_size"]
        return stored
    rates = _measure_rates(run, sizes, batches) or _measure_rates(
        run, FALLBACK_BATCH_SIZES, batches
    )
    if not rates:
        raise EngineError("out of memory on the device with a single image")
    best = max(rates.values())
    chosen = next(size for size, rate in rates.items() if rate >= MIN_RELATIVE_RATE * best)
    logger.info("batch size %d: %.0f images/s", chosen, rates[chosen])
    if sizes[0] in rates:
        _store(chosen, rates, path)
    return chosen


def _store(chosen: int, rates: dict[int, float], path: Path) -> None:
    try:
        write_json({"batch_size": chosen, "rates": {str(k): v for k, v in rates.items()}}, path)
    except MachineError as error:  # harmless: the next run measures again
        logger.warning("the batch size cannot be stored: %s", error)


def _measure_rates(
    run: Callable[[int], None], sizes: Sequence[int], batches: int
) -> dict[int, float]:
    """Measure images a second by size, ascending, up to the first that does not fit into memory."""
    rates: dict[int, float] = {}
    for size in sizes:
        try:
            rates[size] = batches * size / _measure_seconds(partial(run, size))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            break
    free_device_memory()
    return rates


def _measure_seconds(run: Callable[[], None]) -> float:
    """Return the time of the fastest run, after one warm-up run."""
    run()
    seconds: list[float] = []
    while sum(seconds) < (MIN_SECONDS if len(seconds) >= 3 else MAX_SECONDS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
