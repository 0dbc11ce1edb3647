"""Many short videos, and untrained recognizers, to measure with."""

from __future__ import annotations

from pathlib import Path

from pipeline.bench.synthetic import make_video
from pipeline.config import ClipWindows, Sampling
from pipeline.encode.backbone import Backbone
from pipeline.recognition.recognizer import BackboneSpec, Recognizer, save_recognizer
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import TemporalOptions

CLIP_SECONDS = 2.0


def make_clips(folder: Path, count: int, size: tuple[int, int] = (160, 120)) -> Path:
    """Generate different videos of two seconds. Returns their folder."""
    for number in range(count):
        make_video(folder / f"clip-{number:05}.mp4", size, CLIP_SECONDS, seed=number)
    return folder


def untrained_recognizer(
    folder: Path,
    backbone: Backbone,
    sampling: Sampling,
    seed: int,
    *,
    tap: str | None = None,
    grid: int | None = None,
) -> Path:
    """
    Save a GRU with random weights: it computes as much as a trained one.

    Args:
        folder: folder of the recognizer.
        backbone: backbone whose features it reads.
        sampling: of frames.
        seed: of the weights.
        tap: with which the backbone was loaded.
        grid: with which the backbone was loaded.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        options = TemporalOptions(cell="gru")
        labels = ("one", "other", "neither")
        model = TemporalModel(backbone.feature_size, len(labels), options).eval()
    spec = BackboneSpec(
        name=backbone.name,
        weights_hash=backbone.weights_hash,
        feature_size=backbone.feature_size,
        tap=tap,
        grid=grid,
        context=backbone.previous_frames,
        precision="float32",
    )
    recognizer = Recognizer(
        name=folder.name,
        labels=labels,
        sampling=sampling,
        clips=ClipWindows(),
        backbone=spec,
        temporal=options,
        model=model,
    )
    save_recognizer(recognizer, folder)
    return folder
