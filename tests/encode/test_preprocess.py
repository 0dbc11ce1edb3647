"""Preprocessing on arrival gives the same images as preprocessing before encoding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.encode.preprocess import (
    feature_rows,
    preprocess_batches,
    preprocess_decoded,
    preprocesses_on_arrival,
    staged_size,
)
from tests.encode.toy_engine import draw, encode, engine, frame_batch


def on(device):
    made = engine()
    made.device = device
    return made


class TestOnArrival:
    @pytest.mark.parametrize(
        ("size", "expected"),
        [((8, 8), False), ((4, 16), False), ((9, 8), True), ((1080, 1920), True)],
    )
    def test_on_the_cpu_if_it_makes_frames_smaller(self, size, expected):
        assert preprocesses_on_arrival(on("cpu"), size) == expected
        assert staged_size(on("cpu"), size) == ((8, 8) if expected else size)

    def test_never_on_cuda(self):
        assert not preprocesses_on_arrival(on("cuda"), (1080, 1920))
        assert staged_size(on("cuda"), (1080, 1920)) == (1080, 1920)


class TestPreprocessDecoded:
    def test_images_are_those_of_the_engine(self):
        frames = draw(5, size=(20, 13))

        found = preprocess_decoded(engine(), frames, np.arange(5))

        assert found.shape == (5, 8, 8, 3)
        np.testing.assert_array_equal(found, engine().preprocess(frames).numpy())

    def test_a_repeated_frame_is_resized_once(self):
        frames = draw(3, size=(20, 13))[[0, 0, 1, 2, 2, 2]]
        made, cut = engine(), []
        fit = made.preprocess
        made.preprocess = lambda given: cut.append(len(given)) or fit(given)

        found = preprocess_decoded(made, frames, np.array([4, 4, 7, 9, 9, 9]))

        assert cut == [3]
        np.testing.assert_array_equal(found, fit(frames).numpy())


class TestPreprocessBatches:
    @pytest.mark.parametrize("context", [0, 1])
    def test_resized_frames_are_not_resized_again(self, context):
        frames = draw(6, size=(20, 13))[[0, 1, 1, 2, 3, 3]]
        decoded = replace(
            frame_batch("a", frames, context=context), frame_index=np.array([0, 1, 1, 2, 3, 3])
        )
        made = engine(context=context)
        cut = replace(decoded, images=made.preprocess(frames).numpy(), resized=True)
        expected = list(preprocess_batches(made, [decoded]))
        made.preprocess = lambda _: pytest.fail("resized again")

        (found,) = preprocess_batches(made, [cut])

        assert found.shape == ((6, 8, 8, 6) if context else (4, 8, 8, 3))
        np.testing.assert_array_equal(found, np.concatenate(expected))

    @pytest.mark.parametrize("context", [0, 1])
    def test_features_are_the_same(self, context):
        batches = [
            frame_batch(name, draw(count, 40 * count, (20, 13)), context=context)
            for name, count in (("a", 5), ("b", 0), ("c", 3))
        ]
        made = engine(context=context)
        cut = [
            replace(b, images=preprocess_decoded(made, b.images, b.frame_index), resized=True)
            for b in batches
            if len(b.images)
        ]
        expected = [part.values for part in encode(made, *batches) if len(part.values)]

        found = [part.values for part in encode(made, *cut)]

        np.testing.assert_array_equal(np.concatenate(found), np.concatenate(expected))


@pytest.mark.parametrize(
    ("frame_index", "context", "rows"),
    [
        ([], 0, []),
        ([3, 5, 9], 0, [0, 1, 2]),
        ([3, 3, 3, 9], 0, [0, 0, 0, 1]),
        ([3, 3, 3, 9], 1, [0, 1, 1, 2]),
    ],
)
def test_feature_rows(frame_index, context, rows):
    """With a previous frame, the second sample of a frame differs from the first."""
    assert feature_rows(np.array(frame_index, np.int64), context).tolist() == rows
