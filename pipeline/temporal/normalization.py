"""Measure on examples how the inputs of a model are brought to sizes that can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pipeline.temporal.batching import Example, moments
from pipeline.temporal.models import TemporalModel

WITHIN = 0.05
"""Share of its deviation from frame to frame that an input is taken to differ from clip to clip at
least: few clips may happen to agree in it."""


def standardize(model: TemporalModel, examples: Sequence[Example]) -> None:
    """
    Set how a model standardizes features, and weighs them against their rises and falls.

    A clip is told from another by what differs between clips. The background does so much, and from
    frame to frame hardly; movement the other way round. So where a model rectifies changes, each
    input is divided by its deviation between clips: with the one between frames, backgrounds that
    are learned by heart drown movement.
    """
    counted = [torch.from_numpy(example.features[example.counts]) for example in examples]
    model.standardize(*moments(model.inputs.evened(frames) for frames in counted))
    if model.options.rectified:
        some = [frames for frames in counted if len(frames)]
        centre, within = moments(_joined(model, some))
        _, between = moments(frames.mean(0, keepdim=True) for frames in _joined(model, some))
        spread = torch.maximum(between, WITHIN * within)
        weight = torch.where(spread > 0, 1 / spread, 0)
        size = (within * weight).square().mean().sqrt()  # of all inputs, from frame to frame
        model.balance(centre, weight / size.clamp(min=1e-12))


@torch.no_grad()
def _joined(model: TemporalModel, clips: Sequence[Tensor]) -> Iterator[Tensor]:
    """Give what the model joins of each clip, (L, P)."""
    first = torch.ones(1, dtype=torch.bool)
    for frames in clips:
        yield model.inputs.joined(frames.unsqueeze(0), frames[:1], first)[0]
