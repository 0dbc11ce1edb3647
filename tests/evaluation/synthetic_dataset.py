"""Shared by the tests of evaluation: synthetic features, and a recognizer with random weights."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import torch

from pipeline.config import ClipWindows, Sampling
from pipeline.recognition.recognizer import BackboneSpec, Recognizer
from pipeline.records import DecodeReport, FrameFeatures
from pipeline.temporal.batching import Examples
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import TemporalOptions, TrainingOptions
from pipeline.training.build_dataset import LabelledDataset
from tests.temporal.synthetic_clips import rising_and_falling

LABELS = ("falls", "rises")
GRU = TemporalOptions(cell="gru", size=8, pooling="last")
QUICK = TrainingOptions(
    epochs=12, learning_rate=2e-2, batch_size=8, device="cpu", validation=0.25, patience=12
)
BACKBONE = BackboneSpec("toy", "0" * 32, 2)
FPS = 8


def make_dataset(items=None, *, splits=None, skipped=(), labels=LABELS) -> LabelledDataset:
    """Labelled clips as `build_dataset` gives them."""
    items = tuple(rising_and_falling(32) if items is None else items)
    return LabelledDataset(
        Examples(items, labels),
        tuple(splits or [None] * len(items)),
        BACKBONE,
        None,
        Sampling(fps=FPS),
        ClipWindows(),
        tuple(skipped),
    )


def make_recognizer(labels=LABELS, **notes) -> Recognizer:
    """A recognizer with random weights and training options."""
    torch.manual_seed(0)
    return Recognizer(
        "toy",
        labels,
        Sampling(fps=FPS),
        ClipWindows(),
        BACKBONE,
        GRU,
        TemporalModel(2, len(labels), GRU).eval(),
        notes={"training": asdict(QUICK), **notes},
    )


def halves(count: int = 16):
    """Two consecutive clips of each video: `v0 [0, 1)` and `v0 [1, 2)`."""
    rng = np.random.default_rng(0)
    found = []
    for number, item in enumerate(rising_and_falling(count)):
        start = float(number % 2)
        video = f"v{number // 2}"
        line = np.linspace(-1, 1, FPS) * (1 if item.label else -1)
        features = np.stack([line, rng.normal(size=FPS)], 1).astype(np.float32)
        found.append(
            replace(
                item,
                name=f"{video} [{start:g}, {start + 1:g})",
                video_id=video,
                group=f"g{number // 2 % 4}",
                features=features,
                mask=np.ones(FPS, np.bool_),
                video=video,
                start_seconds=start,
                end_seconds=start + 1,
            )
        )
    return found


def stored(items):
    """Read the features of each video, like a feature store."""

    def read(video_id):
        parts = sorted(
            (item for item in items if item.video_id == video_id), key=lambda e: e.start_seconds
        )
        values = np.concatenate([part.features for part in parts])
        index = np.arange(len(values))
        return [_features(video_id, index, values)], len(values) / FPS

    return read


def _features(video_id, index, values) -> FrameFeatures:
    count = len(index)
    return FrameFeatures(
        video_id, 0, count, count, values.astype(np.float16), index, index, index / FPS,
        DecodeReport("ok"),
    )  # fmt: skip
