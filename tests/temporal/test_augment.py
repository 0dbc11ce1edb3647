"""What chance does to clips: parts of them, never nothing."""

from __future__ import annotations

import torch

from pipeline.config import TrainingOptions
from pipeline.temporal.augment import augment, crop
from pipeline.temporal.examples import Batch


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def batch_of(mask):
    return Batch(torch.zeros(*mask.shape, 2), mask, torch.zeros(len(mask), dtype=torch.long))


def test_nothing_is_changed_by_default():
    mask = torch.rand(8, 10, generator=chance()) < 0.5

    assert torch.equal(augment(batch_of(mask), TrainingOptions(), chance()).mask, mask)


class TestCrop:
    def test_a_run_of_at_least_the_share_is_kept(self):
        mask = torch.ones(500, 20, dtype=torch.bool)

        kept = crop(mask, 0.5, chance())

        lengths = kept.sum(1)
        assert (int(lengths.min()), int(lengths.max())) == (10, 20)
        edges = (kept[:, 1:] != kept[:, :-1]).sum(1)
        assert int(edges.max()) == 2  # one run

    def test_every_place_is_reached(self):
        kept = crop(torch.ones(500, 20, dtype=torch.bool), 0.5, chance())

        assert bool(kept.any(0).all())

    def test_only_frames_that_count_are_measured(self):
        mask = torch.tensor([[False, True, True, False, True, True]]).repeat(200, 1)

        kept = crop(mask, 0.5, chance())

        assert not bool((kept & ~mask).any())
        assert int(kept.sum(1).min()) == 2


def test_dropped_frames_are_a_share():
    mask = torch.ones(100, 100, dtype=torch.bool)

    after = augment(batch_of(mask), TrainingOptions(drop_frames=0.3), chance()).mask

    assert 0.68 < after.float().mean() < 0.72


def test_a_clip_keeps_a_frame():
    mask = torch.zeros(200, 5, dtype=torch.bool)
    mask[:, 2] = True

    after = augment(batch_of(mask), TrainingOptions(drop_frames=0.9), chance()).mask

    assert torch.equal(after, mask)
