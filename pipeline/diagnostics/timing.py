"""Time of a training step on a long sequence, by cell; and the error of the linear scan."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from pipeline.temporal.cells import MinGRULayer
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import CellName, TemporalOptions

SIZE = 64
"""Feature size, and size of the hidden state."""
LABELS = 8
REPEATS = 5


@dataclass(frozen=True, slots=True)
class StepTime:
    """Time of a training step."""

    cell: CellName
    length: int
    """Frames of the sequence, L."""
    seconds: float
    """Forward, backward and optimizer step; the median of 5."""


def time_step(cell: CellName, length: int, *, sequences: int = 1) -> StepTime:
    """Time training steps of a cell on noise, (sequences, length, 64), on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TemporalModel(SIZE, LABELS, TemporalOptions(cell=cell, size=SIZE))
        x = torch.randn(sequences, length, SIZE)
    optimizer = torch.optim.AdamW(model.parameters())
    _timed(lambda: _step(model, optimizer, x))  # allocates memory and optimizer state
    seconds = [_timed(lambda: _step(model, optimizer, x)) for _ in range(REPEATS)]
    return StepTime(cell, length, median(seconds))


def _step(model: TemporalModel, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    optimizer.zero_grad()
    model(x).clips.square().sum().backward()
    optimizer.step()


def _timed(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@torch.inference_mode()
def scan_max_abs_error(length: int) -> float:
    """Compute the maximum difference between minGRU as one scan and step by step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = MinGRULayer(SIZE, SIZE)
        x = torch.randn(1, length, SIZE)
    scanned, _ = layer(x, torch.zeros(1, SIZE), torch.tensor([length]))
    state, greatest = torch.zeros(1, SIZE), 0.0
    for number, step in enumerate(x.unbind(1)):
        output, state = layer(step.unsqueeze(1), state, torch.tensor([1]))
        greatest = max(greatest, float((output[:, 0] - scanned[:, number]).abs().max()))
    return greatest
