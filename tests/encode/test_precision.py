"""Comparison of features in float32 and reduced precision."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pipeline.config import Geometry
from pipeline.encode.precision import (
    MIN_COSINE,
    PrecisionCheck,
    compare_precisions,
    cosine_similarities,
)
from tests.encode.toy_engine import draw, frame_batch


class Rotated:
    """An engine whose features are rotated by an angle."""

    name, device, batch_size = "rotated", "cpu", 2

    def __init__(self, precision, degrees=0.0, *, only_frame=None, value=None):
        self.precision, self.only_frame, self.value = precision, only_frame, value
        self.cosine, self.sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        self.backbone = Stub()
        self.done = 0

    def preprocess(self, frames):
        return torch.from_numpy(frames)

    def start(self, images):
        values = np.tile(np.float32([1, 0]), (len(images), 1))
        for row in range(len(values)):
            if self.only_frame in (None, self.done + row):
                values[row] = self.value or (self.cosine, self.sine)
        self.done += len(values)
        return lambda: values


class Stub:
    geometry, feature_size, previous_frames = Geometry(8, 8), 2, 0


FULL = Rotated("float32")


class TestCosineSimilarities:
    def test_they_are_computed_row_by_row(self):
        a = np.array([[1, 0], [1, 1], [2, 0]])
        b = np.array([[5, 0], [0, 3], [-1, 0]])

        np.testing.assert_allclose(cosine_similarities(a, b), [1, 0.5**0.5, -1])

    def test_rows_of_zeros_equal_only_each_other(self):
        a = np.array([[0.0, 0], [0, 0], [1, 1]])
        b = np.array([[0.0, 0], [1, 0], [0, 0]])

        np.testing.assert_array_equal(cosine_similarities(a, b), [1, 0, 0])

    def test_large_half_precision_values_do_not_overflow(self):
        a = np.full((1, 2000), 60000, np.float16)

        np.testing.assert_allclose(cosine_similarities(a, a), [1])


class TestComparePrecisions:
    @pytest.mark.parametrize(("degrees", "expected"), [(2.5, "bfloat16"), (2.6, "float32")])
    def test_the_limit_is_a_cosine_of_0_999(self, degrees, expected):
        found = compare_precisions(FULL, Rotated("bfloat16", degrees), [frame_batch("a", draw(5))])

        assert MIN_COSINE == 0.999
        assert found.precision == expected
        assert found.tried == "bfloat16"
        assert found.cosine_min == pytest.approx(np.cos(np.radians(degrees)), abs=1e-4)
        assert found.frames == 5

    def test_one_frame_that_differs_rejects_it(self):
        reduced = Rotated("bfloat16", 10, only_frame=6)
        batches = [frame_batch("a", draw(5)), frame_batch("b", draw(3))]

        found = compare_precisions(FULL, reduced, batches)

        assert found.precision == "float32"
        assert found.cosine_mean > 0.998 > found.cosine_min
        assert found.frames == 8

    def test_nan_rejects_it(self):
        found = compare_precisions(
            FULL, Rotated("float16", value=(np.nan, 1)), [frame_batch("a", draw(2))]
        )

        assert found.precision == "float32"
        assert found.cosine_min == -1

    def test_without_frames_float32_is_chosen(self):
        assert compare_precisions(FULL, Rotated("bfloat16"), []) == PrecisionCheck(
            "float32", tried="bfloat16"
        )
        empty = [frame_batch("a", draw(0))]
        assert compare_precisions(FULL, Rotated("bfloat16"), empty) == PrecisionCheck(
            "float32", tried="bfloat16"
        )


def test_json_round_trip():
    check = PrecisionCheck("bfloat16", "bfloat16", 0.9995, 0.9999, 64)

    assert PrecisionCheck.from_json(json.loads(json.dumps(check.to_json()))) == check


def test_unknown_fields_of_json_are_ignored():
    check = PrecisionCheck("float32", "bfloat16", 0.9, 0.99, 64)

    assert PrecisionCheck.from_json({**check.to_json(), "new": 1}) == check
