"""Metrics of the labels of frames and of segments against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.segment_metrics import (
    FrameLabels,
    label_metrics,
    multi_label_metrics,
    segment_map,
    sequence_metrics,
)


def frames(text):
    """Labels of frames, one per letter: a is 0, b is 1, and a dot is no label."""
    return np.array([-1 if letter == "." else ord(letter) - ord("a") for letter in text])


def segmentation(*videos, background=None):
    """Compare texts of true and predicted labels; all scores are 1."""
    labels = [(frames(truth), frames(predicted)) for truth, predicted in videos]
    return sequence_metrics(
        [FrameLabels(*both, np.ones(len(both[0]))) for both in labels], background
    )


class TestSequences:
    def test_equal_labels_are_perfect(self):
        metrics = segmentation(("aabbb", "aabbb"), ("bb", "bb"))

        assert metrics.frame_accuracy == metrics.edit_score == 1
        assert metrics.f1_at_10 == metrics.f1_at_25 == metrics.f1_at_50 == 1

    def test_frames_are_counted_over_all_videos(self):
        assert segmentation(("aaaa", "aaab"), ("bb", "aa")).frame_accuracy == 3 / 6

    def test_the_edit_score_is_a_mean_over_videos(self):
        """Orders ab and aba: one insertion of three; ab and ba: two of two."""
        assert segmentation(("aabb", "aaba")).edit_score == pytest.approx(1 - 1 / 3)
        assert segmentation(("aabb", "bbaa")).edit_score == 0
        assert segmentation(("aabb", "aaba"), ("ab", "ba")).edit_score == pytest.approx(1 / 3)

    def test_the_edit_score_is_independent_of_times(self):
        assert segmentation(("abbbb", "aaaab")).edit_score == 1

    def test_segments_match_by_their_overlap(self):
        """The IoU of a is 2 / 5, that of b is 5 / 8."""
        metrics = segmentation(("aaaaabbbbb", "aabbbbbbbb"))

        assert metrics.f1_at_10 == metrics.f1_at_25 == 1
        assert metrics.f1_at_50 == pytest.approx(2 * 1 / 4)

    def test_a_segment_matches_once(self):
        """One true and three predicted segments, two with an IoU of 0.4: 2 · 1 / (1 + 3)."""
        assert segmentation(("aaaaa", "aabaa")).f1_at_25 == pytest.approx(2 / 4)

    def test_an_overlap_equal_to_the_threshold_matches(self):
        assert segmentation(("aaaa", "aabb")).f1_at_50 == pytest.approx(2 / 3)

    def test_segments_are_counted_over_all_videos(self):
        """2 · 1 / (1 + 1 + 1 + 1)."""
        assert segmentation(("aa", "aa"), ("aa", "bb")).f1_at_10 == 0.5

    def test_frames_without_a_label_are_ignored(self):
        metrics = segmentation(("aa..bb", "aabbbb"))

        assert metrics == segmentation(("aa..bb", "aa..bb"))
        assert metrics.frame_accuracy == metrics.edit_score == metrics.f1_at_50 == 1

    def test_frames_without_a_prediction_are_wrong(self):
        metrics = segmentation(("aabb", "...."))

        assert metrics.frame_accuracy == metrics.edit_score == metrics.f1_at_10 == 0

    def test_videos_without_labels_are_ignored(self):
        assert segmentation(("aab", "aab"), ("...", "bbb")) == segmentation(("aab", "aab"))

    def test_videos_without_segments_have_a_perfect_order(self):
        assert segmentation(("aa", "aa"), ("bb", "bb"), background=1).edit_score == 1
        assert segmentation(("bb", "ab"), background=1).edit_score == 0


class TestBackground:
    def test_its_segments_are_left_out_of_edit_score_and_f1(self):
        """Background b: the true segments a c, the predicted a a c: one too many of three."""
        metrics = segmentation(("bbaaaabccc", "bbabaabccc"), background=1)

        assert metrics.edit_score == pytest.approx(1 - 1 / 3)
        assert metrics.f1_at_10 == pytest.approx(2 * 2 / (2 + 3))

    def test_it_counts_in_the_accuracy(self):
        videos = [("bbaa", "abab")]

        assert segmentation(*videos, background=1).frame_accuracy == 1 / 2
        assert segmentation(*videos).frame_accuracy == 1 / 2

    def test_predictions_on_it_are_wrong(self):
        assert segmentation(("bbbbaa", "aabbaa"), background=1).f1_at_10 == pytest.approx(2 / 3)


def detected(truth, *found):
    """Compute the mAP at tIoU 0.5 of one video: segments, and detections with their scores."""
    return segment_map([truth], [list(found)], [0.5])


class TestMeanAveragePrecision:
    def test_perfect_segments(self):
        assert segmentation(("aabbcc", "aabbcc")).segment_map == 1

    def test_a_false_detection_counts_if_its_score_is_higher(self):
        """Hits are the first and third of three: precision 1 and 2 of 3, for two segments."""
        truth = [(0, 10, 0), (20, 30, 0)]
        hit, other, false = (0, 10, 0), (20, 30, 0), (40, 50, 0)

        assert detected(truth, (hit, 0.9), (false, 0.8), (other, 0.7)) == pytest.approx(
            (1 + 2 / 3) / 2
        )
        assert detected(truth, (hit, 0.9), (false, 0.6), (other, 0.7)) == 1

    def test_precision_is_interpolated(self):
        """A miss, then two hits: precision 1 / 2 and 2 / 3, so 2 / 3 for both."""
        truth = [(0, 10, 0), (20, 30, 0)]
        false, hit, other = (40, 50, 0), (0, 10, 0), (20, 30, 0)

        found = detected(truth, (false, 0.9), (hit, 0.8), (other, 0.7))

        assert found == pytest.approx(2 / 3)

    def test_a_segment_is_detected_once(self):
        """The second detection is a false one, before the third."""
        truth = [(0, 10, 0), (20, 30, 0)]

        found = detected(truth, ((0, 10, 0), 0.9), ((1, 10, 0), 0.8), ((20, 30, 0), 0.7))

        assert found == pytest.approx((1 + 2 / 3) / 2)

    def test_it_is_a_mean_over_true_labels(self):
        assert detected([(0, 9, 0), (9, 18, 1)], ((0, 9, 0), 1.0), ((30, 40, 2), 1.0)) == 0.5

    def test_it_is_a_mean_over_overlaps(self):
        """The intersection over union is 6 / 10: it holds for 0.3 to 0.6, not for 0.7."""
        assert segment_map([[(0, 10, 0)]], [[((0, 6, 0), 1.0)]]) == pytest.approx(4 / 5)

    def test_scores_of_segments_are_means_over_their_frames(self):
        labels = FrameLabels(frames("aabb"), frames("aabb"), np.array([0.2, 0.4, 1, 1]))

        assert labels.detections() == [((0, 2, 0), pytest.approx(0.3)), ((2, 4, 1), 1)]

    def test_videos_are_apart(self):
        """A detection at the time of a segment of another video is false."""
        assert segment_map([[(0, 9, 0)], []], [[], [((0, 9, 0), 1.0)]]) == 0


class TestLabels:
    def test_each_label_by_itself(self):
        """Label a: 2 of 3 predicted frames are right, of 2 true ones; b: 3 of 3, of 4."""
        videos = [FrameLabels(frames("aabbbb.c"), frames("aaabbbbd"), np.ones(8))]

        a, b, c, d = label_metrics(videos, 4)

        assert (a.frame_precision, a.frame_recall) == (pytest.approx(2 / 3), 1)
        assert a.frame_f1 == pytest.approx(4 / 5)
        assert (b.frame_precision, b.frame_recall) == (1, 3 / 4)
        assert (a.f1_at_50, b.f1_at_50) == (1, 1)
        assert [one.segments for one in (a, b, c, d)] == [1, 1, 1, 0]
        assert c.frame_f1 == c.f1_at_50 == d.frame_f1 == d.f1_at_50 == 0

    def test_several_labels_at_once(self):
        target = np.array([[1, 0], [1, 1], [0, 1], [-1, -1]])
        predicted = np.array([[1, 0], [1, 0], [1, 1], [1, 1]])

        first, second = label_metrics([FrameLabels(target, predicted, predicted * 1.0)], 2)

        assert (first.frame_precision, first.frame_recall) == (pytest.approx(2 / 3), 1)
        assert (second.frame_precision, second.frame_recall) == (1, 1 / 2)
        assert first.f1_at_50 == 1


class TestMultiLabel:
    target = np.array([[1, 0], [1, 1], [0, 1], [0, 1]])

    def test_perfect_labels(self):
        metrics = multi_label_metrics([FrameLabels(self.target, self.target, self.target * 1.0)])

        assert metrics.frame_f1 == metrics.frame_map == metrics.f1_at_50 == metrics.segment_map == 1

    def test_each_label_counts_the_same(self):
        """Label 0: one hit of 2 true and 1 predicted frames; label 1: all correct."""
        predicted = np.array([[1, 0], [0, 1], [0, 1], [0, 1]])
        scores = np.array([[0.9, 0.1], [0.2, 0.9], [0.4, 0.9], [0.1, 0.9]])
        metrics = multi_label_metrics([FrameLabels(self.target, predicted, scores)])

        assert metrics.frame_f1 == pytest.approx((2 / 3 + 1) / 2)
        assert metrics.frame_map == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
        assert metrics.f1_at_50 == 1
        assert metrics.segment_map == pytest.approx((3 / 5 + 1) / 2)  # 0.5 of label 0 until 0.5

    def test_frames_without_labels_are_ignored(self):
        longer = np.concatenate([self.target, np.full((3, 2), -1)])
        predicted = np.concatenate([self.target, np.ones((3, 2), np.int64)])
        metrics = multi_label_metrics([FrameLabels(longer, predicted, predicted * 1.0)])

        expected = multi_label_metrics([FrameLabels(self.target, self.target, self.target * 1.0)])
        assert metrics == expected


def distance(one, other):
    """Levenshtein distance by its recursive definition."""
    if not one or not other:
        return len(one) + len(other)
    return min(
        distance(one[1:], other) + 1,
        distance(one, other[1:]) + 1,
        distance(one[1:], other[1:]) + (one[0] != other[0]),
    )


def segment_labels(text):
    return [letter for n, letter in enumerate(text) if n == 0 or text[n - 1] != letter]


@given(st.text("abc", min_size=6, max_size=6), st.text("abc", min_size=6, max_size=6))
@settings(max_examples=60, deadline=None)
def test_the_edit_score_matches_its_definition(truth, predicted):
    one, other = segment_labels(truth), segment_labels(predicted)

    expected = 1 - distance(one, other) / max(len(one), len(other))

    assert segmentation((truth, predicted)).edit_score == pytest.approx(expected)
