"""Standardized examples: computed once, flipped exactly, in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.temporal import standardized
from pipeline.temporal.augment import flip_grid
from pipeline.temporal.batching import collate
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.normalization import fit_normalization
from pipeline.temporal.options import TemporalOptions
from pipeline.temporal.standardized import StandardizedExamples
from tests.temporal.synthetic_clips import make_example

OPTIONS = TemporalOptions(
    size=4, differences=True, rectified=True, signed_root=True, layer_norm=False
)


@pytest.fixture
def examples():
    rng = np.random.default_rng(0)
    masks = [[True] * 5, [True, False, True], [True] * 4]
    return [make_example(0, rng.normal(size=(len(mask), 8)), mask=mask) for mask in masks]


@pytest.fixture
def model(examples):
    torch.manual_seed(0)
    made = TemporalModel(8, 2, OPTIONS).eval()
    fit_normalization(made, [torch.from_numpy(e.features[e.mask]) for e in examples])
    return made


@pytest.mark.parametrize("max_bytes", [0, 100, 1 << 20])
def test_batches_give_the_logits_of_the_features(examples, model, max_bytes, monkeypatch):
    monkeypatch.setattr(standardized, "MAX_BYTES", max_bytes)
    batches, expected = StandardizedExamples(model.inputs, grid=2), collate(examples)
    flips = [True, False, True]
    x = torch.where(torch.tensor(flips).view(3, 1, 1), flip_grid(expected.x, 2), expected.x)

    for _ in range(2):
        batch = batches.batch(examples, flips)

        found = model(batch.x, batch.mask, standardized=batch.standardized)
        for one, other in zip(found, model(x, expected.mask), strict=True):
            torch.testing.assert_close(one, other)


def test_features_are_standardized_once(examples, model, monkeypatch):
    batches, calls = StandardizedExamples(model.inputs), []
    standardize = batches._inputs.standardize
    monkeypatch.setattr(
        batches._inputs, "standardize", lambda x: calls.append(len(x)) or standardize(x)
    )

    for _ in range(3):
        batches.batch(examples[::-1])

    assert calls == [4, 3, 5]


def test_masked_frames_have_no_difference_to_their_neighbours(examples, model):
    """Frames dropped in a step: the difference is that to the last frame that is left."""
    batch = StandardizedExamples(model.inputs).batch(examples[:1])
    mask = torch.tensor([[False, True, False, True, True]])

    found = model(batch.x, mask, standardized=True).clips

    left = torch.from_numpy(examples[0].features[[1, 3, 4]]).unsqueeze(0)
    torch.testing.assert_close(found, model(left).clips)
