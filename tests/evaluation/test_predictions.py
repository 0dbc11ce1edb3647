"""Methods that are asked about clips, and what robbing them of time takes away."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.evaluation.baselines import (
    BASELINES,
    fit_logistic_regression,
    pool_clips,
    temporal_pyramid,
)
from pipeline.evaluation.cross_validation import Fold, group_folds
from pipeline.evaluation.predictions import (
    CHANCE,
    METHODS,
    MODEL,
    SHUFFLED,
    SHUFFLES,
    STILL,
    Answers,
    ask_baselines,
    ask_model,
    cross_validate,
    hold_frame,
    shuffle_frames,
    train_fold,
)
from pipeline.temporal.batching import Examples
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import TemporalOptions, TrainingOptions
from pipeline.temporal.trainer import TrainingResult, predict
from tests.temporal.synthetic_clips import make_example, rising_and_falling

GRU = TemporalOptions(cell="gru", size=16, pooling="last")
QUICK = TrainingOptions(epochs=12, learning_rate=1e-2, device="cpu", validation=0)
NUMBERED = make_example(
    1, np.arange(8)[:, None], mask=[False, True, True, True, True, True, False, True]
)
"""Each frame holds its number; 0 and 6 do not count."""


def material(count=48):
    return Examples(tuple(rising_and_falling(count)), ("falls", "rises"))


def leave_one_out(examples):
    labels = [examples.labels[item.label] for item in examples.items]
    return group_folds([item.group for item in examples.items], labels, 0)


def share_right(examples, answers):
    truth = np.array([item.label for item in examples.items])
    return (answers.logits.argmax(1) == truth[answers.clips]).mean()


class TestFrames:
    def test_those_that_count_are_shuffled_and_no_others(self):
        mixed = shuffle_frames(NUMBERED, np.random.default_rng(0)).features[:, 0]

        assert (mixed[0], mixed[6]) == (0, 6)
        assert sorted(mixed) == list(range(8))
        assert mixed.tolist() != list(range(8))

    def test_every_order_is_drawn_anew(self):
        chance = np.random.default_rng(0)
        orders = {tuple(shuffle_frames(NUMBERED, chance).features[:, 0]) for _ in range(20)}

        assert len(orders) > 15

    def test_the_middle_one_is_held(self):
        """Those that count are 1, 2, 3, 4, 5 and 7: after half of them comes 4."""
        held = hold_frame(NUMBERED)

        assert held.features[:, 0].tolist() == [0, 4, 4, 4, 4, 4, 6, 4]
        assert held.mask.tolist() == NUMBERED.mask.tolist()

    def test_the_clip_itself_stays_as_it_was(self):
        shuffle_frames(NUMBERED, np.random.default_rng(0))
        hold_frame(NUMBERED)

        assert NUMBERED.features[:, 0].tolist() == list(range(8))

    def test_a_clip_whose_frames_do_not_count_stays_as_it_is(self):
        nothing = replace(NUMBERED, mask=np.zeros(8, np.bool_))

        assert hold_frame(nothing).features.tolist() == NUMBERED.features.tolist()
        shuffled = shuffle_frames(nothing, np.random.default_rng(0))
        assert shuffled.features.tolist() == NUMBERED.features.tolist()


class TestModel:
    def test_is_asked_three_ways(self):
        examples = material(8)
        fold = Fold("f", (), np.arange(4), np.array([5, 7, 6]))
        model = TemporalModel(2, 2, GRU).eval()

        plain, mixed, still = ask_model(examples, fold, TrainingResult(model, 2.5, ()), 4)

        assert [a.method for a in (plain, mixed, still)] == [MODEL, SHUFFLED, STILL]
        assert {(a.seed, a.fold, a.temperature) for a in (plain, mixed, still)} == {(4, "f", 2.5)}
        assert plain.clips.tolist() == still.clips.tolist() == [5, 7, 6]
        assert mixed.clips.tolist() == [5, 7, 6] * SHUFFLES
        asked = [examples.items[number] for number in (5, 7, 6)]
        np.testing.assert_allclose(plain.logits, predict(model, asked), atol=1e-6)
        np.testing.assert_allclose(
            still.logits, predict(model, [hold_frame(item) for item in asked]), atol=1e-6
        )

    def test_the_same_seed_shuffles_the_same_way(self):
        examples = material(8)
        fold = Fold("f", (), np.arange(4), np.arange(4, 8))
        fitted = TrainingResult(TemporalModel(2, 2, GRU).eval(), 1.0, ())

        first, again, other = (ask_model(examples, fold, fitted, seed)[1] for seed in (0, 0, 1))

        assert np.array_equal(first.logits, again.logits)
        assert not np.array_equal(first.logits, other.logits)

    def test_a_mean_does_not_notice_that_frames_are_shuffled(self):
        examples = material(6)
        fold = Fold("f", (), np.arange(2), np.arange(6))
        model = TemporalModel(2, 2, TemporalOptions(cell="mean", size=8, differences=False)).eval()

        plain, mixed, _ = ask_model(examples, fold, TrainingResult(model, 1.0, ()), 0)

        np.testing.assert_allclose(mixed.logits, np.tile(plain.logits, (SHUFFLES, 1)), atol=1e-5)


class TestBaselines:
    def test_each_answers_every_fold(self):
        examples = material(16)
        folds = leave_one_out(examples)

        answers = ask_baselines(examples, folds)

        asked = [(given.method, given.fold) for given in answers]
        assert asked == [(name, f.name) for name in (*BASELINES, CHANCE) for f in folds]
        for given in answers:
            assert sorted(given.clips.tolist()) == given.clips.tolist()
            assert given.logits.shape == (4, 2)

    def test_they_learn_from_the_other_groups_alone(self):
        examples = material(16)
        (fold, *_) = leave_one_out(examples)
        vectors = pool_clips(temporal_pyramid, [item.features for item in examples.items])
        labels = np.array([item.label for item in examples.items])
        linear = fit_logistic_regression(vectors[fold.train], labels[fold.train], 2)

        given = next(a for a in ask_baselines(examples, [fold]) if "pyramid" in a.method)

        np.testing.assert_allclose(given.logits, linear.logits(vectors[fold.test]))

    def test_the_pyramid_knows_what_rises(self):
        examples = material()

        answers = ask_baselines(examples, leave_one_out(examples))

        right = [share_right(examples, a) for a in answers if "pyramid" in a.method]
        assert right == [1.0] * 4

    def test_frames_that_do_not_count_are_not_read(self):
        features = np.array([[0.0], [1], [2], [3]])
        poisoned = np.array([[1e6], [0], [1], [2], [3]])
        counts = [False, True, True, True, True]
        plain = [make_example(k, features * (k + 1), group=g) for g in "ab" for k in (0, 1)]
        first = [
            make_example(k, poisoned * (k + 1), mask=counts, group=g) for g in "ab" for k in (0, 1)
        ]

        one, two = (
            ask_baselines(items, leave_one_out(items))
            for items in (Examples(tuple(plain), ("a", "b")), Examples(tuple(first), ("a", "b")))
        )

        for expected, found in zip(one, two, strict=True):
            np.testing.assert_allclose(found.logits, expected.logits)

    def test_chance_knows_the_frequencies_of_what_was_learned_from(self):
        items = [make_example(label, np.zeros((2, 1))) for label in (0, 0, 0, 1, 1)]
        fold = Fold("f", (), np.arange(4), np.array([4]))

        given = ask_baselines(Examples(tuple(items), ("a", "b")), [fold])[-1]

        assert given.method == CHANCE
        np.testing.assert_allclose(np.exp(given.logits), [[0.75, 0.25]])


class TestCrossValidation:
    def test_a_model_that_uses_time_falls_without_it(self):
        examples = material()

        rounds = list(cross_validate(examples, leave_one_out(examples)[:2], GRU, QUICK))

        right = {
            method: np.mean([share_right(examples, r.answers[n]) for r in rounds])
            for n, method in enumerate((MODEL, SHUFFLED, STILL))
        }
        assert right[MODEL] == 1.0
        assert right[SHUFFLED] < 0.75
        assert right[STILL] < 0.75
        assert [one.accuracy for one in rounds] == [1.0, 1.0]

    def test_every_seed_sees_every_fold(self):
        examples = material(16)
        folds = leave_one_out(examples)
        options = replace(QUICK, epochs=1, seed=5)

        rounds = list(cross_validate(examples, folds, GRU, options, seeds=2))

        assert [(r.seed, r.fold.name) for r in rounds] == [
            (seed, fold.name) for seed in (5, 6) for fold in folds
        ]
        assert all(answer.seed == one.seed for one in rounds for answer in one.answers)
        assert not np.array_equal(rounds[0].answers[0].logits, rounds[4].answers[0].logits)

    def test_what_is_judged_was_not_learned_from(self):
        """Labels of the fold are the wrong way round: whoever saw them would know."""
        examples = material()
        (fold, *_) = leave_one_out(examples)
        held = set(fold.test.tolist())
        turned = Examples(
            tuple(
                replace(item, label=1 - item.label) if number in held else item
                for number, item in enumerate(examples.items)
            ),
            examples.labels,
        )

        (one,) = cross_validate(turned, [fold], GRU, QUICK)

        assert one.accuracy == 0.0

    def test_examples_are_held_back_from_the_others(self):
        examples = material(24)
        (fold, *_) = leave_one_out(examples)

        fitted = train_fold(examples, fold, GRU, replace(QUICK, epochs=2, validation=0.3))

        assert all(epoch.validation_loss is not None for epoch in fitted.history)
        assert fitted.temperature != 1.0


def test_methods_are_in_the_order_of_the_page():
    assert list(METHODS) == [MODEL, SHUFFLED, STILL, *BASELINES, CHANCE]


@pytest.mark.parametrize("shape", [(3,), (2, 4)])
def test_answers_of_another_number_of_clips_fail(shape):
    with pytest.raises(ValueError, match=r"logits must be \(n, K\) for 3 clips"):
        Answers(MODEL, 0, "f", np.arange(3), np.zeros(shape))
