"""Figures against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.metrics import (
    accuracy,
    class_figures,
    confusion,
    macro_f1,
    mean_average_precision,
    reliability,
    sequence_figures,
)

TRUTH = np.array([0, 0, 0, 1, 1, 2])
SCORES = np.eye(4)[[0, 0, 1, 1, 2, 1]]
"""Of four labels the last does not occur; 3 of 6 clips are right."""


def spell(text):
    """Labels of frames, one a letter: a is 0, b is 1, and a dot is not labelled."""
    return np.array([-1 if letter == "." else ord(letter) - ord("a") for letter in text])


def judge(*videos):
    return sequence_figures([(spell(truth), spell(said)) for truth, said in videos])


class TestConfusion:
    def test_rows_are_truth_and_columns_are_answers(self):
        expected = [[2, 1, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]

        assert confusion(TRUTH, SCORES).tolist() == expected

    def test_labels_of_one_score_share_the_clip(self):
        scores = np.array([[1.0, 1.0, 0.0], [2.0, 2.0, 2.0]])

        counts = confusion(np.array([0, 2]), scores)

        assert counts[0].tolist() == [0.5, 0.5, 0]
        assert counts[2] == pytest.approx([1 / 3] * 3)

    def test_constant_scores_are_right_by_chance(self):
        counts = confusion(np.array([0, 0, 0, 1]), np.zeros((4, 5)))

        assert accuracy(counts) == pytest.approx(1 / 5)


class TestClasses:
    counts = confusion(TRUTH, SCORES)

    def test_accuracy_is_the_diagonal(self):
        assert accuracy(self.counts) == 3 / 6

    def test_figures_of_each_label(self):
        figures = class_figures(self.counts)

        assert figures.precision == pytest.approx([1, 1 / 3, 0, 0])
        assert figures.recall == pytest.approx([2 / 3, 1 / 2, 0, 0])
        assert figures.f1 == pytest.approx([4 / 5, 2 / 5, 0, 0])
        assert figures.clips.tolist() == [3, 2, 1, 0]

    def test_macro_f1_leaves_out_a_label_that_never_occurs(self):
        assert macro_f1(self.counts) == pytest.approx((4 / 5 + 2 / 5 + 0) / 3)

    def test_macro_f1_counts_a_label_that_was_only_said(self):
        """A truth without b, of which b was said once: a has 2 · 1 / (1 + 2)."""
        counts = confusion(np.array([0, 0]), np.eye(2))

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
    def test_clips_are_sorted_by_what_they_claim(self):
        """Bins of a half: 0.5 is in the first, 0.6 and 0.8 in the second."""
        probabilities = np.array([[0.5, 0.25, 0.25], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8]])

        bins = reliability(np.array([0, 0, 2]), probabilities, bins=2)

        assert bins.clips.tolist() == [1, 2]
        assert bins.confidence == pytest.approx([0.5, 0.7])
        assert bins.accuracy == pytest.approx([1, 0.5])
        assert bins.error == pytest.approx((1 * 0.5 + 2 * 0.2) / 3)

    def test_an_empty_bin_counts_nothing(self):
        bins = reliability(np.array([0]), np.array([[1.0, 0.0]]), bins=4)

        assert bins.clips.tolist() == [0, 0, 0, 1]
        assert bins.accuracy.tolist() == bins.confidence.tolist() == [0, 0, 0, 1]
        assert bins.error == 0

    def test_who_is_sure_and_wrong_errs_by_all_of_it(self):
        assert reliability(np.array([1]), np.array([[1.0, 0.0]])).error == 1


class TestSequences:
    def test_the_same_labels_are_perfect(self):
        figures = judge(("aabbb", "aabbb"), ("bb", "bb"))

        assert figures.frame_accuracy == figures.edit_score == 1
        assert figures.f1_at_10 == figures.f1_at_25 == figures.f1_at_50 == 1

    def test_frames_are_counted_over_all_videos(self):
        assert judge(("aaaa", "aaab"), ("bb", "aa")).frame_accuracy == 3 / 6

    def test_the_edit_score_is_a_mean_over_videos(self):
        """Orders ab and aba: one insertion of three; ab and ba: two of two."""
        assert judge(("aabb", "aaba")).edit_score == pytest.approx(1 - 1 / 3)
        assert judge(("aabb", "bbaa")).edit_score == 0
        assert judge(("aabb", "aaba"), ("ab", "ba")).edit_score == pytest.approx(1 / 3)

    def test_the_edit_score_sees_no_times(self):
        assert judge(("abbbb", "aaaab")).edit_score == 1

    def test_segments_are_found_by_their_overlap(self):
        """Of a, 2 of 5 frames are common: 0.4; of b, 5 of 8: 0.625."""
        figures = judge(("aaaaabbbbb", "aabbbbbbbb"))

        assert figures.f1_at_10 == figures.f1_at_25 == 1
        assert figures.f1_at_50 == pytest.approx(2 * 1 / 4)

    def test_a_segment_is_found_once(self):
        """One segment there, two claims of it, each 0.4 of it: 2 · 1 / (1 + 3)."""
        assert judge(("aaaaa", "aabaa")).f1_at_25 == pytest.approx(2 / 4)

    def test_an_overlap_of_exactly_the_share_is_enough(self):
        assert judge(("aaaa", "aabb")).f1_at_50 == pytest.approx(2 / 3)

    def test_segments_of_videos_are_added_up(self):
        """2 · 1 / (1 + 1 + 1 + 1)."""
        assert judge(("aa", "aa"), ("aa", "bb")).f1_at_10 == 0.5

    def test_frames_without_a_label_count_nowhere(self):
        figures = judge(("aa..bb", "aabbbb"))

        assert figures == judge(("aa..bb", "aa..bb"))
        assert figures.frame_accuracy == figures.edit_score == figures.f1_at_50 == 1

    def test_saying_nothing_is_wrong(self):
        figures = judge(("aabb", "...."))

        assert figures.frame_accuracy == figures.edit_score == figures.f1_at_10 == 0

    def test_a_video_without_labels_counts_nowhere(self):
        assert judge(("aab", "aab"), ("...", "bbb")) == judge(("aab", "aab"))


def distance(one, other):
    """Levenshtein distance, as it is defined."""
    if not one or not other:
        return len(one) + len(other)
    return min(
        distance(one[1:], other) + 1,
        distance(one, other[1:]) + 1,
        distance(one[1:], other[1:]) + (one[0] != other[0]),
    )


def orders(text):
    return [letter for n, letter in enumerate(text) if n == 0 or text[n - 1] != letter]


@given(st.text("abc", min_size=6, max_size=6), st.text("abc", min_size=6, max_size=6))
@settings(max_examples=60, deadline=None)
def test_the_edit_score_is_that_of_the_definition(truth, said):
    there, claims = orders(truth), orders(said)

    expected = 1 - distance(there, claims) / max(len(there), len(claims))

    assert judge((truth, said)).edit_score == pytest.approx(expected)
