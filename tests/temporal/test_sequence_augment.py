"""Augmentation of sequences: targets follow their inputs."""

from __future__ import annotations

import pytest
import torch

from pipeline.temporal.options import TrainingOptions
from pipeline.temporal.sequence_augment import augment_steps, mix_in, stretch


def counting(length=60):
    """The input of each step is its number, and so is its target."""
    return torch.arange(length).float().unsqueeze(1), torch.arange(length)


@pytest.mark.parametrize(
    "options",
    [
        {"shortest_crop": 0.5},
        {"stretch": 1.5},
        {"drop_frames": 0.3},
        {"shortest_crop": 0.5, "stretch": 1.5, "drop_frames": 0.3},
    ],
)
def test_targets_follow_their_inputs(options):
    generator = torch.Generator().manual_seed(0)
    lengths = set()
    for _ in range(20):
        inputs, targets = augment_steps(counting(), TrainingOptions(**options), generator)
        lengths.add(len(inputs))

        assert ((inputs[:, 0] - targets).abs() <= 0.5).all()
        assert 10 <= len(inputs) <= 90
    assert len(lengths) > 5


def test_without_options_sequences_stay():
    found = augment_steps(counting(), TrainingOptions(), torch.Generator().manual_seed(0))

    assert all(torch.equal(a, b) for a, b in zip(found, counting(), strict=True))


def test_one_step_stays():
    options = TrainingOptions(shortest_crop=0.01, drop_frames=0.999)
    generator = torch.Generator().manual_seed(0)

    assert all(len(augment_steps(counting(), options, generator)[0]) >= 1 for _ in range(20))
    assert len(augment_steps(counting(0), options, generator)[0]) == 0


@pytest.mark.parametrize(("factor", "length"), [(2, 120), (0.5, 30), (0.001, 1)])
def test_stretched_sequences_have_another_length(factor, length):
    assert [len(part) for part in stretch(counting(), factor)] == [length] * 2


def test_another_sequence_is_mixed_in():
    generator = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(20):
        mixed = mix_in(torch.zeros(50, 2), torch.ones(7, 2), 0.5, generator)
        assert mixed.unique().numel() == 1
        shares.append(mixed[0, 0].item())

    assert 0 <= min(shares) < 0.1
    assert 0.4 < max(shares) < 0.5
