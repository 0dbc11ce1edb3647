"""Synthetic clips with cached frames, and a tiny backbone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from pipeline.config import Geometry, Sampling
from pipeline.encode.backbone import load_backbone
from pipeline.temporal.batching import Example
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import TemporalOptions, TrainingOptions
from pipeline.training.finetune.frame_cache import frame_cache_of
from pipeline.training.finetune.options import TuningOptions
from pipeline.training.finetune.trainer import FinetuneTask

STEPS = 6
"""Frames per clip."""
TRAINING = TrainingOptions(device="cpu")
TUNING = TuningOptions(blocks=1, epochs=2, batch_size=4, frames=4, chunk=4)


def backbone_of(name="random:test_efficientnet", tap="blocks.1", side=48):
    """A tiny network with small inputs, tapped early."""
    return replace(load_backbone(name, layer=tap), geometry=Geometry(side, side))


def write_frames(cache, video_id, frames):
    """Write frames (T, H, W, 3) to the cache."""
    rows = np.zeros(len(frames), cache.dtype)
    rows["picture"], rows["present"] = frames, True
    cache.folder.mkdir(parents=True, exist_ok=True)
    rows.tofile(cache.path(video_id))


def draw_frames(number, label, size, steps=STEPS):
    """Noise in stripes along one of the diagonals, (T, H, W, 3)."""
    rng = np.random.default_rng(number)
    rows, columns = np.indices(size)
    stripe = rows + columns if label else rows - columns + size[1]
    noise = rng.integers(0, 256, (steps, sum(size)), np.uint8)
    return noise[:, stripe, None].repeat(3, 3)


def make_task(folder, *, clips=12, validation=4, backbone=None, tuning=TUNING, mirror=False):
    """Clips with two alternating labels, and an untrained temporal model."""
    backbone = backbone or backbone_of()
    cache = frame_cache_of(folder, backbone, Sampling(fps=8))
    examples = []
    for number in range(clips + validation):
        name = f"v{number}"
        write_frames(cache, name, draw_frames(number, number % 2, cache.size))
        examples.append(make_clip(name, number % 2, backbone.feature_size))
    torch.manual_seed(0)
    model = TemporalModel(backbone.feature_size, 2, TemporalOptions(size=8, dropout=0.1)).eval()
    return FinetuneTask(
        examples=examples[:clips],
        validation=examples[clips:],
        backbone=backbone,
        model=model,
        cache=cache,
        tuning=tuning,
        training=TRAINING,
        mirror=mirror,
    )


def make_clip(name, label, size, steps=STEPS):
    features = np.zeros((steps, size), np.float32)
    counts = np.ones(steps, np.bool_)
    clip = Example(name, name, name, label, features, counts, 0.0, steps / 8)
    return replace(clip, sample_index=np.arange(steps))
