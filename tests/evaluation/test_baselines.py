"""Vectors worked out by hand, and a regression held against what defines its optimum."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.evaluation.baselines import (
    BASELINES,
    SLACK,
    change_pyramid,
    fit_linear,
    mean_over_time,
    prior_logits,
    read_clips,
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

    def test_does_not_know_the_order(self):
        x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)

        np.testing.assert_allclose(mean_over_time(x[::-1]), mean_over_time(x), atol=1e-7)


class TestPyramid:
    def test_tells_what_grows_and_shrinks_in_each_part(self):
        """Changes are +2, −4, +6, 0, −1, −3: means over six, then over thirds of two."""
        x = frames(0, 2, -2, 4, 4, 3, 0)

        whole, first, second, third = (8 / 6, 8 / 6), (2 / 2, 4 / 2), (6 / 2, 0), (0, 4 / 2)

        expected = np.sqrt([*whole, *first, *second, *third])
        assert change_pyramid(x) == pytest.approx(expected)

    def test_features_stand_beside_each_other(self):
        x = np.array([[0, 0], [1, -4]], np.float32)

        grown, shrunk = change_pyramid(x)[:2], change_pyramid(x)[2:4]

        assert grown.tolist() == [1, 0]
        assert shrunk.tolist() == [0, 2]
        assert change_pyramid(x).shape == (8 * 2,)

    @pytest.mark.parametrize("x", [frames(5), frames(5, 5, 5, 5), np.zeros((0, 1), np.float32)])
    def test_without_changes_it_is_nothing(self, x):
        assert change_pyramid(x).tolist() == [0] * 8

    def test_a_part_without_changes_is_nothing(self):
        """One change alone: the thirds are empty, empty, and it."""
        assert change_pyramid(frames(1, 3)) == pytest.approx([ROOT2, 0, 0, 0, 0, 0, ROOT2, 0])

    def test_knows_which_way_time_runs(self):
        x = frames(0, 1, 2, 3)

        assert change_pyramid(x[::-1])[:2].tolist() == change_pyramid(x)[1::-1].tolist() == [0, 1]


def blobs(count=60, size=5, labels=3):
    chance = np.random.default_rng(1)
    wanted = np.arange(count) % labels
    centres = chance.normal(size=(labels, size)) * 2
    return centres[wanted] + chance.normal(size=(count, size)), wanted


class TestLinear:
    def test_separates_what_can_be_separated(self):
        vectors, labels = blobs()
        linear = fit_linear(vectors * 10, labels, 3)

        assert (linear.logits(vectors * 10).argmax(1) == labels).mean() > 0.95

    def test_is_at_the_optimum(self):
        """There the slack times the errors, seen through the vectors, are the weights."""
        vectors, labels = blobs()
        linear = fit_linear(vectors, labels, 3)

        errors = np.eye(3)[labels] - softmax(linear.logits(vectors))
        prepared = (vectors - linear.mean) * linear.scale

        np.testing.assert_allclose(SLACK * prepared.T @ errors, linear.weights, atol=1e-4)
        np.testing.assert_allclose(errors.sum(0), 0, atol=1e-6)

    def test_more_features_than_clips_are_no_matter(self):
        vectors, labels = blobs(12, 300)
        linear = fit_linear(vectors, labels, 3)

        errors = np.eye(3)[labels] - softmax(linear.logits(vectors))
        prepared = (vectors - linear.mean) * linear.scale

        assert linear.weights.shape == (300, 3)
        np.testing.assert_allclose(SLACK * prepared.T @ errors, linear.weights, atol=1e-4)

    def test_vectors_have_a_mean_squared_length_of_one(self):
        vectors, labels = blobs()
        linear = fit_linear(vectors * 50 + 7, labels, 3)

        prepared = (vectors * 50 + 7 - linear.mean) * linear.scale

        assert (prepared**2).sum(1).mean() == pytest.approx(1)

    def test_the_unit_of_a_feature_is_no_matter(self):
        vectors, labels = blobs()
        other = vectors * [1, 1000, 1e-3, 5, 1] + 3

        one, two = fit_linear(vectors, labels, 3), fit_linear(other, labels, 3)

        np.testing.assert_allclose(two.logits(other), one.logits(vectors), atol=1e-4)

    def test_a_feature_that_never_varies_is_left_out(self):
        """Also where rounding makes a mean that is not quite the constant."""
        vectors, labels = blobs()
        constant = np.full((len(vectors), 1), 0.1)

        linear = fit_linear(np.hstack([vectors, constant]), labels, 3)
        alone = fit_linear(vectors, labels, 3)

        assert linear.scale[-1] == 0
        elsewhere = np.hstack([vectors, constant + 99])
        np.testing.assert_allclose(linear.logits(elsewhere), alone.logits(vectors), atol=1e-5)

    def test_without_anything_that_varies_it_knows_frequencies(self):
        linear = fit_linear(np.ones((4, 2)), np.array([0, 0, 0, 1]), 2)

        assert softmax(linear.logits(np.ones((1, 2))))[0] == pytest.approx([0.75, 0.25], abs=1e-4)


class TestPrior:
    def test_scores_are_frequencies(self):
        logits = prior_logits(np.array([0, 0, 0, 2]), 3)

        np.testing.assert_allclose(np.exp(logits), [0.75, 0, 0.25], atol=1e-8)

    def test_without_clips_all_labels_are_alike(self):
        assert len(set(prior_logits(np.zeros(0, np.int64), 3).tolist())) == 1


def test_clips_become_rows():
    clips = [frames(1, 2), frames(3), frames(0, 0, 6)]

    rows = read_clips(BASELINES["linear, mean over time"], clips)

    np.testing.assert_allclose(rows**2, [[1.5], [3], [2]], rtol=1e-6)
