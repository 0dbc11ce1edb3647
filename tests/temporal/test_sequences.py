"""Labelled sequences and their batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.temporal.sequences import (
    IGNORED,
    LabelledSequences,
    hash_sequences,
    segments_of_equal_targets,
)
from tests.temporal.synthetic_sequences import make_sequence

TWO = [[1, 0], [1, 1]]


class TestLabelledSequence:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"features": np.zeros(3, np.float32)}, r"features must be float32 of shape \(T, D\)"),
            ({"targets": np.zeros(2, np.int64)}, r"targets must be int64 of shape \(3,\), or bool"),
            ({"targets": np.zeros(3, np.int32)}, r"got int32 of shape \(3,\)"),
            ({"targets": np.zeros((3, 2), np.int64)}, r"got int64 of shape \(3, 2\)"),
            ({"mask": np.ones(2, np.bool_)}, r"mask must be bool of shape \(3,\)"),
            ({"seconds": np.zeros(3, np.float32)}, r"seconds must be float64 of shape \(3,\)"),
        ],
    )
    def test_arrays_of_another_shape_or_type_fail(self, change, message):
        with pytest.raises(ValueError, match=message):
            replace(make_sequence([0, 1, 1], np.zeros((3, 2))), **change)

    def test_frames_outside_the_mask_or_without_target_are_not_in_the_loss(self):
        mask = [True, True, False, True]
        sequence = make_sequence([0, IGNORED, 1, 1], np.zeros((4, 2)), mask=mask)

        assert sequence.has_target.tolist() == [True, False, False, True]
        assert sequence.label_counts() == {0: 1, 1: 1}
        assert make_sequence(TWO, np.zeros((2, 2))).label_counts() == {0: 2, 1: 1}

    def test_segments_of_equal_targets(self):
        features = np.arange(5)[:, None]
        mask = [True, True, True, False, True]
        single = segments_of_equal_targets(make_sequence([0, 0, 1, 2, 1], features, mask=mask))
        multi = segments_of_equal_targets(make_sequence(TWO, features[:2]))

        assert [part.ravel().tolist() for part in single] == [[0, 1], [2, 4]]
        assert [part.ravel().tolist() for part in multi] == [[0], [1]]


class TestLabelledSequences:
    def test_targets_of_another_number_of_labels_fail(self):
        sequence = make_sequence([0, 2], np.zeros((2, 2)), name="too many")
        with pytest.raises(ValueError, match=r"int64 in \[-1, 2\), but .* \['too many'\]"):
            LabelledSequences((sequence,), ("a", "b"))
        with pytest.raises(ValueError, match=r"bool \(T, 2\), but .* \['too many'\]"):
            LabelledSequences((sequence,), ("a", "b"), multi_label=True)
        with pytest.raises(ValueError, match="background must be one of the labels"):
            LabelledSequences((), ("a", "b"), background="c")

    def test_feature_sizes_that_differ_fail(self):
        items = tuple(make_sequence([0, 1], np.zeros((2, size))) for size in (2, 3))
        with pytest.raises(ValueError, match=r"same size, got \[2, 3\]"):
            LabelledSequences(items, ("a", "b"))


def test_the_hash_depends_on_content_and_order():
    a, b = (make_sequence([0, label], np.zeros((2, 2))) for label in (0, 1))

    assert hash_sequences([a], [b]) == hash_sequences([a], [b])
    assert len({hash_sequences([a, b], []), hash_sequences([b, a], []), hash_sequences([a])}) == 3
