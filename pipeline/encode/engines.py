"""
Engines: the same backbone on whatever computes best here, behind one protocol.

Measured on a CPU with bfloat16, OpenVINO is 10 to 17 times faster than plain torch; on CUDA, torch
runs channels-last under autocast and resizes on the device, so that only uint8 crosses the bus.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipeline.config import EncodeOptions, Geometry, fingerprint
from pipeline.encode.backbone import Backbone
from pipeline.encode.batch_size import SIZES, find_batch_size
from pipeline.encode.memory import free_memory, lacks_memory
from pipeline.encode.pinned_memory import Staging
from pipeline.errors import EngineError, OptionError
from pipeline.records import Images

logger = logging.getLogger(__name__)
Arithmetic = Literal["float32", "bfloat16", "float16"]

TORCH_CPU_BATCH = 4
"""A few pictures still fit the cache: larger batches were measured slower."""


Features = Callable[[], NDArray[np.float32]]
"""Waits for features, (B, D)."""


class Engine(Protocol):
    """Runs a backbone. Two threads may `fit`, and wait for features, but not `start` at once."""

    backbone: Backbone
    device: str
    precision: Arithmetic
    batch_size: int
    name: str

    def fit(self, frames: Images) -> Tensor:
        """Cut frames (T, h, w, 3) to the pictures that the backbone wants, uint8 (T, H, W, 3)."""

    def start(self, pictures: Tensor) -> Features:
        """
        Begin to encode pictures (B, H, W, 3 · (1 + context)), B of any size.

        Returns:
            What waits for the features, (B, D); to be called once, and soon: until then others may
            wait for what it holds.
        """


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how exactly a backbone runs."""

    device: Literal["cpu", "cuda"]
    precision: Arithmetic


def choose_device(options: EncodeOptions) -> Literal["cpu", "cuda"]:
    """
    Choose the device.

    Raises:
        OptionError: CUDA is asked for and not there.
    """
    if options.device == "cuda" and not torch.cuda.is_available():
        raise OptionError("--device cuda: torch sees no CUDA device here; use --device cpu or auto")
    if options.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return options.device


def reduced_precision(device: Literal["cpu", "cuda"]) -> Arithmetic | None:
    """Tell the precision below float32 that a device computes faster; None where there is none."""
    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if native else "float16"
    try:
        from pipeline.encode.openvino_engine import computes_bfloat16
    except ImportError:
        return None
    return "bfloat16" if computes_bfloat16() else None


def make_engine(
    backbone: Backbone, placement: Placement, options: EncodeOptions, cache: Path
) -> Engine:
    """
    Make the engine for a device: torch on CUDA, OpenVINO on the CPU, torch where that cannot.

    On CUDA, float32 is float32: TF32 is switched off, for everything that this process computes.

    Args:
        backbone: what to run.
        placement: where, and how exactly.
        options: the batch size; 0 finds the fastest.
        cache: folder in which converted networks, and batch sizes that were found, are kept.
    """
    if placement.device == "cuda":
        return _cuda_engine(backbone, placement, options, cache)
    try:
        from pipeline.encode.openvino_engine import OpenVINOEngine

        return OpenVINOEngine(backbone, placement, options.batch_size, cache)
    except (ImportError, EngineError) as error:
        logger.warning("encoding with torch on the CPU, much slower: %s", error)
    return TorchEngine(backbone, placement, options.batch_size or TORCH_CPU_BATCH)


def _cuda_engine(
    backbone: Backbone, placement: Placement, options: EncodeOptions, cache: Path
) -> TorchEngine:
    # torch allows TF32, which keeps 10 bits of 23, in every convolution in float32
    torch.backends.cudnn.allow_tf32 = False
    engine = TorchEngine(backbone, placement, options.batch_size or max(SIZES))
    if not options.batch_size:
        card = torch.cuda.get_device_name()
        key = fingerprint(backbone.identity, card, placement.precision, torch.__version__)
        engine.batch_size = find_batch_size(engine.run_nothing, cache / f"batch-{key}.json")
    return engine


def scaled_size(height: int, width: int, geometry: Geometry) -> tuple[int, int]:
    """Tell the size to which a whole frame is scaled before its centre is cropped."""
    tall, wide = geometry.scaled
    if geometry.fit == "squash":
        return tall, wide
    if height <= width:
        return tall, int(tall * width / height)
    return int(tall * height / width), tall


def fit_frames(frames: Tensor, backbone: Backbone) -> Tensor:
    """
    Scale, antialiased as in Pillow, and crop the centre.

    Args:
        frames: (T, 3, h, w), uint8.
        backbone: whose geometry and interpolation are wanted.

    Returns:
        (T, 3, H, W), uint8.
    """
    geometry = backbone.geometry
    size = scaled_size(frames.shape[2], frames.shape[3], geometry)
    if tuple(frames.shape[2:]) != size:
        frames = functional.interpolate(
            frames, size=size, mode=backbone.interpolation, antialias=True
        )
    top = round((size[0] - geometry.height) / 2)
    left = round((size[1] - geometry.width) / 2)
    return frames[:, :, top : top + geometry.height, left : left + geometry.width]


class TorchEngine:
    """torch: on CUDA under autocast, on the CPU in float32 or bfloat16."""

    name = "torch"

    def __init__(self, backbone: Backbone, placement: Placement, batch_size: int) -> None:
        self.backbone = backbone
        self.device: str = placement.device
        self.precision = placement.precision
        self.batch_size = batch_size
        self._module: Any = backbone.module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._staging = Staging(self.device) if self.device == "cuda" else None
        channels = 1 + backbone.context
        self._mean = self._constant(backbone.mean * channels)
        self._std = self._constant(backbone.std * channels)

    def _constant(self, values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, device=self.device).view(1, -1, 1, 1) * 255

    def fit(self, frames: Images) -> Tensor:
        """
        Cut frames (T, h, w, 3) to pictures on the device, uint8 (T, H, W, 3).

        Where it runs out of memory, half of them at a time.

        Raises:
            EngineError: there is too little memory for a single one.
        """
        if self._staging is None:
            pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
            return fit_frames(pixels, self.backbone).permute(0, 2, 3, 1)
        try:
            return self._fit_there(frames, self._staging)
        except RuntimeError as error:
            _require_smaller(error, len(frames))
        free_memory()
        middle = math.ceil(len(frames) / 2)
        return torch.cat([self.fit(frames[:middle]), self.fit(frames[middle:])])

    def _fit_there(self, frames: Images, staging: Staging) -> Tensor:
        sent = staging.send(frames).permute(0, 3, 1, 2)
        # no integer kernel there: round as the one on the CPU does
        scaled = fit_frames(sent.float(), self.backbone).round().clamp(0, 255).to(torch.uint8)
        return scaled.permute(0, 2, 3, 1)

    def start(self, pictures: Tensor) -> Features:
        """
        Begin to encode pictures; halves the batch for good when the device runs out of memory.

        Raises:
            EngineError: there is too little memory for a single one.
        """
        # features stay on the device until all are computed: reading them would wait for each
        parts = [torch.zeros(0, self.backbone.feature_size, device=self.device)]
        start = 0
        while start < len(pictures):
            batch = pictures[start : start + self.batch_size]
            try:
                parts.append(self._run_batch(batch))
            except RuntimeError as error:
                _require_smaller(error, len(batch))
            else:
                start += len(batch)
                continue
            self._halve(len(batch))
        values = torch.cat(parts)
        return lambda: np.asarray(values.cpu().numpy(), np.float32)

    def run_nothing(self, count: int) -> None:
        """Encode black pictures, to see how long that takes."""
        height, width = self.backbone.geometry.height, self.backbone.geometry.width
        channels = 3 * (1 + self.backbone.context)
        black = torch.zeros(count, height, width, channels, dtype=torch.uint8, device=self.device)
        self._run_batch(black).cpu()

    def _halve(self, count: int) -> None:
        self.batch_size = math.ceil(count / 2)
        logger.warning("out of memory on the device: going on with batches of %d", self.batch_size)
        free_memory()

    @torch.inference_mode()
    def _run_batch(self, batch: Tensor) -> Tensor:
        dtype = getattr(torch, self.precision)
        pictures = batch.permute(0, 3, 1, 2).float().sub(self._mean).div(self._std)
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device, dtype=dtype, enabled=self.precision != "float32"):
            features: Tensor = self._module(pictures)
        return features.float()


def _require_smaller(error: RuntimeError, count: int) -> None:
    """
    Require that an error comes from a lack of memory that fewer pictures at a time overcome.

    Raises:
        RuntimeError: the error itself, where it is another one.
        EngineError: there is one picture only.
    """
    if not lacks_memory(error):
        raise error
    if count <= 1:
        raise EngineError("out of memory on the device with a single picture") from error


def describe(engine: Engine) -> dict[str, Any]:
    """Give what `run.json` says of an engine."""
    return {
        "engine": engine.name,
        "device": engine.device,
        "precision": engine.precision,
        "batch_size": engine.batch_size,
    }
