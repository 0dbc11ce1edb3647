"""Augmentation of sequences: targets follow their frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.temporal.options import TrainingOptions
from pipeline.temporal.sequence_augment import augment_sequence, mix_in, stretch
from pipeline.temporal.sequences import to_tensors
from tests.temporal.synthetic_sequences import make_sequence


def counting(length=60):
    """The feature of each frame is its number, and so is its target."""
    return to_tensors(make_sequence(np.arange(length), np.arange(length)[:, None]))


@pytest.mark.parametrize(
    "options",
    [
        {"shortest_crop": 0.5},
        {"stretch": 1.5},
        {"drop_frames": 0.3},
        {"shortest_crop": 0.5, "stretch": 1.5, "drop_frames": 0.3},
    ],
)
def test_targets_follow_their_frames(options):
    generator = torch.Generator().manual_seed(0)
    lengths = set()
    for _ in range(20):
        features, mask, targets = augment_sequence(
            counting(), TrainingOptions(**options), generator
        )
        lengths.add(int(mask.sum()))

        assert ((features[:, 0] - targets).abs() <= 0.5).all()
        assert 10 <= mask.sum() <= 90
    assert len(lengths) > 5


def test_without_options_sequences_stay():
    found = augment_sequence(counting(), TrainingOptions(), torch.Generator().manual_seed(0))

    assert all(torch.equal(a, b) for a, b in zip(found, counting(), strict=True))


@pytest.mark.parametrize(("factor", "length"), [(2, 120), (0.5, 30), (0.001, 1)])
def test_stretched_sequences_have_another_length(factor, length):
    assert [len(part) for part in stretch(counting(), factor)] == [length] * 3


def test_another_sequence_is_mixed_in():
    generator = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(20):
        mixed = mix_in(torch.zeros(50, 2), torch.ones(7, 2), 0.5, generator)
        assert mixed.unique().numel() == 1
        shares.append(mixed[0, 0].item())

    assert 0 <= min(shares) < 0.1
    assert 0.4 < max(shares) < 0.5
