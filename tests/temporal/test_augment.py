"""Random augmentation of clips: at least one frame always remains."""

from __future__ import annotations

import pytest
import torch

from pipeline.errors import OptionError
from pipeline.temporal.augment import augment_mask, crop_in_time, draw_flips, flip_grid
from pipeline.temporal.options import TrainingOptions


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_default_options_change_nothing():
    mask = torch.rand(8, 10, generator=generator()) < 0.5

    assert torch.equal(augment_mask(mask, TrainingOptions(), generator()), mask)
    assert draw_flips(3, TrainingOptions(), generator()) == [False] * 3


class TestCrop:
    def test_a_contiguous_part_of_at_least_the_share_is_kept(self):
        mask = torch.ones(500, 20, dtype=torch.bool)

        kept = crop_in_time(mask, 0.5, generator())

        lengths = kept.sum(1)
        assert (int(lengths.min()), int(lengths.max())) == (10, 20)
        edges = (kept[:, 1:] != kept[:, :-1]).sum(1)
        assert int(edges.max()) == 2  # contiguous

    def test_every_position_is_reached(self):
        kept = crop_in_time(torch.ones(500, 20, dtype=torch.bool), 0.5, generator())

        assert bool(kept.any(0).all())

    def test_only_frames_in_the_mask_are_counted(self):
        mask = torch.tensor([[False, True, True, False, True, True]]).repeat(200, 1)

        kept = crop_in_time(mask, 0.5, generator())

        assert not bool((kept & ~mask).any())
        assert int(kept.sum(1).min()) == 2


def test_the_share_of_dropped_frames():
    mask = torch.ones(100, 100, dtype=torch.bool)

    after = augment_mask(mask, TrainingOptions(drop_frames=0.3), generator())

    assert 0.68 < after.float().mean() < 0.72


def test_every_clip_keeps_a_frame():
    mask = torch.zeros(200, 5, dtype=torch.bool)
    mask[:, 2] = True

    after = augment_mask(mask, TrainingOptions(drop_frames=0.9), generator())

    assert torch.equal(after, mask)


class TestFlipGrid:
    def test_columns_of_the_grid_are_reversed(self):
        x = torch.arange(8.0).view(1, 1, 8)  # two channels of 2 × 2 cells

        assert flip_grid(x, 2).tolist() == [[[1, 0, 3, 2, 5, 4, 7, 6]]]

    def test_flipping_twice_gives_the_input(self):
        x = torch.randn(2, 3, 45)

        assert torch.equal(flip_grid(flip_grid(x, 3), 3), x)

    def test_half_of_the_clips_are_flipped(self):
        assert 450 < sum(draw_flips(1000, TrainingOptions(mirror_grid=2), generator())) < 550

    def test_features_that_are_not_a_grid_fail(self):
        with pytest.raises(OptionError, match="size 8 are not a grid of 3 × 3 cells"):
            flip_grid(torch.zeros(1, 1, 8), 3)
