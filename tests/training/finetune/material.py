"""Drawn clips whose pictures are kept without a decoder, and a tiny backbone to read them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from pipeline.config import Geometry, Sampling
from pipeline.encode.backbone import load_backbone
from pipeline.temporal.batching import Example
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import TemporalOptions, TrainingOptions
from pipeline.training.finetune.frame_cache import picture_cache
from pipeline.training.finetune.lesson import TuningLesson
from pipeline.training.finetune.options import TuningOptions

STEPS = 6
"""Frames a clip."""
TRAINING = TrainingOptions(device="cpu")
TUNING = TuningOptions(blocks=1, epochs=2, batch_size=4, frames=4, chunk=4)


def backbone_of(name="random:test_efficientnet", tap="blocks.1", side=48):
    """A tiny network, read early, that wants small pictures."""
    return replace(load_backbone(name, layer=tap), geometry=Geometry(side, side))


def keep(cache, video_id, pictures):
    """Keep pictures, (T, H, W, 3), as if they had been decoded."""
    rows = np.zeros(len(pictures), cache.row)
    rows["picture"], rows["present"] = pictures, True
    cache.folder.mkdir(parents=True, exist_ok=True)
    rows.tofile(cache.path(video_id))


def draw(number, label, size, steps=STEPS):
    """Noise in stripes along the one diagonal or the other, (T, H, W, 3)."""
    chance = np.random.default_rng(number)
    rows, columns = np.indices(size)
    stripe = rows + columns if label else rows - columns + size[1]
    noise = chance.integers(0, 256, (steps, sum(size)), np.uint8)
    return noise[:, stripe, None].repeat(3, 3)


def make_lesson(folder, *, clips=12, held=4, backbone=None, tuning=TUNING, mirror=False):
    """Clips of two labels in turn, and a temporal model that was not trained."""
    backbone = backbone or backbone_of()
    cache = picture_cache(folder, backbone, Sampling(fps=8))
    examples = []
    for number in range(clips + held):
        name = f"v{number}"
        keep(cache, name, draw(number, number % 2, cache.size))
        examples.append(make_clip(name, number % 2, backbone.feature_size))
    torch.manual_seed(0)
    model = TemporalModel(backbone.feature_size, 2, TemporalOptions(size=8, dropout=0.1)).eval()
    return TuningLesson(
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
