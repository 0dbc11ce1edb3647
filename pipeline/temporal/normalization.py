"""Compute the normalization of a model's inputs from examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pipeline.temporal.batching import mean_and_std
from pipeline.temporal.models import TemporalModel

WITHIN_CLIP_FLOOR = 0.05
"""Lower limit of the deviation between clips, as a share of the deviation within clips: a few clips
may have nearly equal means by coincidence."""


def fit_normalization(model: TemporalModel, clips: Sequence[Tensor]) -> None:
    """
    Set the mean and standard deviation of features, and the scaling of rectified differences.

    With `rectified`, each input is divided by its standard deviation between clips, not between
    frames. What tells clips apart differs between clips. Backgrounds do so but hardly change from
    frame to frame, so that a scale measured between frames makes memorized backgrounds drown
    motion.

    Args:
        model: its inputs are normalized.
        clips: features of the frames of each clip, (L, D). Clips of sequences with a label for
            each frame are the stretches of equal labels.
    """
    model.set_standardization(*mean_and_std(model.inputs.signed_sqrt(frames) for frames in clips))
    if model.options.rectified:
        nonempty = [frames for frames in clips if len(frames)]
        mean, within = mean_and_std(_inputs(model, nonempty))
        means = (frames.mean(0, keepdim=True) for frames in _inputs(model, nonempty))
        _, between = mean_and_std(means)
        deviation = torch.maximum(between, WITHIN_CLIP_FLOOR * within)
        scale = torch.where(deviation > 0, 1 / deviation, 0)
        size = (within * scale).square().mean().sqrt()  # RMS of all inputs, between frames
        model.set_scaling(mean, scale / size.clamp(min=1e-12))


@torch.no_grad()
def _inputs(model: TemporalModel, clips: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield the features of each clip with their differences, (L, P)."""
    is_first = torch.ones(1, dtype=torch.bool)
    for frames in clips:
        x = model.inputs.standardize(frames).unsqueeze(0)
        yield model.inputs.with_differences(x, x[:, 0], is_first)[0]
