"""Temperatures whose value is known, and what they may not change."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.temporal.calibration import COLDEST, HOTTEST, fit_temperature, softmax


def two_labels(margin: float, right: int, wrong: int):
    """Logits (n, 2) that prefer label 0 by a margin, and how often that is right."""
    logits = np.tile([margin, 0.0], (right + wrong, 1))
    return logits, np.array([0] * right + [1] * wrong)


def expected_temperature(margin: float, right: int, wrong: int) -> float:
    """
    The temperature at which the claim σ(margin / T) is the mean target.

    Each target is 1 − d where the label is right and d where it is not, d = 1 / (n + 2).
    """
    count = right + wrong
    doubt = 1 / (count + 2)
    claim = (right * (1 - doubt) + wrong * doubt) / count
    return margin / math.log(claim / (1 - claim))


class TestSoftmax:
    def test_rows_are_probabilities(self):
        found = softmax(np.log([[1.0, 3.0], [2.0, 2.0]]))

        np.testing.assert_allclose(found, [[0.25, 0.75], [0.5, 0.5]])

    def test_large_logits_do_not_overflow(self):
        assert softmax(np.array([[1e4, 0.0, -1e4]])).tolist() == [[1, 0, 0]]


class TestTemperature:
    @pytest.mark.parametrize(
        ("margin", "right", "wrong"), [(2.0, 8, 2), (6.0, 8, 2), (0.3, 30, 10), (5.0, 20, 0)]
    )
    def test_is_where_the_claim_is_the_share_that_is_right(self, margin, right, wrong):
        logits, labels = two_labels(margin, right, wrong)

        found = fit_temperature(logits, labels)

        assert found == pytest.approx(expected_temperature(margin, right, wrong), rel=1e-9)

    def test_logits_of_twice_the_size_have_twice_the_temperature(self):
        chance = np.random.default_rng(0)
        logits, labels = chance.normal(size=(50, 4)), chance.integers(0, 4, 50)
        logits[np.arange(50), labels] += 1

        one, two = fit_temperature(logits, labels), fit_temperature(2 * logits, labels)

        assert two == pytest.approx(2 * one, rel=1e-9)

    def test_what_is_added_to_all_logits_changes_nothing(self):
        logits, labels = two_labels(3.0, 7, 3)

        assert fit_temperature(logits + 1000, labels) == pytest.approx(
            fit_temperature(logits, labels)
        )

    def test_labels_drawn_from_the_scores_have_a_temperature_of_one(self):
        chance = np.random.default_rng(3)
        logits = chance.normal(size=(20_000, 3)) * 2
        drawn = softmax(logits).cumsum(1) > chance.random((20_000, 1))

        assert fit_temperature(logits, drawn.argmax(1)) == pytest.approx(1, abs=0.03)

    def test_a_single_clip_leaves_doubt(self):
        """Doubt of 1 / 3: the claim becomes 2 / 3 and not 1."""
        logits, labels = two_labels(2.0, 1, 0)

        assert fit_temperature(logits, labels) == pytest.approx(2 / math.log(2))

    def test_what_is_never_right_is_as_hot_as_can_be(self):
        logits, labels = two_labels(2.0, 0, 10)

        assert fit_temperature(logits, labels) == pytest.approx(HOTTEST)

    def test_tiny_logits_that_are_right_are_as_cold_as_can_be(self):
        logits, labels = two_labels(1e-4, 10, 0)

        assert fit_temperature(logits, labels) == pytest.approx(COLDEST)

    def test_no_clips_leave_logits_alone(self):
        assert fit_temperature(np.zeros((0, 3)), np.zeros(0, np.int64)) == 1


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros(3), np.zeros(3, np.int64), r"logits must be \(n, K\).*\(3,\) and \(3,\)"),
        (np.zeros((3, 2)), np.zeros(2, np.int64), r"got \(3, 2\) and \(2,\)"),
        (np.array([[0.0, np.nan]]), np.zeros(1, np.int64), "logits must be finite numbers"),
    ],
)
def test_temperature_fails(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(logits, labels)
