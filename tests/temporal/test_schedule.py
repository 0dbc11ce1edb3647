"""Learning rates, weights of labels, groups held back, patience."""

from __future__ import annotations

from itertools import pairwise

import pytest

from pipeline.temporal.schedule import Patience, class_weights, hold_back, learning_rate
from tests.temporal.lessons import make_example, rises_and_falls


class TestLearningRate:
    def test_it_grows_in_a_line_then_falls_along_half_a_cosine(self):
        rates = [learning_rate(step, 12, 1 / 6) for step in range(12)]

        assert rates[:3] == [0.5, 1.0, 1.0]
        assert rates[7] == pytest.approx(0.5)  # half way down
        assert all(a > b for a, b in pairwise(rates[2:]))
        assert 0 < rates[-1] < 0.03

    def test_without_a_warm_up_it_begins_at_the_top(self):
        assert learning_rate(0, 10, 0) == 1.0

    def test_a_warm_up_may_be_all_there_is(self):
        assert [learning_rate(step, 4, 1) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


class TestClassWeights:
    def test_rare_labels_weigh_more(self):
        assert class_weights([0, 0, 0, 1], 2, balanced=True).tolist() == [0.5, 1.5]

    def test_all_labels_together_weigh_the_same(self):
        labels = [0] * 10 + [1] * 5 + [2]
        weights = class_weights(labels, 3, balanced=True)

        assert [round(labels.count(n) * weights[n].item(), 4) for n in range(3)] == [
            round(10 * weights[0].item(), 4)
        ] * 3

    def test_labels_that_do_not_occur_weigh_nothing(self):
        assert class_weights([0, 1], 3, balanced=True).tolist() == [1, 1, 0]

    def test_it_can_be_left(self):
        assert class_weights([0, 0, 1], 2, balanced=False).tolist() == [1, 1]


class TestHoldBack:
    def test_whole_groups_of_about_the_share_are_held_back(self):
        learned, held = hold_back(rises_and_falls(100, groups=20), 0.2, seed=0)

        assert len(held) == 20
        assert len(learned) == 80
        assert not {e.group for e in learned} & {e.group for e in held}

    def test_the_seed_decides_which(self):
        examples = rises_and_falls(100, groups=20)

        held = [{e.group for e in hold_back(examples, 0.2, seed)[1]} for seed in (1, 1, 2)]

        assert held[0] == held[1] != held[2]

    def test_no_label_is_lost(self):
        examples = [make_example(n % 2, [[0]], group=f"g{n % 2}") for n in range(8)]

        for seed in range(10):
            assert hold_back(examples, 0.5, seed) == (examples, [])

    def test_a_group_that_is_far_too_large_is_not_held_back(self):
        examples = [make_example(0, [[0]], group="large") for _ in range(90)]
        examples += [make_example(0, [[0]], group=f"g{n}") for n in range(10)]

        for seed in range(10):
            assert len(hold_back(examples, 0.1, seed)[1]) == 10

    def test_nothing_is_held_back_of_no_share(self):
        assert hold_back(rises_and_falls(8), 0, seed=0)[1] == []


def test_patience_ends_after_epochs_that_were_not_better():
    patience = Patience(2)

    told = [patience.better(loss) for loss in (3.0, 2.0, 2.0)]

    assert told == [True, True, False]
    assert not patience.over
    patience.better(2.5)
    assert patience.over
