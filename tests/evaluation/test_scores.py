"""From answers to figures, worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from pipeline.evaluation.predictions import CHANCE, MODEL, SHUFFLED, Answers
from pipeline.evaluation.scores import (
    Figures,
    figure_names,
    judge,
    judge_sequences,
    over_seeds,
)
from pipeline.evaluation.segmentation import LabelledFrames
from pipeline.temporal.batching import Examples
from tests.temporal.synthetic_clips import make_example

EXAMPLES = Examples(
    tuple(make_example(label, np.zeros((2, 1)), name=f"clip{label}") for label in (0, 0, 1, 1)),
    ("a", "b"),
)
LOG3 = math.log(3)


def says(clips, labels, *, method=MODEL, seed=0, fold="f", margin=LOG3, temperature=1.0):
    """Answers whose best label has 3/4 where the margin is log 3."""
    return Answers(
        method, seed, fold, np.array(clips), np.eye(2)[list(labels)] * margin, temperature
    )


class TestJudge:
    def test_folds_are_judged_together(self):
        answers = [says([0, 2], [0, 1], fold="1"), says([1, 3], [1, 1], fold="2")]

        (verdict,) = judge(EXAMPLES, answers)

        assert verdict.confusion.tolist() == [[1, 1], [0, 2]]
        assert len(verdict.seeds) == 1
        assert verdict.seeds[0].accuracy == 3 / 4
        assert verdict.seeds[0].macro_f1 == pytest.approx((2 / 3 + 4 / 5) / 2)
        assert verdict.seeds[0].calibration_error == pytest.approx(0)  # 3/4 claimed, 3/4 right

    def test_each_seed_has_figures_of_its_own(self):
        answers = [says(range(4), [0, 0, 1, 1]), says(range(4), [0, 0, 0, 0], seed=1)]

        (verdict,) = judge(EXAMPLES, answers)

        assert [figures.accuracy for figures in verdict.seeds] == [1.0, 0.5]
        assert verdict.confusion.tolist() == [[2, 0], [1, 1]]
        assert verdict.reliability.clips.sum() == 8

    def test_a_clip_counts_once_however_often_it_was_asked_about(self):
        answers = [says([0, 1, 2, 3] * 2, [0, 0, 1, 1, 1, 0, 1, 1], method=SHUFFLED)]

        (verdict,) = judge(EXAMPLES, answers)

        assert verdict.confusion.tolist() == [[1.5, 0.5], [0, 2]]
        assert verdict.seeds[0].accuracy == 7 / 8

    def test_temperature_divides_the_logits(self):
        """σ(2 · log 3) is 9/10 before; the temperature makes it 3/4."""
        answers = [says(range(4), [0, 0, 1, 0], margin=2 * LOG3, temperature=2.0)]

        (figures,) = judge(EXAMPLES, answers)[0].seeds

        assert figures.calibration_error == pytest.approx(0)
        assert figures.calibration_error_before == pytest.approx(9 / 10 - 3 / 4)

    def test_folds_of_different_temperatures_are_ranked_by_probabilities(self):
        """By its logits the wrong clip would come first; by its probability it is last."""
        sure, hot = says([0], [0], margin=1.0), says([2], [0], margin=2.0, temperature=20.0)

        (figures,) = judge(EXAMPLES, [sure, hot])[0].seeds

        assert figures.mean_average_precision == 1.0

    def test_methods_come_in_the_order_of_the_page(self):
        answers = [says(range(4), [0] * 4, method=method) for method in (CHANCE, SHUFFLED, MODEL)]

        assert [v.method for v in judge(EXAMPLES, answers)] == [MODEL, SHUFFLED, CHANCE]

    def test_constant_scores_are_a_guess(self):
        (verdict,) = judge(EXAMPLES, [says(range(4), [0] * 4, method=CHANCE, margin=0.0)])

        assert verdict.seeds[0].accuracy == 0.5


class TestOverSeeds:
    def test_gives_mean_and_spread(self):
        seeds = [Figures(accuracy, 0, 0, 0, 0) for accuracy in (0.7, 0.8, 0.9)]

        mean, spread = over_seeds(seeds, "accuracy")

        assert (mean, spread) == (pytest.approx(0.8), pytest.approx(0.1))

    def test_one_seed_has_no_spread(self):
        assert over_seeds([Figures(0.7, 0, 0, 0, 0)], "accuracy") == (0.7, None)

    def test_figures_are_named_by_their_fields(self):
        assert figure_names(Figures(0, 0, 0, 0, 0))[:2] == ["accuracy", "macro_f1"]


class TestSequences:
    video = LabelledFrames(
        "v", "id", 0, "f", np.arange(4) / 8, np.array([0, 0, 1, -1]), np.array([0, 1, 1, 1])
    )

    def test_the_model_stands_beside_the_most_frequent_label(self):
        model, chance = judge_sequences([self.video])

        assert (model.method, chance.method) == (MODEL, CHANCE)
        assert model.seeds[0].frame_accuracy == pytest.approx(2 / 3)
        assert chance.seeds[0].frame_accuracy == pytest.approx(2 / 3)
        assert (model.seeds[0].edit_score, chance.seeds[0].edit_score) == (1, 0.5)

    def test_seeds_are_judged_apart(self):
        other = replace(self.video, seed=1, said=np.array([0, 0, 1, 0]))

        model, chance = judge_sequences([self.video, other])

        assert [s.frame_accuracy for s in model.seeds] == [pytest.approx(2 / 3), 1]
        assert len(chance.seeds) == 1

    def test_without_sequences_there_is_nothing_to_say(self):
        assert judge_sequences([]) == []
