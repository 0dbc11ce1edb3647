"""Backbone and temporal model, trained together."""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from math import nan

import pytest
import torch

from pipeline.encode.backbone import hash_weights
from pipeline.errors import OptionError
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.trainer import loss_and_accuracy
from pipeline.training.finetune import trainer
from pipeline.training.finetune.encoder import ClipEncoder
from pipeline.training.finetune.trainer import Tuner, tune
from tests.training.finetune.material import TRAINING, TUNING, make_lesson

EAGER = replace(TUNING, epochs=8, learning_rate=5e-3, backbone_rate=1.0, frames=6)


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    return make_lesson(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def tuned(lesson):
    return tune(lesson)


def weights(tuned):
    return tuned.backbone.network.state_dict()


def same(a, b):
    return {name for name in a if torch.equal(a[name], b[name])}


class TestWhatChanges:
    def test_the_last_blocks_change_and_the_others_stay_bit_for_bit(self, lesson, tuned):
        before, after = lesson.backbone.network.state_dict(), weights(tuned)

        changed = set(before) - same(before, after)

        assert [block.name for block in tuned.blocks] == ["blocks.1.0"]
        assert changed == set(tuned.blocks[0].parameters)

    def test_the_start_stays_as_it_was(self, lesson, tuned):
        again = make_lesson(lesson.cache.folder.parents[1])

        assert hash_weights(again.model) == hash_weights(lesson.model)
        assert again.backbone.weights_hash == hash_weights(lesson.backbone.network)

    def test_the_backbone_knows_its_new_weights(self, lesson, tuned):
        assert tuned.backbone.weights_hash == hash_weights(tuned.backbone.network)
        assert tuned.backbone.weights_hash != lesson.backbone.weights_hash
        assert tuned.backbone.identity != lesson.backbone.identity

    def test_blocks_learn_slower_than_the_model(self, lesson):
        tuner = Tuner(lesson)
        tuner.run_epoch()

        rates = {group["rate_factor"]: group["lr"] for group in tuner.optimizer.param_groups}
        assert rates[0.1] == pytest.approx(0.1 * rates[1.0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("grains")


class TestWorth:
    def learned(self, folder, **how):
        tuning = replace(EAGER, **how)
        return tune(make_lesson(folder, clips=40, held=12, tuning=tuning))

    def test_blocks_learn_what_frozen_ones_do_not_tell(self, folder):
        with_blocks = self.learned(folder)
        frozen = self.learned(folder, backbone_rate=1e-9)

        assert with_blocks.before == frozen.before
        assert with_blocks.best.validation_loss < 0.2 < 0.35 < frozen.best.validation_loss
        assert with_blocks.best.validation_accuracy == 1.0

    def test_what_is_given_is_the_best(self, folder):
        found = self.learned(folder, epochs=3)
        lesson = make_lesson(folder, clips=40, held=12)
        encoder = ClipEncoder(found.backbone, lesson.cache, TRAINING, 4)

        loss, accuracy = loss_and_accuracy(found.model, encoder.encoded(lesson.validation))

        assert loss == pytest.approx(found.best.validation_loss, abs=1e-5)
        assert accuracy == found.best.validation_accuracy
        assert found.improved

    def test_what_does_not_help_is_told(self, folder):
        ruined = self.learned(folder, epochs=1, learning_rate=50.0)

        assert ruined.best.validation_loss > ruined.before[0]
        assert not ruined.improved

    def test_without_clips_held_back_the_last_epoch_is_kept(self, folder):
        found = tune(make_lesson(folder, clips=4, held=0))

        assert found.before == (None, None)
        assert found.best.number == len(found.history) == 2
        assert found.improved
        assert found.temperature == 1.0


class TestDivergence:
    def test_a_gradient_that_is_no_number_ends_the_training(self, lesson):
        spoiled = copy.deepcopy(lesson.model)
        torch.nn.init.constant_(spoiled.head.weight, torch.inf)

        with pytest.raises(OptionError, match=r"training diverged.*rate than 0\.0005"):
            tune(replace(lesson, model=spoiled))

    def test_features_may_be_0_where_their_roots_are_taken(self, lesson, monkeypatch):
        """The root is steep without end there."""
        encode = ClipEncoder.encode

        def with_zeros(self, looks):
            features = encode(self, looks)
            return features * (features > 0)  # the slope of a relu would hide what is no number

        monkeypatch.setattr(ClipEncoder, "encode", with_zeros)
        options = replace(lesson.model.options, signed_root=True)
        model = TemporalModel(lesson.backbone.feature_size, 2, options).eval()

        found = tune(replace(lesson, model=model, tuning=replace(TUNING, epochs=1)))

        assert all(bool(p.isfinite().all()) for p in found.backbone.module.parameters())

    def test_the_best_epoch_is_one_with_a_loss(self, tuned):
        epochs = [replace(tuned.best, number=n, validation_loss=v) for n, v in ((1, nan), (2, 1.0))]

        assert replace(tuned, history=tuple(epochs)).best.number == 2


class TestChance:
    def test_the_same_again_is_the_same_bit_for_bit(self, lesson, tuned):
        again = tune(lesson)

        assert same(weights(again), weights(tuned)) == set(weights(tuned))
        assert hash_weights(again.model) == hash_weights(tuned.model)
        assert again.history == tuned.history

    def test_another_seed_is_another_training(self, lesson, tuned):
        other = tune(replace(lesson, training=replace(TRAINING, seed=1)))

        assert other.history != tuned.history

    def test_the_callers_chance_stays_as_it_was(self, lesson):
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        tune(replace(lesson, tuning=replace(TUNING, epochs=1)))

        assert torch.equal(torch.rand(3), expected)

    def test_no_gpu_is_woken_that_is_not_used(self, lesson, monkeypatch):
        given, fork = [], torch.random.fork_rng

        def forking(devices=None):
            given.append(devices)
            return fork(devices=[])

        monkeypatch.setattr(torch.random, "fork_rng", forking)
        tune(replace(lesson, tuning=replace(TUNING, epochs=1)))

        assert given == [[]]

    @pytest.mark.parametrize("mirror", [True, False])
    def test_a_clip_gets_one_view_mirrored_only_where_that_is_allowed(
        self, lesson, mirror, monkeypatch
    ):
        seen = []
        monkeypatch.setattr(trainer.ClipEncoder, "encode", record(seen))
        tuner = Tuner(replace(lesson, mirror=mirror))
        for _ in range(2):
            tuner.run_epoch()

        views = [look.view for looks in seen for look in looks]
        assert len(views) == len(set(views)) == 24  # each clip its own, each epoch another
        assert any(view.mirrored for view in views) == mirror

    def test_not_all_frames_count_and_not_all_that_count_are_learned(self, lesson, monkeypatch):
        seen = []
        monkeypatch.setattr(trainer.ClipEncoder, "encode", record(seen))
        tuner = Tuner(lesson)
        tuner.run_epoch()

        looks = [look for looks in seen for look in looks]
        assert {int(look.mask.sum()) for look in looks} > {5, 6}
        assert {int(look.learned.sum()) for look in looks} == {4}


def record(seen):
    encode = ClipEncoder.encode

    def recording(self, looks):
        seen.append(looks)
        return encode(self, looks)

    return recording


class TestInterruption:
    class Stop(Exception):
        pass

    def interrupted(self, lesson, path, after):
        def stop(epoch):
            if epoch.number == after:
                raise self.Stop

        with pytest.raises(self.Stop):
            tune(lesson, on_epoch=stop, checkpoint=path)

    @pytest.mark.parametrize("after", [1, 2])
    def test_a_resumed_training_is_as_if_it_had_never_stopped(self, lesson, tmp_path, after):
        longer = replace(lesson, tuning=replace(TUNING, epochs=3))
        whole = tune(longer)
        self.interrupted(longer, tmp_path / "c.safetensors", after)
        told = []

        resumed = tune(longer, on_epoch=told.append, checkpoint=tmp_path / "c.safetensors")

        assert [epoch.number for epoch in told] == [1, 2, 3][after:]
        assert resumed.history == whole.history
        assert resumed.before == whole.before
        assert same(weights(resumed), weights(whole)) == set(weights(whole))
        assert hash_weights(resumed.model) == hash_weights(whole.model)
        assert resumed.temperature == whole.temperature

    @pytest.mark.parametrize(
        "other", [{"mirror": True}, {"training": replace(TRAINING, seed=3)}, {"validation": ()}]
    )
    def test_another_training_begins_anew(self, lesson, tmp_path, other):
        self.interrupted(lesson, tmp_path / "c.safetensors", 1)
        told = []

        tune(replace(lesson, **other), on_epoch=told.append, checkpoint=tmp_path / "c.safetensors")

        assert [epoch.number for epoch in told] == [1, 2]


@pytest.fixture
def cuda():
    if not torch.cuda.is_available():
        if os.environ.get("FAIL_WITHOUT_CUDA"):
            pytest.fail("FAIL_WITHOUT_CUDA is set, and torch sees no CUDA device")
        pytest.skip("torch sees no CUDA device")


@pytest.mark.cuda
@pytest.mark.usefixtures("cuda")
def test_on_a_gpu_it_learns_in_bfloat16_and_comes_back(lesson):
    tuned = tune(replace(lesson, tuning=EAGER, training=replace(TRAINING, device="cuda")))

    assert tuned.best.validation_loss < tuned.before[0]
    assert {p.device.type for p in tuned.model.parameters()} == {"cpu"}
    assert {p.device.type for p in tuned.backbone.module.parameters()} == {"cpu"}


def test_more_blocks_than_there_are_fail(lesson):
    with pytest.raises(OptionError, match=r"3 blocks of .* are to be fine-tuned; .* are 2"):
        tune(replace(lesson, tuning=replace(TUNING, blocks=3)))
