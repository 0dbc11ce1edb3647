"""
A small CNN that looks at a frame together with the one before: what moved, and whether it is a cut.

It is the backbone of the recognizers of camera movement. Both pictures come as one of 6 channels,
the earlier first.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.config import Geometry
from pipeline.encode.backbone import Backbone, hash_weights
from pipeline.errors import RecognizerError

HEIGHT, WIDTH = 72, 96
LUMA = (0.299, 0.587, 0.114)
COLOUR_CELLS = (6, 8)
"""Rows and columns of the coarse colours that tell a cut from movement."""


GEOMETRY = Geometry(HEIGHT, WIDTH, "squash", reducing_gap=1)
"""Whole frames, squashed in the decode process: no movement is cut off."""


def pairs_backbone(network: PairNetwork) -> Backbone:
    """Make a pair network a backbone."""
    return Backbone(
        name="pairs",
        module=network.eval(),
        weights_hash=hash_weights(network),
        geometry=GEOMETRY,
        interpolation="bilinear",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        feature_size=network.feature_size,
        context=1,
        licence="Apache-2.0",
    )


def load_pairs(weights: Path) -> Backbone:
    """
    Load a pair network that belongs to a recognizer.

    Raises:
        RecognizerError: its weights are not there, or are those of something else.
    """
    network = PairNetwork()
    try:
        network.load_state_dict(load_file(weights))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RecognizerError(f"{weights} does not hold a pair network: {error}") from error
    return pairs_backbone(network)


def _block(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class PairNetwork(nn.Module):
    """
    Encode pairs of pictures.

    Args:
        size: features of the movement; the output has one more, the logit of a cut.
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
        cells = COLOUR_CELLS[0] * COLOUR_CELLS[1]
        self.cut = nn.Sequential(
            nn.Linear(size + 4 * cells, 64), nn.ReLU(inplace=True), nn.Linear(64, 1)
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """Encode (B, 6, 72, 96) pictures in [0, 1] to (B, size + 1): movement, logit of a cut."""
        before, now = pictures[:, :3], pictures[:, 3:]
        a, b = _normalized_luma(before), _normalized_luma(now)
        motion = self.motion(torch.cat([a, b, b - a], dim=1))
        cut = self.cut(torch.cat([motion, _coarse_change(before, now, a, b)], dim=1))
        return torch.cat([motion, cut], dim=1)


def _normalized_luma(picture: Tensor) -> Tensor:
    """Give brightness, (B, 1, H, W), free of exposure."""
    weights = torch.tensor(LUMA, dtype=picture.dtype, device=picture.device).view(1, 3, 1, 1)
    luma = (picture * weights).sum(1, keepdim=True)
    centred = luma - luma.mean((2, 3), keepdim=True)
    spread = centred.square().mean((2, 3), keepdim=True).sqrt()
    return centred / (spread + 0.04)


def _coarse_change(before: Tensor, now: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Give how much each cell changed in colour and in normalized brightness, (B, 4 · cells)."""
    rows, columns = COLOUR_CELLS
    kernel = (HEIGHT // rows, WIDTH // columns)
    pool = nn.functional.avg_pool2d
    colour = (pool(now, kernel) - pool(before, kernel)).abs()
    light = (pool(b, kernel) - pool(a, kernel)).abs()
    return torch.cat([colour, light], dim=1).flatten(1)
