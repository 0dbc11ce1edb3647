"""Small engines and drawn frames for tests."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from pipeline.config import Geometry
from pipeline.encode.backbone import Backbone
from pipeline.encode.encoder import encode_frames
from pipeline.encode.engine import Placement
from pipeline.encode.engine_lock import EngineLock
from pipeline.encode.frame_pair import FramePairNetwork
from pipeline.encode.torch_engine import TorchEngine
from pipeline.records import Chunk, DecodeReport, FrameBatch, Video
from tests.videos import draw_number

FLOAT32 = Placement("cpu", "float32")


class Means(nn.Module):
    """Return the mean of each channel: exactly the same in any batch."""

    def forward(self, images):
        return images.mean((2, 3))


class Change(nn.Module):
    """Return the change of mean colours since the previous frame, and the mean colours."""

    def forward(self, images):
        before, now = images.mean((2, 3)).chunk(2, dim=1)
        return torch.cat([now - before, now], dim=1)


def engine(batch_size=4, *, context=0, scale=1.0):
    backbone = Backbone(
        name="means",
        module=Change() if context else Means(),
        weights_hash="",
        geometry=Geometry(8, 8),
        interpolation="bilinear",
        mean=(0.0, 0.0, 0.0),
        std=(1 / scale, 1 / scale, 1 / scale),
        feature_size=6 if context else 3,
        previous_frames=context,
    )
    return TorchEngine(backbone, FLOAT32, batch_size)


def frame_batch(video_id, images, *, first=0, start=None, num_samples=None, context=0):
    """Make a decoded chunk whose first frame is sample `first`."""
    count = len(images)
    start = first if start is None else start
    stop = first + count
    video = Video(f"{video_id}.mp4", f"/{video_id}.mp4", "file", video_id, 1)
    index = np.arange(first, stop)
    return FrameBatch(
        chunk=Chunk(video, None, start, stop, num_samples or stop, context),
        images=images,
        sample_index=index,
        frame_index=index * 3,
        pts_seconds=index / 8,
        report=DecodeReport("ok", frames_decoded=count),
    )


def draw(count, first=0, size=(8, 8)):
    height, width = size
    images = [draw_number(first + number, width, height) for number in range(count)]
    return np.stack(images) if images else np.zeros((0, height, width, 3), np.uint8)


def encode(made, *batches):
    return encode_frames(made, batches, EngineLock())


def small_frame_pair_network():
    torch.manual_seed(11)
    return FramePairNetwork(size=8)
