"""Batches of examples with standardized features, which are computed once for all epochs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch

from pipeline.temporal.augment import flip_grid
from pipeline.temporal.batching import Batch, Example, collate
from pipeline.temporal.layers import InputLayer

MAX_BYTES = 2 << 30
"""Memory for standardized features; those that do not fit are computed in every epoch."""


class StandardizedExamples:
    """
    Makes batches of standardized examples.

    Args:
        inputs: standardizes features.
        grid: side of the grid of features, for flipped examples.
    """

    def __init__(self, inputs: InputLayer, grid: int = 0) -> None:
        self._inputs = copy.deepcopy(inputs).cpu()
        self._grid = grid
        self._kept: dict[tuple[int, bool], tuple[Example, Example]] = {}
        """Original and standardized example, by identity of the original and whether flipped."""
        self._bytes_left = MAX_BYTES

    def batch(self, examples: Sequence[Example], flipped: Sequence[bool] = ()) -> Batch:
        """
        Make a batch of examples.

        Args:
            examples: the same objects in every epoch.
            flipped: whether each is flipped horizontally; none by default.
        """
        pairs = zip(examples, flipped or [False] * len(examples), strict=True)
        return replace(collate([self._get(*pair) for pair in pairs]), standardized=True)

    def _get(self, example: Example, flipped: bool) -> Example:
        key = id(example), flipped
        if key in self._kept:
            return self._kept[key][1]
        x = torch.from_numpy(example.features)
        if flipped:
            x = flip_grid(x, self._grid)
        with torch.no_grad():
            standardized = replace(example, features=self._inputs.standardize(x).numpy())
        if standardized.features.nbytes <= self._bytes_left:
            self._bytes_left -= standardized.features.nbytes
            self._kept[key] = example, standardized
        return standardized
