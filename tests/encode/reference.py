"""Engines to compare, and the reference: timm's transform and torch in float32."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import nn

from pipeline.config import Geometry
from pipeline.decode.downscale import decoded_size, downscale
from pipeline.encode import torch_engine
from pipeline.encode.backbone import Backbone
from pipeline.encode.engine import Placement
from pipeline.encode.openvino_engine import OpenVINOEngine
from pipeline.encode.torch_engine import TorchEngine
from tests.encode.toy_engine import FLOAT32
from tests.videos import draw_number

ENGINES = ["torch", "openvino"]


def make(kind, backbone, cache, precision="float32", batch_size=4):
    placement = Placement("cpu", precision)
    if kind == "torch":
        return TorchEngine(backbone, placement, batch_size)
    return OpenVINOEngine(backbone, placement, batch_size, cache)


def draw_frames(count, height, width):
    """Draw numbered frames with noise, (T, H, W, 3)."""
    rng = np.random.default_rng(count * height + width)
    noise = rng.integers(0, 60, (count, height, width, 3))
    drawn = np.stack([draw_number(number * 37, width, height) for number in range(count)])
    return np.clip(drawn.astype(int) + noise - 30, 0, 255).astype(np.uint8)


def reference_images(backbone, frames):
    """Preprocess frames with timm's transform: normalized, (T, 3, H, W)."""
    config = resolve_model_data_config(backbone.module.network)
    transform = create_transform(**config, is_training=False)
    return torch.stack([transform(Image.fromarray(frame)) for frame in frames])


@torch.inference_mode()
def reference_features(backbone, frames):
    return backbone.module.float()(reference_images(backbone, frames)).numpy()


def decode(backbone, frames):
    """Downscale frames as decode processes do."""
    size = decoded_size(*frames.shape[1:3], backbone.geometry)
    return np.stack([downscale(frame, size) for frame in frames])


def encode(engine, frames):
    return engine.start(engine.preprocess(decode(engine.backbone, frames)))()


def cosines(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


class Small(nn.Module):
    """Fail for more images than fit into memory; return their mean colours."""

    def __init__(self, most, error=None):
        super().__init__()
        self.most = most
        self.error = error or torch.OutOfMemoryError("no memory")
        self.seen = []

    def forward(self, images):
        self.seen.append(len(images))
        if len(images) > self.most:
            raise self.error
        return images.mean((2, 3))


def small_engine(most, batch_size, error=None, placement=FLOAT32):
    backbone = Backbone(
        name="small",
        module=Small(most, error),
        weights_hash="",
        geometry=Geometry(8, 8),
        interpolation="bilinear",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        feature_size=3,
    )
    return TorchEngine(backbone, placement, batch_size)


def limit_preprocessing(monkeypatch, most, error=None):
    """Fail for more frames at once; return the list of numbers of frames."""
    right, seen = torch_engine.resize_and_crop, []

    def limited(given, backbone):
        seen.append(len(given))
        if len(given) > most:
            raise error or torch.OutOfMemoryError("no memory")
        return right(given, backbone)

    monkeypatch.setattr(torch_engine, "resize_and_crop", limited)
    return seen
