"""Examples, and the batches made of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.temporal.batching import (
    Examples,
    collate,
    fingerprint_of,
    moments,
    ordered_batches,
    shuffled_batches,
)
from tests.temporal.lessons import make_example


def of_lengths(*lengths: int):
    return [make_example(0, np.full((length, 2), length)) for length in lengths]


class TestExample:
    def test_features_of_another_shape_fail(self):
        with pytest.raises(ValueError, match=r"shape \(L, D\), got float32 of shape \(3,\)"):
            make_example(0, [1, 2, 3])

    def test_counts_of_another_length_fail(self):
        with pytest.raises(ValueError, match=r"bool of shape \(1,\), got bool of shape \(2,\)"):
            make_example(0, [[1]], counts=[True, False])

    def test_samples_of_another_length_fail(self):
        with pytest.raises(ValueError, match=r"samples must have the shape \(1,\), got \(2,\)"):
            replace(make_example(0, [[1]]), samples=np.arange(2))

    def test_a_label_without_a_name_fails(self):
        with pytest.raises(ValueError, match=r"labels must be in \[0, 1\).*clip"):
            Examples((make_example(1, [[0]]),), ("wave",))


def test_clips_are_padded_to_the_longest():
    batch = collate(
        [
            make_example(1, [[1, 2], [3, 4]], counts=[False, True]),
            make_example(0, [[5, 6], [7, 8], [9, 10]]),
        ]
    )

    assert batch.x.tolist() == [[[1, 2], [3, 4], [0, 0]], [[5, 6], [7, 8], [9, 10]]]
    assert batch.mask.tolist() == [[False, True, False], [True, True, True]]
    assert batch.labels.tolist() == [1, 0]


class TestBatches:
    def test_ordered_ones_are_sorted_by_length(self):
        assert list(ordered_batches(of_lengths(5, 1, 3, 2, 4), 2)) == [[1, 3], [2, 4], [0]]

    def test_shuffled_ones_hold_each_clip_once(self):
        examples = of_lengths(*range(1, 101))

        batches = list(shuffled_batches(examples, 8, torch.Generator().manual_seed(1)))

        assert sorted(n for batch in batches for n in batch) == list(range(100))
        assert [len(batch) for batch in batches].count(8) == 12

    def test_shuffled_ones_hold_clips_of_like_lengths(self):
        examples = of_lengths(*range(1, 257))

        batches = list(shuffled_batches(examples, 8, torch.Generator().manual_seed(1)))

        spread = np.mean([np.ptp([len(examples[n].features) for n in batch]) for batch in batches])
        assert spread < 40  # of 8 by chance: 199

    def test_chance_alone_decides(self):
        examples = of_lengths(*[4] * 50)

        def draw(seed):
            return list(shuffled_batches(examples, 8, torch.Generator().manual_seed(seed)))

        assert draw(1) == draw(1)
        assert draw(1) != draw(2)


def test_moments_are_of_the_rows_of_all_parts():
    mean, std = moments([torch.tensor([[1.0, 10.0]]), torch.tensor([[3.0, 10.0]])])

    assert mean.tolist() == [2, 10]
    assert std.tolist() == [1, 0]


def test_moments_of_large_numbers_are_exact():
    _, std = moments([torch.tensor([[10_000.0]]), torch.tensor([[10_000.5]])])

    assert std.item() == pytest.approx(0.25)


class TestFingerprint:
    def test_the_same_examples_have_the_same(self):
        assert fingerprint_of(of_lengths(2, 3)) == fingerprint_of(of_lengths(2, 3))

    @pytest.mark.parametrize(
        "change",
        [
            {"label": 1},
            {"group": "h"},
            {"features": np.zeros((2, 2), np.float32)},
            {"counts": np.array([True, False])},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_a_change_shows(self, change):
        (example,) = of_lengths(2)

        assert fingerprint_of([example]) != fingerprint_of([replace(example, **change)])

    def test_it_tells_on_which_side_of_a_split_examples_are(self):
        a, b = of_lengths(2, 3)

        assert fingerprint_of([a], [b]) != fingerprint_of([a, b], [])
