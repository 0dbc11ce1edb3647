"""Predictions of the model, its ablations without temporal order or motion, and baselines."""

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
    FROZEN_FRAME,
    METHODS,
    MODEL,
    PRIOR,
    SHUFFLED_FRAMES,
    SHUFFLES,
    Predictions,
    cross_validate,
    freeze_frame,
    predict_baselines,
    predict_model,
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
"""The feature of each frame is its index; frames 0 and 6 are masked."""


def material(count=48):
    return Examples(tuple(rising_and_falling(count)), ("falls", "rises"))


def leave_one_out(examples):
    labels = [examples.labels[item.label] for item in examples.items]
    return group_folds([item.group for item in examples.items], labels, 0)


def accuracy(examples, predictions):
    truth = np.array([item.label for item in examples.items])
    return (predictions.logits.argmax(1) == truth[predictions.clips]).mean()


class TestFrames:
    def test_only_unmasked_frames_are_shuffled(self):
        mixed = shuffle_frames(NUMBERED, np.random.default_rng(0)).features[:, 0]

        assert (mixed[0], mixed[6]) == (0, 6)
        assert sorted(mixed) == list(range(8))
        assert mixed.tolist() != list(range(8))

    def test_each_call_draws_a_new_order(self):
        rng = np.random.default_rng(0)
        orders = {tuple(shuffle_frames(NUMBERED, rng).features[:, 0]) for _ in range(20)}

        assert len(orders) > 15

    def test_the_middle_unmasked_frame_replaces_all_others(self):
        """Unmasked are 1, 2, 3, 4, 5 and 7: the middle one is 4."""
        held = freeze_frame(NUMBERED)

        assert held.features[:, 0].tolist() == [0, 4, 4, 4, 4, 4, 6, 4]
        assert held.mask.tolist() == NUMBERED.mask.tolist()

    def test_the_clip_itself_is_not_changed(self):
        shuffle_frames(NUMBERED, np.random.default_rng(0))
        freeze_frame(NUMBERED)

        assert NUMBERED.features[:, 0].tolist() == list(range(8))

    def test_a_clip_with_masked_frames_only_is_not_changed(self):
        nothing = replace(NUMBERED, mask=np.zeros(8, np.bool_))

        assert freeze_frame(nothing).features.tolist() == NUMBERED.features.tolist()
        shuffled = shuffle_frames(nothing, np.random.default_rng(0))
        assert shuffled.features.tolist() == NUMBERED.features.tolist()


class TestModel:
    def test_predicts_clips_and_two_ablations(self):
        examples = material(8)
        fold = Fold("f", (), np.arange(4), np.array([5, 7, 6]))
        model = TemporalModel(2, 2, GRU).eval()

        plain, shuffled, frozen = predict_model(examples, fold, TrainingResult(model, 2.5, ()), 4)

        assert [a.method for a in (plain, shuffled, frozen)] == [
            MODEL,
            SHUFFLED_FRAMES,
            FROZEN_FRAME,
        ]
        assert {(a.seed, a.fold, a.temperature) for a in (plain, shuffled, frozen)} == {
            (4, "f", 2.5)
        }
        assert plain.clips.tolist() == frozen.clips.tolist() == [5, 7, 6]
        assert shuffled.clips.tolist() == [5, 7, 6] * SHUFFLES
        items = [examples.items[number] for number in (5, 7, 6)]
        np.testing.assert_allclose(plain.logits, predict(model, items), atol=1e-6)
        np.testing.assert_allclose(
            frozen.logits, predict(model, [freeze_frame(item) for item in items]), atol=1e-6
        )

    def test_the_same_seed_shuffles_the_same_way(self):
        examples = material(8)
        fold = Fold("f", (), np.arange(4), np.arange(4, 8))
        trained = TrainingResult(TemporalModel(2, 2, GRU).eval(), 1.0, ())

        first, again, other = (
            predict_model(examples, fold, trained, seed)[1] for seed in (0, 0, 1)
        )

        assert np.array_equal(first.logits, again.logits)
        assert not np.array_equal(first.logits, other.logits)

    def test_a_mean_model_is_independent_of_the_frame_order(self):
        examples = material(6)
        fold = Fold("f", (), np.arange(2), np.arange(6))
        model = TemporalModel(2, 2, TemporalOptions(cell="mean", size=8, differences=False)).eval()

        plain, shuffled, _ = predict_model(examples, fold, TrainingResult(model, 1.0, ()), 0)

        np.testing.assert_allclose(shuffled.logits, np.tile(plain.logits, (SHUFFLES, 1)), atol=1e-5)


class TestBaselines:
    def test_each_predicts_every_fold(self):
        examples = material(16)
        folds = leave_one_out(examples)

        predictions = predict_baselines(examples, folds)

        found = [(given.method, given.fold) for given in predictions]
        assert found == [(name, f.name) for name in (*BASELINES, PRIOR) for f in folds]
        for given in predictions:
            assert sorted(given.clips.tolist()) == given.clips.tolist()
            assert given.logits.shape == (4, 2)

    def test_they_are_trained_on_the_other_groups_only(self):
        examples = material(16)
        (fold, *_) = leave_one_out(examples)
        vectors = pool_clips(temporal_pyramid, [item.features for item in examples.items])
        labels = np.array([item.label for item in examples.items])
        linear = fit_logistic_regression(vectors[fold.train], labels[fold.train], 2)

        given = next(a for a in predict_baselines(examples, [fold]) if "pyramid" in a.method)

        np.testing.assert_allclose(given.logits, linear.logits(vectors[fold.test]))

    def test_the_pyramid_separates_rising_from_falling(self):
        examples = material()

        predictions = predict_baselines(examples, leave_one_out(examples))

        accuracies = [accuracy(examples, a) for a in predictions if "pyramid" in a.method]
        assert accuracies == [1.0] * 4

    def test_masked_frames_are_ignored(self):
        features = np.array([[0.0], [1], [2], [3]])
        poisoned = np.array([[1e6], [0], [1], [2], [3]])
        counts = [False, True, True, True, True]
        plain = [make_example(k, features * (k + 1), group=g) for g in "ab" for k in (0, 1)]
        first = [
            make_example(k, poisoned * (k + 1), mask=counts, group=g) for g in "ab" for k in (0, 1)
        ]

        one, two = (
            predict_baselines(items, leave_one_out(items))
            for items in (Examples(tuple(plain), ("a", "b")), Examples(tuple(first), ("a", "b")))
        )

        for expected, found in zip(one, two, strict=True):
            np.testing.assert_allclose(found.logits, expected.logits)

    def test_the_prior_is_the_label_frequencies_of_the_training_set(self):
        items = [make_example(label, np.zeros((2, 1))) for label in (0, 0, 0, 1, 1)]
        fold = Fold("f", (), np.arange(4), np.array([4]))

        given = predict_baselines(Examples(tuple(items), ("a", "b")), [fold])[-1]

        assert given.method == PRIOR
        np.testing.assert_allclose(np.exp(given.logits), [[0.75, 0.25]])


class TestCrossValidation:
    def test_ablations_of_a_model_that_uses_time_are_worse(self):
        examples = material()

        results = list(cross_validate(examples, leave_one_out(examples)[:2], GRU, QUICK))

        accuracies = {
            method: np.mean([accuracy(examples, r.predictions[n]) for r in results])
            for n, method in enumerate((MODEL, SHUFFLED_FRAMES, FROZEN_FRAME))
        }
        assert accuracies[MODEL] == 1.0
        assert accuracies[SHUFFLED_FRAMES] < 0.75
        assert accuracies[FROZEN_FRAME] < 0.75
        assert [one.accuracy for one in results] == [1.0, 1.0]

    def test_every_fold_is_trained_with_every_seed(self):
        examples = material(16)
        folds = leave_one_out(examples)
        options = replace(QUICK, epochs=1, seed=5)

        results = list(cross_validate(examples, folds, GRU, options, seeds=2))

        assert [(r.seed, r.fold.name) for r in results] == [
            (seed, fold.name) for seed in (5, 6) for fold in folds
        ]
        assert all(each.seed == one.seed for one in results for each in one.predictions)
        assert not np.array_equal(
            results[0].predictions[0].logits, results[4].predictions[0].logits
        )

    def test_test_clips_are_not_in_the_training_set(self):
        """Test labels are swapped: only a model that was trained on them would predict them."""
        examples = material()
        (fold, *_) = leave_one_out(examples)
        held = set(fold.test.tolist())
        swapped = Examples(
            tuple(
                replace(item, label=1 - item.label) if number in held else item
                for number, item in enumerate(examples.items)
            ),
            examples.labels,
        )

        (one,) = cross_validate(swapped, [fold], GRU, QUICK)

        assert one.accuracy == 0.0

    def test_a_validation_set_is_split_off_the_training_set(self):
        examples = material(24)
        (fold, *_) = leave_one_out(examples)

        trained = train_fold(examples, fold, GRU, replace(QUICK, epochs=2, validation=0.3))

        assert all(epoch.validation_loss is not None for epoch in trained.history)
        assert trained.temperature != 1.0


def test_the_order_of_methods():
    assert list(METHODS) == [MODEL, SHUFFLED_FRAMES, FROZEN_FRAME, *BASELINES, PRIOR]


@pytest.mark.parametrize("shape", [(3,), (2, 4)])
def test_logits_of_a_wrong_shape_fail(shape):
    with pytest.raises(ValueError, match=r"logits must be \(n, K\) for 3 clips"):
        Predictions(MODEL, 0, "f", np.arange(3), np.zeros(shape))
