"""The engine that runs a backbone with torch."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.encode.backbone import Backbone
from pipeline.encode.batch_size import free_device_memory, is_out_of_memory
from pipeline.encode.engine import PendingFeatures, Placement
from pipeline.encode.pinned_memory import PinnedBuffers
from pipeline.encode.preprocess import resize_and_crop
from pipeline.errors import EngineError
from pipeline.records import Images

logger = logging.getLogger(__name__)


class TorchEngine:
    """
    Run a backbone with torch: on CUDA under autocast, on the CPU in float32 or bfloat16.

    Args:
        backbone: network to run; it is moved to the device.
        placement: device and precision.
        batch_size: largest number of images in one forward pass.
    """

    name = "torch"

    def __init__(self, backbone: Backbone, placement: Placement, batch_size: int) -> None:
        self.backbone = backbone
        self.device: str = placement.device
        self.precision = placement.precision
        self.batch_size = batch_size
        self._module: Any = backbone.module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._buffers = PinnedBuffers(self.device) if self.device == "cuda" else None
        frames = 1 + backbone.previous_frames
        self._mean = self._constant(backbone.mean * frames)
        self._std = self._constant(backbone.std * frames)

    def _constant(self, values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, device=self.device).view(1, -1, 1, 1) * 255

    def preprocess(self, frames: Images) -> Tensor:
        """
        Resize and crop frames (T, h, w, 3) on the device, to uint8 (T, H, W, 3).

        If the device runs out of memory, the frames are split in halves.

        Raises:
            EngineError: the memory is too small for a single frame.
        """
        if self._buffers is None:
            pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
            return resize_and_crop(pixels, self.backbone).permute(0, 2, 3, 1)
        try:
            return self._preprocess_on_gpu(frames, self._buffers)
        except RuntimeError as error:
            _check_can_split(error, len(frames))
        free_device_memory()
        middle = math.ceil(len(frames) / 2)
        return torch.cat([self.preprocess(frames[:middle]), self.preprocess(frames[middle:])])

    def _preprocess_on_gpu(self, frames: Images, buffers: PinnedBuffers) -> Tensor:
        pixels = buffers.copy_to_device(frames).permute(0, 3, 1, 2)
        # CUDA has no resize kernel for uint8: round as the CPU kernel does
        resized = resize_and_crop(pixels.float(), self.backbone)
        return resized.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

    def start(self, images: Tensor) -> PendingFeatures:
        """
        Start to encode images.

        If the device runs out of memory, the batch size is halved for all later batches too.

        Raises:
            EngineError: the memory is too small for a single image.
        """
        # features stay on the device until all are computed: copying them would wait for each batch
        parts = [torch.zeros(0, self.backbone.feature_size, device=self.device)]
        start = 0
        while start < len(images):
            batch = images[start : start + self.batch_size]
            try:
                parts.append(self._run_batch(batch))
            except RuntimeError as error:
                _check_can_split(error, len(batch))
            else:
                start += len(batch)
                continue
            self._halve_batch_size(len(batch))
        values = torch.cat(parts)
        return lambda: np.asarray(values.cpu().numpy(), np.float32)

    def run_black_images(self, count: int) -> None:
        """Encode black images and wait for the result, to measure the speed."""
        height, width = self.backbone.geometry.height, self.backbone.geometry.width
        channels = 3 * (1 + self.backbone.previous_frames)
        black = torch.zeros(count, height, width, channels, dtype=torch.uint8, device=self.device)
        self._run_batch(black).cpu()

    def _halve_batch_size(self, count: int) -> None:
        self.batch_size = math.ceil(count / 2)
        logger.warning("out of memory on the device: batch size is now %d", self.batch_size)
        free_device_memory()

    @torch.inference_mode()
    def _run_batch(self, batch: Tensor) -> Tensor:
        dtype = getattr(torch, self.precision)
        images = batch.permute(0, 3, 1, 2).float().sub(self._mean).div(self._std)
        images = images.contiguous(memory_format=torch.channels_last)  # (B, C, H, W)
        with torch.autocast(self.device, dtype=dtype, enabled=self.precision != "float32"):
            features: Tensor = self._module(images)
        return features.float()


def _check_can_split(error: RuntimeError, count: int) -> None:
    """
    Check that an error means too little memory, and that the batch can be split.

    Raises:
        RuntimeError: the error itself, if it has another cause.
        EngineError: there is only one image.
    """
    if not is_out_of_memory(error):
        raise error
    if count <= 1:
        raise EngineError("out of memory on the device with a single image") from error
