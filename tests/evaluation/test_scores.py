"""Metrics of methods, against values computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from pipeline.evaluation.predictions import MODEL, PRIOR, SHUFFLED_FRAMES, Predictions
from pipeline.evaluation.scores import (
    ClipMetrics,
    mean_std,
    metric_names,
    score_methods,
    score_sequences,
)
from pipeline.evaluation.segmentation import LabelledFrames, predict_most_frequent
from pipeline.temporal.batching import Examples
from tests.temporal.synthetic_clips import make_example

EXAMPLES = Examples(
    tuple(make_example(label, np.zeros((2, 1)), name=f"clip{label}") for label in (0, 0, 1, 1)),
    ("a", "b"),
)
LOG3 = math.log(3)


def predicted(clips, labels, *, method=MODEL, seed=0, fold="f", margin=LOG3, temperature=1.0):
    """Predictions; with a margin of log 3, the predicted label has the probability 3/4."""
    return Predictions(
        method, seed, fold, np.array(clips), np.eye(2)[list(labels)] * margin, temperature
    )


class TestMethods:
    def test_folds_are_scored_together(self):
        predictions = [predicted([0, 2], [0, 1], fold="1"), predicted([1, 3], [1, 1], fold="2")]

        (scores,) = score_methods(EXAMPLES, predictions)

        assert scores.confusion.tolist() == [[1, 1], [0, 2]]
        assert len(scores.seeds) == 1
        assert scores.seeds[0].accuracy == 3 / 4
        assert scores.seeds[0].macro_f1 == pytest.approx((2 / 3 + 4 / 5) / 2)
        assert scores.seeds[0].calibration_error == pytest.approx(
            0
        )  # probability 3/4, accuracy 3/4

    def test_each_seed_has_its_own_metrics(self):
        predictions = [predicted(range(4), [0, 0, 1, 1]), predicted(range(4), [0, 0, 0, 0], seed=1)]

        (scores,) = score_methods(EXAMPLES, predictions)

        assert [metrics.accuracy for metrics in scores.seeds] == [1.0, 0.5]
        assert scores.confusion.tolist() == [[2, 0], [1, 1]]
        assert scores.reliability.clips.sum() == 8

    def test_each_clip_has_a_weight_of_one(self):
        predictions = [
            predicted([0, 1, 2, 3] * 2, [0, 0, 1, 1, 1, 0, 1, 1], method=SHUFFLED_FRAMES)
        ]

        (scores,) = score_methods(EXAMPLES, predictions)

        assert scores.confusion.tolist() == [[1.5, 0.5], [0, 2]]
        assert scores.seeds[0].accuracy == 7 / 8

    def test_temperature_divides_the_logits(self):
        """σ(2 · log 3) is 9/10 before; the temperature makes it 3/4."""
        predictions = [predicted(range(4), [0, 0, 1, 0], margin=2 * LOG3, temperature=2.0)]

        (metrics,) = score_methods(EXAMPLES, predictions)[0].seeds

        assert metrics.calibration_error == pytest.approx(0)
        assert metrics.calibration_error_before == pytest.approx(9 / 10 - 3 / 4)

    def test_clips_of_folds_with_different_temperatures_are_ranked_by_probability(self):
        """By logits the wrong clip would be first; by probability it is last."""
        sure, hot = (
            predicted([0], [0], margin=1.0),
            predicted([2], [0], margin=2.0, temperature=20.0),
        )

        (metrics,) = score_methods(EXAMPLES, [sure, hot])[0].seeds

        assert metrics.mean_average_precision == 1.0

    def test_the_order_of_methods(self):
        predictions = [
            predicted(range(4), [0] * 4, method=method)
            for method in (PRIOR, SHUFFLED_FRAMES, MODEL)
        ]

        assert [v.method for v in score_methods(EXAMPLES, predictions)] == [
            MODEL,
            SHUFFLED_FRAMES,
            PRIOR,
        ]

    def test_constant_scores_are_split_between_labels(self):
        (scores,) = score_methods(
            EXAMPLES, [predicted(range(4), [0] * 4, method=PRIOR, margin=0.0)]
        )

        assert scores.seeds[0].accuracy == 0.5


class TestMeanStd:
    def test_of_several_seeds(self):
        seeds = [ClipMetrics(accuracy, 0, 0, 0, 0) for accuracy in (0.7, 0.8, 0.9)]

        mean, std = mean_std(seeds, "accuracy")

        assert (mean, std) == (pytest.approx(0.8), pytest.approx(0.1))

    def test_one_seed_has_no_standard_deviation(self):
        assert mean_std([ClipMetrics(0.7, 0, 0, 0, 0)], "accuracy") == (0.7, None)

    def test_metrics_are_named_by_their_fields(self):
        assert metric_names(ClipMetrics(0, 0, 0, 0, 0))[:2] == ["accuracy", "macro_f1"]


class TestSequences:
    video = LabelledFrames(
        "v", "id", 0, "f", np.arange(4) / 8, np.array([0, 0, 1, -1]), np.array([0, 1, 1, 1])
    )

    def test_the_model_is_compared_with_the_most_frequent_label(self):
        model, prior = score_sequences([self.video, *predict_most_frequent([self.video])])

        assert (model.method, prior.method) == (MODEL, PRIOR)
        assert model.seeds[0].frame_accuracy == pytest.approx(2 / 3)
        assert prior.seeds[0].frame_accuracy == pytest.approx(2 / 3)
        assert (model.seeds[0].edit_score, prior.seeds[0].edit_score) == (1, 0.5)

    def test_seeds_are_scored_separately(self):
        other = replace(self.video, seed=1, predicted=np.array([0, 0, 1, 0]))

        (model,) = score_sequences([self.video, other])

        assert [s.frame_accuracy for s in model.seeds] == [pytest.approx(2 / 3), 1]

    def test_without_sequences_there_are_no_scores(self):
        assert score_sequences(predict_most_frequent([])) == []
