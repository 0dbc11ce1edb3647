"""
Sequences as steps of a model: inputs and targets that do not change between epochs.

A step is a block of frames if the model has a stride. Features are standardized, joined with their
differences and averaged once, so that an epoch handles steps and not frames.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.temporal.augment import flip_grid
from pipeline.temporal.blocks import make_blocks
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.sequences import IGNORED, LabelledSequence

Steps = tuple[Tensor, Tensor]
"""Prepared inputs (L, P), and targets, int64 (L,) or with multi-label float32 (L, K)."""


@torch.no_grad()
def make_steps(model: TemporalModel, sequence: LabelledSequence, mirror_grid: int = 0) -> Steps:
    """
    Prepare the steps of a sequence for `TemporalModel.stages`.

    The target of a step is that of most of the frames that have their labels from it; with
    multi-label it is the share of these frames that have the label.

    Args:
        model: on the CPU; its inputs and its stride are used.
        sequence: frames outside its mask are left out.
        mirror_grid: side of the grid of features, whose columns are reversed first; 0: not at all.
    """
    features = torch.from_numpy(sequence.features[sequence.mask])
    targets = torch.from_numpy(sequence.targets[sequence.mask])
    if mirror_grid:
        features = flip_grid(features, mirror_grid)
    x = model.inputs.standardize(features).unsqueeze(0)  # (1, T, D)
    if not len(features):
        return x.new_zeros(0, model.inputs.project.in_features), targets
    start = model.initial_state(1)
    inputs = model.inputs.prepared(x, start.previous, start.steps == 0)  # (1, T, P)
    if model.options.stride == 1:
        return inputs[0], targets.float() if sequence.multi_label else targets
    blocks = make_blocks(
        inputs,
        torch.tensor([len(features)]),
        start.steps,
        start.open_block,
        stride=model.options.stride,
        looks_ahead=model.options.looks_ahead,
    )
    return blocks.steps[0], _join_targets(targets, blocks.frames[0], model.num_labels)


def _join_targets(targets: Tensor, steps: Tensor, num_labels: int) -> Tensor:
    """Give the targets of steps; `steps` (T,) is the step of each frame."""
    count = int(steps.max()) + 1
    if targets.ndim == 2:
        sums = torch.zeros(count, num_labels).index_add_(0, steps, targets.float())
        return sums / torch.bincount(steps, minlength=count).clamp(min=1).unsqueeze(1)
    known = targets != IGNORED
    votes = torch.zeros(count, num_labels)
    votes.index_add_(0, steps[known], functional.one_hot(targets[known], num_labels).float())
    return torch.where(votes.sum(1) > 0, votes.argmax(1), IGNORED)


@dataclass(frozen=True, slots=True)
class StepBatch:
    """Steps of sequences, padded to the length of the longest."""

    x: Tensor
    """Prepared inputs, (N, L, P)."""
    lengths: Tensor
    """Number of steps of each sequence, (N,)."""
    targets: Tensor
    """int64 (N, L), or with multi-label float32 (N, L, K); `IGNORED` for padding and steps without
    target."""

    def to(self, device: torch.device) -> StepBatch:
        """Copy the batch to a device."""
        return StepBatch(self.x.to(device), self.lengths.to(device), self.targets.to(device))

    @property
    def multi_label(self) -> bool:
        """Whether a step may have several labels."""
        return self.targets.ndim == 3

    @property
    def has_target(self) -> Tensor:
        """Whether each step is in the loss, (N, L)."""
        return (self.targets[..., 0] if self.multi_label else self.targets) != IGNORED


def collate_steps(parts: Sequence[Steps]) -> StepBatch:
    """Pad sequences to the length of the longest and stack them."""
    pad = torch.nn.utils.rnn.pad_sequence
    x = pad([inputs for inputs, _ in parts], batch_first=True)
    targets = [target for _, target in parts]
    lengths = torch.tensor([len(target) for target in targets])
    return StepBatch(x, lengths, pad(targets, batch_first=True, padding_value=IGNORED))


class PreparedSteps:
    """
    Prepares the steps of sequences once for all epochs.

    Args:
        model: its inputs and stride are used as they are now.
        mirror_grid: side of the grid of features, for flipped sequences.
    """

    def __init__(self, model: TemporalModel, mirror_grid: int = 0) -> None:
        self._model = copy.deepcopy(model).cpu()
        self._mirror_grid = mirror_grid
        self._kept: dict[tuple[int, bool], tuple[LabelledSequence, Steps]] = {}
        """Sequence and steps, by identity of the sequence and whether flipped."""

    def __call__(self, sequence: LabelledSequence, *, flipped: bool = False) -> Steps:
        """Give the steps of a sequence: the same object in every epoch."""
        key = id(sequence), flipped
        if key not in self._kept:
            grid = self._mirror_grid if flipped else 0
            self._kept[key] = sequence, make_steps(self._model, sequence, grid)
        return self._kept[key][1]
