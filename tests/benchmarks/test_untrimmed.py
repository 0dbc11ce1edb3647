"""Untrimmed videos are drawn, learned, recognized, and compared with the truth."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from tests.benchmarks.untrimmed import (
    FPS,
    MOTIONS,
    Part,
    compare,
    draw_parts,
    draw_videos,
    measure,
    positions,
)

PARTS = [Part(1, 3, "left"), Part(4, 6.5, "circle"), Part(8, 10, "left")]


class TestDrawing:
    def test_parts_follow_each_other_with_pauses(self):
        parts = draw_parts(np.random.default_rng(0), 60, MOTIONS)

        assert len(parts) > 8
        assert {part.label for part in parts} == set(MOTIONS)
        assert all(b.start - a.end > 0.5 for a, b in pairwise(parts))
        assert all(1.4 <= part.end - part.start <= 4.1 for part in parts)

    def test_the_square_moves_in_parts_only(self):
        at = positions([Part(1, 2, "right")], 3 * FPS, np.array([5, 7]))

        assert (at[:, 0] == 5).all()
        assert np.diff(at[:, 1]).tolist() == [0] * (FPS - 1) + [4] * FPS + [0] * FPS

    def test_the_table_has_the_parts(self, tmp_path):
        truth = draw_videos(tmp_path / "drawn", 1, 12, seed=3, multi_label=True)

        table = pd.read_csv(tmp_path / "drawn" / "labels.csv")
        assert table.label.tolist() == [part.label for part in truth["0.mp4"]]
        assert (tmp_path / "drawn" / "0.mp4").stat().st_size > 0


class TestComparison:
    def test_equal_segments(self):
        found = compare({"a": PARTS}, {"a": PARTS}, 12)

        assert found["f1_at_50"] == found["boundaries_within_a_quarter_second"] == 1
        assert found["f1_of_frames"]["left"] == found["f1_of_frames"]["circle"] == 1

    @pytest.mark.parametrize(("shift", "near"), [(0.25, 1), (0.3, 0)])
    def test_shifted_segments(self, shift, near):
        shifted = [replace(part, start=part.start + shift, end=part.end + shift) for part in PARTS]
        found = compare({"a": PARTS}, {"a": shifted}, 12)

        assert found["f1_at_50"] == 1
        assert found["boundaries_within_a_quarter_second"] == near

    def test_missing_segments(self):
        found = compare({"a": PARTS, "b": PARTS}, {"a": PARTS}, 12)

        assert found["f1_at_50"] == pytest.approx(2 / 3)
        assert found["boundaries_within_a_quarter_second"] == 0.5


GIVEN = {"videos": 16, "judged": 8, "seconds": 60, "seed": 0, "backbone": "random:test_resnet",
         "train": []}  # fmt: skip


@pytest.mark.slow
def test_motions_are_found_in_untrimmed_videos(tmp_path):
    found = measure(tmp_path, Namespace(multi_label=False, **GIVEN))

    assert found["f1_at_50"] >= 0.95
    assert found["boundaries_within_a_quarter_second"] >= 0.9


@pytest.mark.slow
def test_overlapping_motions_are_found(tmp_path):
    found = measure(tmp_path, Namespace(multi_label=True, **GIVEN))

    assert min(found["f1_of_frames"].values()) >= 0.9
