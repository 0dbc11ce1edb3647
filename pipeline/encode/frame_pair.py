"""
A small CNN that encodes a frame together with the previous one: camera motion and shot cuts.

It is the backbone of the camera-motion recognizer. Its input is the previous and the current frame
as one image of 6 channels.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.config import Geometry
from pipeline.encode.backbone import Backbone, hash_weights
from pipeline.encode.preprocess import LUMA_WEIGHTS
from pipeline.errors import RecognizerError

HEIGHT, WIDTH = 72, 96
COLOUR_GRID = (6, 8)
"""Rows and columns of the grid of mean colours that distinguishes a cut from motion."""


GEOMETRY = Geometry(HEIGHT, WIDTH, "squash", reducing_gap=1)
"""Whole frames, resized without a crop in the decode process: no motion is cropped away."""


def frame_pair_backbone(network: FramePairNetwork) -> Backbone:
    """Wrap a frame-pair network as a backbone."""
    return Backbone(
        name="pairs",
        module=network.eval(),
        weights_hash=hash_weights(network),
        geometry=GEOMETRY,
        interpolation="bilinear",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        feature_size=network.feature_size,
        previous_frames=1,
        licence="Apache-2.0",
    )


def load_frame_pair(weights: Path) -> Backbone:
    """
    Load the frame-pair backbone of a recognizer.

    Args:
        weights: safetensors file.

    Raises:
        RecognizerError: the file cannot be read, or belongs to another network.
    """
    network = FramePairNetwork()
    try:
        network.load_state_dict(load_file(weights))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RecognizerError(
            f"{weights} has no weights of a frame-pair network: {error}"
        ) from error
    return frame_pair_backbone(network)


def _block(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class FramePairNetwork(nn.Module):
    """
    Encode pairs of frames.

    Args:
        size: number of motion features; the output has one more, the logit of a shot cut.
    """

    def __init__(self, size: int = 96) -> None:
        super().__init__()
        self.feature_size = size + 1
        self.motion = nn.Sequential(
            _block(3, 24, 7, 2),
            _block(24, 40, 5, 2),
            _block(40, 64, 3, 2),
            _block(64, 96, 3, 2),
            nn.Flatten(),
            nn.Linear(96 * 5 * 6, size),
            nn.ReLU(inplace=True),
        )
        cells = COLOUR_GRID[0] * COLOUR_GRID[1]
        self.cut = nn.Sequential(
            nn.Linear(size + 4 * cells, 64), nn.ReLU(inplace=True), nn.Linear(64, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Encode (B, 6, 72, 96) images in [0, 1] to (B, size + 1): motion, logit of a cut."""
        previous, current = images[:, :3], images[:, 3:]
        a, b = _normalized_luma(previous), _normalized_luma(current)
        motion = self.motion(torch.cat([a, b, b - a], dim=1))
        change = _grid_change(previous, current, a, b)
        cut = self.cut(torch.cat([motion, change], dim=1))
        return torch.cat([motion, cut], dim=1)


def _normalized_luma(images: Tensor) -> Tensor:
    """Return brightness normalized by its mean and deviation, (B, 1, H, W)."""
    weights = torch.tensor(LUMA_WEIGHTS, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
    luma = (images * weights).sum(1, keepdim=True)
    centred = luma - luma.mean((2, 3), keepdim=True)
    deviation = centred.square().mean((2, 3), keepdim=True).sqrt()
    return centred / (deviation + 0.04)


def _grid_change(previous: Tensor, current: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """
    Return how much the mean colour and normalized luma of each grid cell change, (B, 4 · cells).

    Args:
        previous: previous frames, (B, 3, H, W).
        current: current frames, the same shape.
        a: normalized luma of the previous frames, (B, 1, H, W).
        b: normalized luma of the current frames, the same shape.
    """
    rows, columns = COLOUR_GRID
    kernel = (HEIGHT // rows, WIDTH // columns)
    pool = nn.functional.avg_pool2d
    colour = (pool(current, kernel) - pool(previous, kernel)).abs()
    luma = (pool(b, kernel) - pool(a, kernel)).abs()
    return torch.cat([colour, luma], dim=1).flatten(1)
