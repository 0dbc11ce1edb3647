"""What every engine has in common: the protocol, and where and how exactly a backbone runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.encode.backbone import Backbone
from pipeline.records import Images

Arithmetic = Literal["float32", "bfloat16", "float16"]

PendingFeatures = Callable[[], NDArray[np.float32]]
"""Waits until features have been computed and returns them, (B, D)."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Device and precision of an engine."""

    device: Literal["cpu", "cuda"]
    precision: Arithmetic


class Engine(Protocol):
    """
    Computes the features of images with a backbone.

    Several threads may call `preprocess` and wait for features at the same time, but only one at a
    time may call `start`: `EngineLock` ensures it.
    """

    backbone: Backbone
    device: str
    precision: Arithmetic
    batch_size: int
    name: str

    def preprocess(self, frames: Images) -> Tensor:
        """Resize and crop frames (T, h, w, 3) to the input of the backbone, uint8 (T, H, W, 3)."""

    def start(self, images: Tensor) -> PendingFeatures:
        """
        Start to encode images, uint8 (B, H, W, 3 · (1 + previous_frames)), B of any size.

        Returns:
            A function that waits for the features, (B, D). Call it once, and soon: until then it
            holds resources that other threads may wait for.
        """


def describe_engine(engine: Engine) -> dict[str, Any]:
    """Return the entries of `run.json` about an engine."""
    return {
        "engine": engine.name,
        "device": engine.device,
        "precision": engine.precision,
        "batch_size": engine.batch_size,
    }
