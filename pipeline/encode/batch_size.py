"""The batch size of an accelerator, found by measurement once and kept."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch

from pipeline.errors import EngineError
from pipeline.files import write_json

logger = logging.getLogger(__name__)

SIZES = (32, 64, 128, 256, 512, 1024)
GOOD_ENOUGH = 0.97
"""Of the best rate: the smallest batch that reaches it leaves most memory to others."""


def find_batch_size(run: Callable[[int], None], kept: Path) -> int:
    """
    Find the batch size with which a device is about fastest.

    Args:
        run: computes one batch of a size, and returns once it is done.
        kept: file in which the size found is kept, and found by the next run.

    Raises:
        EngineError: not even the smallest batch fits the device's memory.
    """
    if kept.exists():
        found: int = json.loads(kept.read_text())["batch_size"]
        return found
    rates: dict[int, float] = {}
    for size in SIZES:
        try:
            rates[size] = _rate(run, size)
        except torch.OutOfMemoryError:
            break
    if not rates:
        raise EngineError(f"out of memory on the device with a batch of {SIZES[0]}")
    best = max(rates.values())
    chosen = next(size for size, rate in rates.items() if rate >= GOOD_ENOUGH * best)
    logger.info("batches of %d: %.0f pictures a second", chosen, rates[chosen])
    write_json({"batch_size": chosen, "rates": {str(k): v for k, v in rates.items()}}, kept)
    return chosen


def _rate(run: Callable[[int], None], size: int) -> float:
    """Give pictures a second, the best of three after one that is not counted."""
    run(size)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        run(size)
        seconds.append(time.perf_counter() - start)
    return size / min(seconds)
