"""The batch size of an accelerator, found by measurement once and kept."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.encode.memory import free_memory, lacks_memory
from pipeline.errors import EngineError
from pipeline.files import write_json

logger = logging.getLogger(__name__)

SIZES = (32, 64, 128, 256, 512, 1024)
SMALLER = (1, 2, 4, 8, 16)
"""Measured only where the smallest of the others does not fit."""
GOOD_ENOUGH = 0.97
"""Of the best rate: the smallest batch that reaches it leaves most memory to others."""


def find_batch_size(run: Callable[[int], None], kept: Path) -> int:
    """
    Find the batch size with which a device is about fastest, and leave its memory to others.

    A size below the usual ones is not kept: others may use the device now, and not the next time.

    Args:
        run: computes one batch of a size, and returns once it is done.
        kept: file in which the size found is kept, and found by the next run.

    Raises:
        EngineError: not even a single picture fits the device's memory.
    """
    if kept.exists():
        found: int = json.loads(kept.read_text())["batch_size"]
        return found
    rates = _rates(run, SIZES) or _rates(run, SMALLER)
    if not rates:
        raise EngineError("out of memory on the device with a single picture")
    best = max(rates.values())
    chosen = next(size for size, rate in rates.items() if rate >= GOOD_ENOUGH * best)
    logger.info("batches of %d: %.0f pictures a second", chosen, rates[chosen])
    if SIZES[0] in rates:
        write_json({"batch_size": chosen, "rates": {str(k): v for k, v in rates.items()}}, kept)
    return chosen


def _rates(run: Callable[[int], None], sizes: Sequence[int]) -> dict[int, float]:
    """Measure sizes, smallest first, until one does not fit."""
    rates: dict[int, float] = {}
    for size in sizes:
        try:
            rates[size] = _rate(run, size)
        except RuntimeError as error:
            if not lacks_memory(error):
                raise
            break
    free_memory()
    return rates


def _rate(run: Callable[[int], None], size: int) -> float:
    """Give pictures a second, the best of three after one that is not counted."""
    run(size)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        run(size)
        seconds.append(time.perf_counter() - start)
    return size / min(seconds)
