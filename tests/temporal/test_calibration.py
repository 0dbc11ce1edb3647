"""Temperature scaling: cases with a known optimum, and invariances."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.temporal.calibration import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    fit_binary_temperature,
    fit_temperature,
    fit_thresholds,
    softmax,
)


def two_labels(margin: float, correct: int, wrong: int):
    """Logits (n, 2) that prefer label 0 by a margin, and the true labels."""
    logits = np.tile([margin, 0.0], (correct + wrong, 1))
    return logits, np.array([0] * correct + [1] * wrong)


def expected_temperature(margin: float, correct: int, wrong: int) -> float:
    """
    The temperature at which the score σ(margin / T) is the mean target.

    Targets are 1 − e for correct and e for wrong labels, e = 1 / (n + 2).
    """
    count = correct + wrong
    error = 1 / (count + 2)
    score = (correct * (1 - error) + wrong * error) / count
    return margin / math.log(score / (1 - score))


class TestSoftmax:
    def test_rows_are_probabilities(self):
        found = softmax(np.log([[1.0, 3.0], [2.0, 2.0]]))

        np.testing.assert_allclose(found, [[0.25, 0.75], [0.5, 0.5]])

    def test_large_logits_do_not_overflow(self):
        assert softmax(np.array([[1e4, 0.0, -1e4]])).tolist() == [[1, 0, 0]]


class TestTemperature:
    @pytest.mark.parametrize(
        ("margin", "correct", "wrong"), [(2.0, 8, 2), (6.0, 8, 2), (0.3, 30, 10), (5.0, 20, 0)]
    )
    def test_the_mean_score_is_the_smoothed_accuracy(self, margin, correct, wrong):
        logits, labels = two_labels(margin, correct, wrong)

        found = fit_temperature(logits, labels)

        assert found == pytest.approx(expected_temperature(margin, correct, wrong), rel=1e-9)

    def test_doubled_logits_have_a_doubled_temperature(self):
        rng = np.random.default_rng(0)
        logits, labels = rng.normal(size=(50, 4)), rng.integers(0, 4, 50)
        logits[np.arange(50), labels] += 1

        one, two = fit_temperature(logits, labels), fit_temperature(2 * logits, labels)

        assert two == pytest.approx(2 * one, rel=1e-9)

    def test_a_constant_added_to_all_logits_changes_nothing(self):
        logits, labels = two_labels(3.0, 7, 3)

        assert fit_temperature(logits + 1000, labels) == pytest.approx(
            fit_temperature(logits, labels)
        )

    def test_labels_sampled_from_the_scores_have_a_temperature_of_1(self):
        rng = np.random.default_rng(3)
        logits = rng.normal(size=(20_000, 3)) * 2
        reached = softmax(logits).cumsum(1) > rng.random((20_000, 1))

        assert fit_temperature(logits, reached.argmax(1)) == pytest.approx(1, abs=0.03)

    def test_the_target_of_a_single_clip_is_smoothed(self):
        """The target is 2 / 3, not 1."""
        logits, labels = two_labels(2.0, 1, 0)

        assert fit_temperature(logits, labels) == pytest.approx(2 / math.log(2))

    def test_the_temperature_has_an_upper_limit(self):
        logits, labels = two_labels(2.0, 0, 10)

        assert fit_temperature(logits, labels) == pytest.approx(MAX_TEMPERATURE)

    def test_the_temperature_has_a_lower_limit(self):
        logits, labels = two_labels(1e-4, 10, 0)

        assert fit_temperature(logits, labels) == pytest.approx(MIN_TEMPERATURE)

    def test_the_temperature_of_no_clips_is_1(self):
        assert fit_temperature(np.zeros((0, 3)), np.zeros(0, np.int64)) == 1


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros(3), np.zeros(3, np.int64), r"logits must be \(n, K\).*\(3,\) and \(3,\)"),
        (np.zeros((3, 2)), np.zeros(2, np.int64), r"got \(3, 2\) and \(2,\)"),
        (np.array([[0.0, np.nan]]), np.zeros(1, np.int64), "logits must be finite"),
    ],
)
def test_temperature_fails(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(logits, labels)


class TestThresholds:
    def test_they_give_the_highest_f1(self):
        logits = np.array([[2.0, -3], [1, -1], [-1, -2], [-2, -4]])
        targets = np.array([[1, 0], [1, 1], [0, 1], [0, 0]])
        probabilities = 1 / (1 + np.exp(-logits))
        thresholds = fit_thresholds(logits, targets)

        assert ((probabilities >= thresholds) == targets).all()

    def test_labels_that_no_row_or_every_row_has_keep_one_half(self):
        logits = np.array([[2.0, -3], [1, -1]])

        assert fit_thresholds(logits, np.array([[1, 0], [1, 0]])) == (0.5, 0.5)
        assert fit_thresholds(np.zeros((0, 3)), np.zeros((0, 3))) == (0.5, 0.5, 0.5)

    def test_the_temperature_of_independent_labels(self):
        rng = np.random.default_rng(0)
        logits = rng.normal(size=(4000, 2)) * 2
        targets = (rng.random((4000, 2)) < 1 / (1 + np.exp(-logits))).astype(np.int64)

        assert fit_binary_temperature(3 * logits, targets) == pytest.approx(3, rel=0.1)

    def test_targets_of_another_shape_fail(self):
        with pytest.raises(ValueError, match=r"must be \(n, K\), got \(2, 2\) and \(2,\)"):
            fit_thresholds(np.zeros((2, 2)), np.zeros(2, np.int64))
