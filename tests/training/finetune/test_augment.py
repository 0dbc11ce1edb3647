"""How clips are seen: the same for all their frames, and within what is allowed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline.training.finetune.augment import View, choose_frames, draw_view, show
from pipeline.training.finetune.options import TuningOptions

SIZE = (48, 64)
AS_IS = View(False, 0, 0, *SIZE, 1.0, 1.0, 1.0)
NOTHING = TuningOptions(smallest_crop=1.0, colour=0.0)


def views(count=300, options=None, *, mirror=True):
    generator = torch.Generator().manual_seed(0)
    options = options or TuningOptions()
    return [draw_view(SIZE, options, generator, mirror=mirror) for _ in range(count)]


def random_pictures(count=3):
    return torch.rand(count, 3, *SIZE) * 255


class TestDraw:
    def test_crops_lie_within_the_picture_and_are_large_enough(self):
        for view in views():
            assert 0 <= view.top <= SIZE[0] - view.height
            assert 0 <= view.left <= SIZE[1] - view.width
            assert view.height * view.width >= 0.68 * SIZE[0] * SIZE[1]  # 0.7, and whole pixels

    def test_crops_differ_in_place_area_and_shape(self):
        for fact in ("top", "left", "height", "width"):
            assert len({getattr(view, fact) for view in views()}) > 5, fact

    def test_colours_change_within_bounds_to_both_sides(self):
        for fact in ("brightness", "contrast", "saturation"):
            found = [getattr(view, fact) for view in views()]
            assert 0.8 <= min(found) < 0.85 < 1.15 < max(found) <= 1.2

    def test_about_half_are_mirrored_where_labels_allow(self):
        assert 120 < sum(view.mirrored for view in views()) < 180

    def test_none_is_mirrored_where_labels_do_not_allow(self):
        assert not any(view.mirrored for view in views(mirror=False))

    def test_the_mirror_changes_no_other_draw(self):
        for one, other in zip(views(), views(mirror=False), strict=True):
            assert replace(one, mirrored=False) == other

    def test_nothing_changes_where_nothing_may(self):
        assert set(views(options=NOTHING, mirror=False)) == {AS_IS}


class TestShow:
    def test_a_view_as_it_is_changes_nothing(self):
        pictures = random_pictures()

        torch.testing.assert_close(show(pictures, AS_IS), pictures, rtol=0, atol=1e-3)

    def test_a_mirror_reverses_columns(self):
        pictures = random_pictures()

        seen = show(pictures, replace(AS_IS, mirrored=True))

        torch.testing.assert_close(seen, pictures.flip(3), rtol=0, atol=1e-3)

    def test_a_crop_is_brought_to_the_size_of_the_picture(self):
        pictures = torch.zeros(1, 3, *SIZE)
        pictures[:, :, 12:36, 16:48] = 200

        seen = show(pictures, replace(AS_IS, top=12, left=16, height=24, width=32))

        assert seen.shape == pictures.shape
        torch.testing.assert_close(seen, torch.full_like(seen, 200), rtol=0, atol=1e-3)

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ({"brightness": 1.5}, [150.0, 75.0, 30.0]),
            ({"brightness": 3.0}, [255.0, 150.0, 60.0]),
            ({"contrast": 0.5}, [113.75, 88.75, 73.75]),
            ({"saturation": 0.0}, [61.53, 61.53, 61.53]),
        ],
    )
    def test_colours_change_as_they_are_called(self, change, expected):
        picture = torch.tensor([100.0, 50.0, 20.0]).view(1, 3, 1, 1).expand(1, 3, *SIZE)

        seen = show(picture, replace(AS_IS, **change))

        torch.testing.assert_close(seen[0, :, 0, 0], torch.tensor(expected), rtol=0, atol=1e-2)

    def test_all_frames_of_a_clip_are_changed_alike(self):
        """And whatever the chunks they come in: what is still stays still."""
        still = random_pictures(1).expand(5, -1, -1, -1)
        (view,) = views(1)

        seen = show(still, view)

        assert torch.equal(seen, seen[:1].expand_as(seen))
        assert torch.equal(show(still[:2], view), seen[:2])


class TestChooseFrames:
    def test_at_most_so_many_that_count_are_chosen(self):
        mask = torch.rand(50, 20) < 0.5
        chosen = choose_frames(mask, 4, torch.Generator().manual_seed(0))

        assert not (chosen & ~mask).any()
        assert torch.equal(chosen.sum(1), mask.sum(1).clamp(max=4))

    def test_every_frame_has_its_turn(self):
        mask = torch.ones(200, 10, dtype=torch.bool)
        chosen = choose_frames(mask, 3, torch.Generator().manual_seed(0))

        assert (chosen.sum(0) > 30).all()
