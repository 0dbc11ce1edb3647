"""Augmentation: the same for all frames of a clip, with parameters in their ranges."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline.training.finetune.augment import AugmentParams, apply, choose_frames, sample_params
from pipeline.training.finetune.options import TuningOptions

SIZE = (48, 64)
IDENTITY = AugmentParams(False, 0, 0, *SIZE, 1.0, 1.0, 1.0)
DISABLED = TuningOptions(smallest_crop=1.0, colour=0.0)


def sample(count=300, options=None, *, mirror=True):
    generator = torch.Generator().manual_seed(0)
    options = options or TuningOptions()
    return [sample_params(SIZE, options, generator, mirror=mirror) for _ in range(count)]


def random_frames(count=3):
    return torch.rand(count, 3, *SIZE) * 255


class TestSampleParams:
    def test_crops_lie_within_the_frame_and_have_the_minimum_area(self):
        for params in sample():
            assert 0 <= params.top <= SIZE[0] - params.height
            assert 0 <= params.left <= SIZE[1] - params.width
            assert (
                params.height * params.width >= 0.68 * SIZE[0] * SIZE[1]
            )  # 0.7, rounded to pixels

    def test_crops_differ_in_position_area_and_aspect_ratio(self):
        for name in ("top", "left", "height", "width"):
            assert len({getattr(params, name) for params in sample()}) > 5, name

    def test_colour_factors_are_in_their_range_around_one(self):
        for name in ("brightness", "contrast", "saturation"):
            found = [getattr(params, name) for params in sample()]
            assert 0.8 <= min(found) < 0.85 < 1.15 < max(found) <= 1.2

    def test_about_half_are_mirrored_if_allowed(self):
        assert 120 < sum(params.mirrored for params in sample()) < 180

    def test_none_is_mirrored_if_not_allowed(self):
        assert not any(params.mirrored for params in sample(mirror=False))

    def test_mirroring_does_not_change_other_parameters(self):
        for one, other in zip(sample(), sample(mirror=False), strict=True):
            assert replace(one, mirrored=False) == other

    def test_augmentation_can_be_disabled(self):
        assert set(sample(options=DISABLED, mirror=False)) == {IDENTITY}


class TestApply:
    def test_identity_parameters_change_nothing(self):
        frames = random_frames()

        torch.testing.assert_close(apply(frames, IDENTITY), frames, rtol=0, atol=1e-3)

    def test_a_mirror_reverses_columns(self):
        frames = random_frames()

        result = apply(frames, replace(IDENTITY, mirrored=True))

        torch.testing.assert_close(result, frames.flip(3), rtol=0, atol=1e-3)

    def test_a_crop_is_resized_to_the_size_of_the_frame(self):
        frames = torch.zeros(1, 3, *SIZE)
        frames[:, :, 12:36, 16:48] = 200

        result = apply(frames, replace(IDENTITY, top=12, left=16, height=24, width=32))

        assert result.shape == frames.shape
        torch.testing.assert_close(result, torch.full_like(result, 200), rtol=0, atol=1e-3)

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ({"brightness": 1.5}, [150.0, 75.0, 30.0]),
            ({"brightness": 3.0}, [255.0, 150.0, 60.0]),
            ({"contrast": 0.5}, [113.75, 88.75, 73.75]),
            ({"saturation": 0.0}, [61.53, 61.53, 61.53]),
        ],
    )
    def test_colour_factors(self, change, expected):
        frame = torch.tensor([100.0, 50.0, 20.0]).view(1, 3, 1, 1).expand(1, 3, *SIZE)

        result = apply(frame, replace(IDENTITY, **change))

        torch.testing.assert_close(result[0, :, 0, 0], torch.tensor(expected), rtol=0, atol=1e-2)

    def test_all_frames_of_a_clip_are_changed_equally(self):
        """Independently of chunks: equal frames stay equal."""
        still = random_frames(1).expand(5, -1, -1, -1)
        (params,) = sample(1)

        result = apply(still, params)

        assert torch.equal(result, result[:1].expand_as(result))
        assert torch.equal(apply(still[:2], params), result[:2])


class TestChooseFrames:
    def test_chooses_at_most_count_frames_of_the_mask(self):
        mask = torch.rand(50, 20) < 0.5
        chosen = choose_frames(mask, 4, torch.Generator().manual_seed(0))

        assert not (chosen & ~mask).any()
        assert torch.equal(chosen.sum(1), mask.sum(1).clamp(max=4))

    def test_every_frame_is_chosen_sometimes(self):
        mask = torch.ones(200, 10, dtype=torch.bool)
        chosen = choose_frames(mask, 3, torch.Generator().manual_seed(0))

        assert (chosen.sum(0) > 30).all()
