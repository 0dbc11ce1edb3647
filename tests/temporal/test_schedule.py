"""Learning rate, class weights, validation split, early stopping."""

from __future__ import annotations

from itertools import pairwise

import pytest

from pipeline.temporal.schedule import (
    EarlyStopping,
    class_weights,
    learning_rate,
    train_validation_split,
)
from tests.temporal.synthetic_clips import make_example, rising_and_falling


class TestLearningRate:
    def test_linear_warm_up_then_cosine_decay(self):
        rates = [learning_rate(step, 12, 1 / 6) for step in range(12)]

        assert rates[:3] == [0.5, 1.0, 1.0]
        assert rates[7] == pytest.approx(0.5)  # half way down
        assert all(a > b for a, b in pairwise(rates[2:]))
        assert 0 < rates[-1] < 0.03

    def test_without_warm_up_it_starts_at_the_peak(self):
        assert learning_rate(0, 10, 0) == 1.0

    def test_warm_up_may_take_all_steps(self):
        assert [learning_rate(step, 4, 1) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


class TestClassWeights:
    def test_rare_classes_have_higher_weights(self):
        assert class_weights([0, 0, 0, 1], 2, balanced=True).tolist() == [0.5, 1.5]

    def test_all_classes_have_the_same_total_weight(self):
        labels = [0] * 10 + [1] * 5 + [2]
        weights = class_weights(labels, 3, balanced=True)

        assert [round(labels.count(n) * weights[n].item(), 4) for n in range(3)] == [
            round(10 * weights[0].item(), 4)
        ] * 3

    def test_classes_without_examples_have_weight_0(self):
        assert class_weights([0, 1], 3, balanced=True).tolist() == [1, 1, 0]

    def test_unbalanced_weights_are_1(self):
        assert class_weights([0, 0, 1], 2, balanced=False).tolist() == [1, 1]


class TestTrainValidationSplit:
    def test_groups_are_not_split(self):
        training, validation = train_validation_split(
            rising_and_falling(100, groups=20), 0.2, seed=0
        )

        assert len(validation) == 20
        assert len(training) == 80
        assert not {e.group for e in training} & {e.group for e in validation}

    def test_the_split_depends_on_the_seed(self):
        examples = rising_and_falling(100, groups=20)

        splits = [train_validation_split(examples, 0.2, seed) for seed in (1, 1, 2)]
        groups = [{e.group for e in validation} for _, validation in splits]

        assert groups[0] == groups[1] != groups[2]

    def test_every_label_keeps_training_examples(self):
        examples = [make_example(n % 2, [[0]], group=f"g{n % 2}") for n in range(8)]

        for seed in range(10):
            assert train_validation_split(examples, 0.5, seed) == (examples, [])

    def test_a_group_much_larger_than_the_share_stays_in_the_training_set(self):
        examples = [make_example(0, [[0]], group="large") for _ in range(90)]
        examples += [make_example(0, [[0]], group=f"g{n}") for n in range(10)]

        for seed in range(10):
            assert len(train_validation_split(examples, 0.1, seed)[1]) == 10

    def test_a_share_of_0_gives_no_validation_set(self):
        assert train_validation_split(rising_and_falling(8), 0, seed=0)[1] == []


def test_early_stopping_after_epochs_without_a_lower_loss():
    early_stopping = EarlyStopping(patience=2)

    improved = [early_stopping.update(loss) for loss in (3.0, 2.0, 2.0)]

    assert improved == [True, True, False]
    assert not early_stopping.should_stop
    early_stopping.update(2.5)
    assert early_stopping.should_stop
