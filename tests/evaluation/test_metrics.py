"""Metrics against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation.metrics import (
    accuracy,
    class_metrics,
    confusion_matrix,
    macro_f1,
    mean_average_precision,
    reliability,
)

TRUTH = np.array([0, 0, 0, 1, 1, 2])
SCORES = np.eye(4)[[0, 0, 1, 1, 2, 1]]
"""The last of four labels does not occur; 3 of 6 clips are correct."""


class TestConfusion:
    def test_rows_are_true_and_columns_are_predicted_labels(self):
        expected = [[2, 1, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]

        assert confusion_matrix(TRUTH, SCORES).tolist() == expected

    def test_a_clip_is_split_between_labels_of_equal_score(self):
        scores = np.array([[1.0, 1.0, 0.0], [2.0, 2.0, 2.0]])

        counts = confusion_matrix(np.array([0, 2]), scores)

        assert counts[0].tolist() == [0.5, 0.5, 0]
        assert counts[2] == pytest.approx([1 / 3] * 3)

    def test_constant_scores_have_the_accuracy_of_chance(self):
        counts = confusion_matrix(np.array([0, 0, 0, 1]), np.zeros((4, 5)))

        assert accuracy(counts) == pytest.approx(1 / 5)


class TestClasses:
    counts = confusion_matrix(TRUTH, SCORES)

    def test_accuracy_is_the_diagonal(self):
        assert accuracy(self.counts) == 3 / 6

    def test_metrics_of_each_label(self):
        metrics = class_metrics(self.counts)

        assert metrics.precision == pytest.approx([1, 1 / 3, 0, 0])
        assert metrics.recall == pytest.approx([2 / 3, 1 / 2, 0, 0])
        assert metrics.f1 == pytest.approx([4 / 5, 2 / 5, 0, 0])
        assert metrics.clips.tolist() == [3, 2, 1, 0]

    def test_macro_f1_ignores_labels_that_never_occur(self):
        assert macro_f1(self.counts) == pytest.approx((4 / 5 + 2 / 5 + 0) / 3)

    def test_macro_f1_includes_labels_that_are_only_predicted(self):
        """b is predicted once but never true: F1 of a is 2 · 1 / (1 + 2)."""
        counts = confusion_matrix(np.array([0, 0]), np.eye(2))

        assert macro_f1(counts) == pytest.approx((2 / 3 + 0) / 2)


def average_precision(relevant, scores):
    """The average precision of label 0; that of label 1 is 1, as its scores rank perfectly."""
    truth = np.where(relevant, 0, 1)
    return 2 * mean_average_precision(truth, np.stack([scores, truth], 1)) - 1


class TestAveragePrecision:
    def test_is_the_mean_precision_at_the_hits(self):
        """Hits at ranks 1, 3 and 4."""
        relevant = np.array([True, False, True, True, False])

        found = average_precision(relevant, np.array([0.9, 0.8, 0.7, 0.6, 0.5]))

        assert found == pytest.approx((1 / 1 + 2 / 3 + 3 / 4) / 3)

    @pytest.mark.parametrize("relevant", [[True, False, False], [False, False, True]])
    def test_equal_scores_have_one_rank_whatever_their_order(self, relevant):
        assert average_precision(np.array(relevant), np.zeros(3)) == pytest.approx(1 / 3)

    def test_a_tie_in_the_middle_is_one_step(self):
        """The first is a hit; then one of two clips with equal scores: precision 2 of 3."""
        relevant = np.array([True, True, False, False])

        found = average_precision(relevant, np.array([3.0, 2.0, 2.0, 1.0]))

        assert found == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)

    def test_the_mean_is_over_labels_that_clips_have(self):
        """Label 0 ranks its clips 1 and 3 of 3; label 1 its clip first; label 2 has none."""
        scores = np.array([[0.9, 0.1, 0.3], [0.5, 0.8, 0.3], [0.2, 0.2, 0.3]])

        found = mean_average_precision(np.array([0, 1, 0]), scores)

        assert found == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)


class TestReliability:
    def test_clips_are_binned_by_confidence(self):
        """Two bins: 0.5 is in the first, 0.6 and 0.8 are in the second."""
        probabilities = np.array([[0.5, 0.25, 0.25], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8]])

        bins = reliability(np.array([0, 0, 2]), probabilities, bins=2)

        assert bins.clips.tolist() == [1, 2]
        assert bins.confidence == pytest.approx([0.5, 0.7])
        assert bins.accuracy == pytest.approx([1, 0.5])
        assert bins.error == pytest.approx((1 * 0.5 + 2 * 0.2) / 3)

    def test_empty_bins_are_zero(self):
        bins = reliability(np.array([0]), np.array([[1.0, 0.0]]), bins=4)

        assert bins.clips.tolist() == [0, 0, 0, 1]
        assert bins.accuracy.tolist() == bins.confidence.tolist() == [0, 0, 0, 1]
        assert bins.error == 0

    def test_certain_and_wrong_predictions_have_an_error_of_one(self):
        assert reliability(np.array([1]), np.array([[1.0, 0.0]])).error == 1
