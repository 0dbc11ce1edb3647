"""Examples, and the batches made of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.temporal.batching import (
    Examples,
    batches_by_length,
    collate,
    hash_examples,
    mean_and_std,
    shuffled_batches,
)
from tests.temporal.synthetic_clips import make_example


def of_lengths(*lengths: int):
    return [make_example(0, np.full((length, 2), length)) for length in lengths]


class TestExample:
    def test_features_of_another_shape_fail(self):
        with pytest.raises(ValueError, match=r"shape \(L, D\), got float32 of shape \(3,\)"):
            make_example(0, [1, 2, 3])

    def test_a_mask_of_another_length_fails(self):
        with pytest.raises(ValueError, match=r"bool of shape \(1,\), got bool of shape \(2,\)"):
            make_example(0, [[1]], mask=[True, False])

    def test_a_sample_index_of_another_length_fails(self):
        with pytest.raises(ValueError, match=r"sample_index must have the shape \(1,\)"):
            replace(make_example(0, [[1]]), sample_index=np.arange(2))

    def test_a_label_without_a_name_fails(self):
        with pytest.raises(ValueError, match=r"labels must be in \[0, 1\).*clip"):
            Examples((make_example(1, [[0]]),), ("wave",))


def test_clips_are_padded_to_the_length_of_the_longest():
    batch = collate(
        [
            make_example(1, [[1, 2], [3, 4]], mask=[False, True]),
            make_example(0, [[5, 6], [7, 8], [9, 10]]),
        ]
    )

    assert batch.x.tolist() == [[[1, 2], [3, 4], [0, 0]], [[5, 6], [7, 8], [9, 10]]]
    assert batch.mask.tolist() == [[False, True, False], [True, True, True]]
    assert batch.labels.tolist() == [1, 0]


class TestBatches:
    def test_batches_sorted_by_length(self):
        assert list(batches_by_length(of_lengths(5, 1, 3, 2, 4), 2)) == [[1, 3], [2, 4], [0]]

    def test_shuffled_batches_contain_each_clip_once(self):
        examples = of_lengths(*range(1, 101))

        batches = list(shuffled_batches(examples, 8, torch.Generator().manual_seed(1)))

        assert sorted(n for batch in batches for n in batch) == list(range(100))
        assert [len(batch) for batch in batches].count(8) == 12

    def test_shuffled_batches_contain_clips_of_about_equal_lengths(self):
        examples = of_lengths(*range(1, 257))

        batches = list(shuffled_batches(examples, 8, torch.Generator().manual_seed(1)))

        spread = np.mean([np.ptp([len(examples[n].features) for n in batch]) for batch in batches])
        assert spread < 40  # of 8 random clips: 199

    def test_the_order_depends_on_the_generator_only(self):
        examples = of_lengths(*[4] * 50)

        def batches(seed):
            return list(shuffled_batches(examples, 8, torch.Generator().manual_seed(seed)))

        assert batches(1) == batches(1)
        assert batches(1) != batches(2)


def test_mean_and_std_are_over_the_rows_of_all_parts():
    mean, std = mean_and_std([torch.tensor([[1.0, 10.0]]), torch.tensor([[3.0, 10.0]])])

    assert mean.tolist() == [2, 10]
    assert std.tolist() == [1, 0]


def test_the_std_of_large_numbers_is_exact():
    _, std = mean_and_std([torch.tensor([[10_000.0]]), torch.tensor([[10_000.5]])])

    assert std.item() == pytest.approx(0.25)


class TestHashExamples:
    def test_equal_examples_have_equal_hashes(self):
        assert hash_examples(of_lengths(2, 3)) == hash_examples(of_lengths(2, 3))

    @pytest.mark.parametrize(
        "change",
        [
            {"label": 1},
            {"group": "h"},
            {"features": np.zeros((2, 2), np.float32)},
            {"mask": np.array([True, False])},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_any_change_changes_the_hash(self, change):
        (example,) = of_lengths(2)

        assert hash_examples([example]) != hash_examples([replace(example, **change)])

    def test_the_hash_depends_on_the_split(self):
        a, b = of_lengths(2, 3)

        assert hash_examples([a], [b]) != hash_examples([a, b], [])
