"""
The loop that everyone writes first, to be measured against.

OpenCV reads, timm's transform cuts one picture at a time, torch computes in float32 on batches in
its default layout; one video after the other, all in one thread.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import cv2
import torch
from PIL import Image

from pipeline.encode.backbone import Backbone
from pipeline.records import Chunk

BATCH = 32


class NaiveLoop:
    """
    Encodes videos when called, and gives how many frames.

    Args:
        backbone: what encodes.
        chunks: which videos.
        stride: frames from one that is encoded to the next.
        most: frames of all videos together, about: as many whole batches of each video.
    """

    def __init__(
        self, backbone: Backbone, chunks: Sequence[Chunk], *, stride: int, most: int
    ) -> None:
        module = copy.deepcopy(backbone.module)
        self.module: Any = module.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.stride = stride
        self.locations = [chunk.video.location for chunk in chunks]
        self.most = math.ceil(most / len(chunks) / BATCH) * BATCH
        self.transform = _transform(backbone)

    def __call__(self) -> int:
        """Encode."""
        done = 0
        for location in self.locations:
            pictures = islice(islice(_read(location), 0, None, self.stride), self.most)
            while batch := list(islice(pictures, BATCH)):
                with torch.no_grad():
                    features = self.module(torch.stack([self.transform(p) for p in batch]))
                done += len(features.cpu().numpy())
        return done


def _transform(backbone: Backbone) -> Any:
    from timm.data import create_transform

    geometry = backbone.geometry
    return create_transform(
        input_size=(3, geometry.height, geometry.width),
        interpolation=backbone.interpolation,
        mean=backbone.mean,
        std=backbone.std,
        crop_pct=geometry.crop_fraction,
        crop_mode="squash" if geometry.fit == "squash" else "center",
    )


def _read(location: str) -> Iterator[Any]:
    capture = cv2.VideoCapture(location)
    try:
        while True:
            found, picture = capture.read()
            if not found:
                return
            yield Image.fromarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    finally:
        capture.release()
