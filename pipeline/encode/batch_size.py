"""The batch size with which a device is fastest, found by measurement once and kept."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from pipeline.encode.memory import free_memory, lacks_memory
from pipeline.errors import EngineError, MachineError
from pipeline.storage import write_json

logger = logging.getLogger(__name__)

SIZES = (32, 64, 128, 256, 512, 1024)
"""For an accelerator."""
SMALLER = (1, 2, 4, 8, 16)
"""Measured only where the smallest of the others does not fit."""
CPU_SIZES = (1, 2, 4)
"""
For one core: where pictures are large beside the weights, a second one drives what the first left
in the cache out of it; where the weights are larger, several pictures share one look at them.
"""
LEAST_SECONDS, MOST_SECONDS = 0.25, 1.0
"""Spent on a size at least, as single runs of short ones differ much; after more, one is enough."""
GOOD_ENOUGH = 0.97
"""Of the best rate: the smallest batch that reaches it leaves most memory to others."""


def find_batch_size(
    run: Callable[[int], None], kept: Path, sizes: Sequence[int] = SIZES, batches: int = 1
) -> int:
    """
    Find the batch size with which a device is about fastest, and leave its memory to others.

    A size below the usual ones is not kept: others may use the device now, and not the next time.

    Args:
        run: computes batches of a size, and returns once they are done.
        kept: file in which the size found is kept, and found by the next run.
        sizes: the usual ones, ascending.
        batches: that `run` computes.

    Raises:
        EngineError: not even a single picture fits the device's memory.
    """
    if kept.exists():
        found: int = json.loads(kept.read_text())["batch_size"]
        return found
    rates = _rates(run, sizes, batches) or _rates(run, SMALLER, batches)
    if not rates:
        raise EngineError("out of memory on the device with a single picture")
    best = max(rates.values())
    chosen = next(size for size, rate in rates.items() if rate >= GOOD_ENOUGH * best)
    logger.info("batches of %d: %.0f pictures a second", chosen, rates[chosen])
    if sizes[0] in rates:
        _keep(chosen, rates, kept)
    return chosen


def _keep(chosen: int, rates: dict[int, float], kept: Path) -> None:
    try:
        write_json({"batch_size": chosen, "rates": {str(k): v for k, v in rates.items()}}, kept)
    except MachineError as error:  # of no consequence but that the next run measures again
        logger.warning("the batch size is not kept: %s", error)


def _rates(run: Callable[[int], None], sizes: Sequence[int], batches: int) -> dict[int, float]:
    """Measure sizes, smallest first, until one does not fit."""
    rates: dict[int, float] = {}
    for size in sizes:
        try:
            rates[size] = batches * size / _seconds(partial(run, size))
        except RuntimeError as error:
            if not lacks_memory(error):
                raise
            break
    free_memory()
    return rates


def _seconds(run: Callable[[], None]) -> float:
    """Time the fastest of several runs, after one that is not counted."""
    run()
    seconds: list[float] = []
    while sum(seconds) < (LEAST_SECONDS if len(seconds) >= 3 else MOST_SECONDS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
