"""Pooled vectors against values computed by hand; logistic regression against its optimum."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.evaluation.baselines import (
    BASELINES,
    C,
    fit_logistic_regression,
    mean_over_time,
    pool_clips,
    prior_logits,
    temporal_pyramid,
)
from pipeline.temporal.calibration import softmax

ROOT2 = math.sqrt(2)


def frames(*values):
    """A clip of one feature, (L, 1)."""
    return np.array(values, np.float32)[:, None]


class TestMean:
    def test_is_the_signed_root_of_the_mean(self):
        x = np.array([[1, -8, 0], [7, 0, 0]], np.float32)

        assert mean_over_time(x) == pytest.approx([2, -2, 0])

    def test_is_independent_of_the_order(self):
        x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)

        np.testing.assert_allclose(mean_over_time(x[::-1]), mean_over_time(x), atol=1e-7)


class TestPyramid:
    def test_averages_positive_and_negative_differences_of_each_part(self):
        """Differences are +2, −4, +6, 0, −1, −3: means over all six, then over thirds of two."""
        x = frames(0, 2, -2, 4, 4, 3, 0)

        whole, first, second, third = (8 / 6, 8 / 6), (2 / 2, 4 / 2), (6 / 2, 0), (0, 4 / 2)

        expected = np.sqrt([*whole, *first, *second, *third])
        assert temporal_pyramid(x) == pytest.approx(expected)

    def test_values_of_one_part_and_sign_are_adjacent(self):
        x = np.array([[0, 0], [1, -4]], np.float32)

        positive, negative = temporal_pyramid(x)[:2], temporal_pyramid(x)[2:4]

        assert positive.tolist() == [1, 0]
        assert negative.tolist() == [0, 2]
        assert temporal_pyramid(x).shape == (8 * 2,)

    @pytest.mark.parametrize("x", [frames(5), frames(5, 5, 5, 5), np.zeros((0, 1), np.float32)])
    def test_without_differences_all_are_zero(self, x):
        assert temporal_pyramid(x).tolist() == [0] * 8

    def test_parts_without_differences_are_zero(self):
        """There is one difference: two of the thirds are empty, the last one holds it."""
        assert temporal_pyramid(frames(1, 3)) == pytest.approx([ROOT2, 0, 0, 0, 0, 0, ROOT2, 0])

    def test_depends_on_the_direction_of_time(self):
        x = frames(0, 1, 2, 3)

        assert (
            temporal_pyramid(x[::-1])[:2].tolist() == temporal_pyramid(x)[1::-1].tolist() == [0, 1]
        )


def blobs(count=60, size=5, labels=3):
    rng = np.random.default_rng(1)
    classes = np.arange(count) % labels
    centres = rng.normal(size=(labels, size)) * 2
    return centres[classes] + rng.normal(size=(count, size)), classes


class TestLinear:
    def test_classifies_separable_clips(self):
        vectors, labels = blobs()
        linear = fit_logistic_regression(vectors * 10, labels, 3)

        assert (linear.logits(vectors * 10).argmax(1) == labels).mean() > 0.95

    def test_is_at_the_optimum(self):
        """The gradient of the loss is zero there: C · xᵀ · errors = weights."""
        vectors, labels = blobs()
        linear = fit_logistic_regression(vectors, labels, 3)

        errors = np.eye(3)[labels] - softmax(linear.logits(vectors))
        standardized = (vectors - linear.mean) * linear.scale

        np.testing.assert_allclose(C * standardized.T @ errors, linear.weights, atol=1e-4)
        np.testing.assert_allclose(errors.sum(0), 0, atol=1e-6)

    @pytest.mark.parametrize("num_labels", [2, 3])
    def test_is_at_the_optimum_with_more_features_than_clips(self, num_labels):
        vectors, labels = blobs(12, 300, num_labels)
        linear = fit_logistic_regression(vectors, labels, num_labels)

        errors = np.eye(num_labels)[labels] - softmax(linear.logits(vectors))
        standardized = (vectors - linear.mean) * linear.scale

        assert linear.weights.shape == (300, num_labels)
        np.testing.assert_allclose(C * standardized.T @ errors, linear.weights, atol=1e-4)

    def test_standardized_vectors_have_a_mean_squared_norm_of_one(self):
        vectors, labels = blobs()
        linear = fit_logistic_regression(vectors * 50 + 7, labels, 3)

        standardized = (vectors * 50 + 7 - linear.mean) * linear.scale

        assert (standardized**2).sum(1).mean() == pytest.approx(1)

    def test_is_independent_of_the_scale_of_features(self):
        vectors, labels = blobs()
        other = vectors * [1, 1000, 1e-3, 5, 1] + 3

        one, two = (
            fit_logistic_regression(vectors, labels, 3),
            fit_logistic_regression(other, labels, 3),
        )

        np.testing.assert_allclose(two.logits(other), one.logits(vectors), atol=1e-4)

    def test_constant_features_are_ignored(self):
        """Also if rounding makes the mean differ from the constant."""
        vectors, labels = blobs()
        constant = np.full((len(vectors), 1), 0.1)

        linear = fit_logistic_regression(np.hstack([vectors, constant]), labels, 3)
        alone = fit_logistic_regression(vectors, labels, 3)

        assert linear.scale[-1] == 0
        elsewhere = np.hstack([vectors, constant + 99])
        np.testing.assert_allclose(linear.logits(elsewhere), alone.logits(vectors), atol=1e-5)

    def test_with_constant_features_only_scores_are_frequencies(self):
        linear = fit_logistic_regression(np.ones((4, 2)), np.array([0, 0, 0, 1]), 2)

        assert softmax(linear.logits(np.ones((1, 2))))[0] == pytest.approx([0.75, 0.25], abs=1e-4)

    def test_a_label_without_training_clips_has_a_low_score(self):
        vectors, labels = blobs(60, 5, 2)
        linear = fit_logistic_regression(vectors, labels * 2, 4)

        scores = softmax(linear.logits(vectors))

        assert (linear.logits(vectors).argmax(1) == labels * 2).mean() > 0.9
        assert scores[:, [1, 3]].max() < 1e-6

    def test_with_one_label_only_it_is_always_predicted(self):
        vectors, _ = blobs(6)
        linear = fit_logistic_regression(vectors, np.ones(6, np.int64), 3)

        assert linear.logits(vectors).argmax(1).tolist() == [1] * 6


class TestPrior:
    def test_scores_are_frequencies(self):
        logits = prior_logits(np.array([0, 0, 0, 2]), 3)

        np.testing.assert_allclose(np.exp(logits), [0.75, 0, 0.25], atol=1e-8)

    def test_without_clips_all_scores_are_equal(self):
        assert len(set(prior_logits(np.zeros(0, np.int64), 3).tolist())) == 1


def test_clips_become_rows_of_vectors():
    clips = [frames(1, 2), frames(3), frames(0, 0, 6)]

    rows = pool_clips(BASELINES["linear, mean over time"], clips)

    np.testing.assert_allclose(rows**2, [[1.5], [3], [2]], rtol=1e-6)
