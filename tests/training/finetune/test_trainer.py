"""Joint training of backbone and temporal model."""

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
from pipeline.training.finetune.trainer import FinetuneTrainer, run_finetune
from tests.training.finetune.synthetic_task import TRAINING, TUNING, make_task

FAST = replace(TUNING, epochs=8, learning_rate=5e-3, backbone_rate=1.0, frames=6)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return make_task(tmp_path_factory.mktemp("frames"))


@pytest.fixture(scope="module")
def finetuned(task):
    return run_finetune(task)


def weights(finetuned):
    return finetuned.backbone.network.state_dict()


def same(a, b):
    return {name for name in a if torch.equal(a[name], b[name])}


class TestWhatChanges:
    def test_only_the_last_blocks_change(self, task, finetuned):
        before, after = task.backbone.network.state_dict(), weights(finetuned)

        changed = set(before) - same(before, after)

        assert [block.name for block in finetuned.blocks] == ["blocks.1.0"]
        assert changed == set(finetuned.blocks[0].parameters)

    def test_the_task_is_not_modified(self, task, finetuned):
        again = make_task(task.cache.folder.parents[1])

        assert hash_weights(again.model) == hash_weights(task.model)
        assert again.backbone.weights_hash == hash_weights(task.backbone.network)

    def test_the_backbone_has_a_new_hash(self, task, finetuned):
        assert finetuned.backbone.weights_hash == hash_weights(finetuned.backbone.network)
        assert finetuned.backbone.weights_hash != task.backbone.weights_hash
        assert finetuned.backbone.identity != task.backbone.identity

    def test_blocks_have_a_lower_learning_rate(self, task):
        tuning = FinetuneTrainer(task)
        tuning.run_epoch()

        rates = {group["rate_factor"]: group["lr"] for group in tuning.optimizer.param_groups}
        assert rates[0.1] == pytest.approx(0.1 * rates[1.0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("clips")


class TestImprovement:
    def finetune(self, folder, **how):
        options = replace(FAST, **how)
        return run_finetune(make_task(folder, clips=40, validation=12, tuning=options))

    def test_trained_blocks_are_better_than_frozen_ones(self, folder):
        with_blocks = self.finetune(folder)
        frozen = self.finetune(folder, backbone_rate=1e-9)

        assert with_blocks.before == frozen.before
        assert with_blocks.best.validation_loss < 0.2 < 0.35 < frozen.best.validation_loss
        assert with_blocks.best.validation_accuracy == 1.0

    def test_the_best_epoch_is_returned(self, folder):
        found = self.finetune(folder, epochs=3)
        task = make_task(folder, clips=40, validation=12)
        encoder = ClipEncoder(found.backbone, task.cache, TRAINING, 4)

        loss, accuracy = loss_and_accuracy(found.model, encoder.encode_examples(task.validation))

        assert loss == pytest.approx(found.best.validation_loss, abs=1e-5)
        assert accuracy == found.best.validation_accuracy
        assert found.improved

    def test_a_higher_validation_loss_is_no_improvement(self, folder):
        result = self.finetune(folder, epochs=1, learning_rate=50.0)

        assert result.best.validation_loss > result.before[0]
        assert not result.improved

    def test_without_a_validation_set_the_last_epoch_is_returned(self, folder):
        found = run_finetune(make_task(folder, clips=4, validation=0))

        assert found.before == (None, None)
        assert found.best.number == len(found.history) == 2
        assert found.improved
        assert found.temperature == 1.0


class TestDivergence:
    def test_a_gradient_that_is_not_finite_fails(self, task):
        broken = copy.deepcopy(task.model)
        torch.nn.init.constant_(broken.head.weight, torch.inf)

        with pytest.raises(OptionError, match=r"training diverged.*rate than 0\.0005"):
            run_finetune(replace(task, model=broken))

    def test_zero_features_have_finite_gradients_of_their_square_root(self, task, monkeypatch):
        """The derivative of the square root is infinite at 0."""
        encode = ClipEncoder.encode

        def with_zeros(self, samples):
            features = encode(self, samples)
            return features * (features > 0)  # a relu would hide NaN in its gradient

        monkeypatch.setattr(ClipEncoder, "encode", with_zeros)
        options = replace(task.model.options, signed_root=True)
        model = TemporalModel(task.backbone.feature_size, 2, options).eval()

        found = run_finetune(replace(task, model=model, tuning=replace(TUNING, epochs=1)))

        assert all(bool(p.isfinite().all()) for p in found.backbone.module.parameters())

    def test_the_best_epoch_has_a_finite_loss(self, finetuned):
        epochs = [
            replace(finetuned.best, number=n, validation_loss=v) for n, v in ((1, nan), (2, 1.0))
        ]

        assert replace(finetuned, history=tuple(epochs)).best.number == 2


class TestRandomness:
    def test_training_is_reproducible_bit_for_bit(self, task, finetuned):
        again = run_finetune(task)

        assert same(weights(again), weights(finetuned)) == set(weights(finetuned))
        assert hash_weights(again.model) == hash_weights(finetuned.model)
        assert again.history == finetuned.history

    def test_another_seed_gives_another_result(self, task, finetuned):
        other = run_finetune(replace(task, training=replace(TRAINING, seed=1)))

        assert other.history != finetuned.history

    def test_the_global_random_state_is_restored(self, task):
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        run_finetune(replace(task, tuning=replace(TUNING, epochs=1)))

        assert torch.equal(torch.rand(3), expected)

    def test_unused_gpus_are_not_initialized(self, task, monkeypatch):
        given, fork = [], torch.random.fork_rng

        def forking(devices=None):
            given.append(devices)
            return fork(devices=[])

        monkeypatch.setattr(torch.random, "fork_rng", forking)
        run_finetune(replace(task, tuning=replace(TUNING, epochs=1)))

        assert given == [[]]

    @pytest.mark.parametrize("mirror", [True, False])
    def test_each_clip_has_own_parameters_and_is_mirrored_only_if_allowed(
        self, task, mirror, monkeypatch
    ):
        seen = []
        monkeypatch.setattr(trainer.ClipEncoder, "encode", record(seen))
        tuning = FinetuneTrainer(replace(task, mirror=mirror))
        for _ in range(2):
            tuning.run_epoch()

        params = [sample.params for samples in seen for sample in samples]
        assert len(params) == len(set(params)) == 24  # 12 clips in 2 epochs
        assert any(each.mirrored for each in params) == mirror

    def test_some_frames_are_masked_and_some_have_gradients(self, task, monkeypatch):
        seen = []
        monkeypatch.setattr(trainer.ClipEncoder, "encode", record(seen))
        tuning = FinetuneTrainer(task)
        tuning.run_epoch()

        flat = [sample for samples in seen for sample in samples]
        assert {int(sample.mask.sum()) for sample in flat} > {5, 6}
        assert {int(sample.trained.sum()) for sample in flat} == {4}


def record(seen):
    encode = ClipEncoder.encode

    def recording(self, samples):
        seen.append(samples)
        return encode(self, samples)

    return recording


class TestInterruption:
    class Stop(Exception):
        pass

    def interrupted(self, task, path, after):
        def stop(epoch):
            if epoch.number == after:
                raise self.Stop

        with pytest.raises(self.Stop):
            run_finetune(task, on_epoch=stop, checkpoint=path)

    @pytest.mark.parametrize("after", [1, 2])
    def test_a_resumed_training_gives_the_same_result(self, task, tmp_path, after):
        longer = replace(task, tuning=replace(TUNING, epochs=3))
        whole = run_finetune(longer)
        self.interrupted(longer, tmp_path / "c.safetensors", after)
        epochs = []

        resumed = run_finetune(
            longer, on_epoch=epochs.append, checkpoint=tmp_path / "c.safetensors"
        )

        assert [epoch.number for epoch in epochs] == [1, 2, 3][after:]
        assert resumed.history == whole.history
        assert resumed.before == whole.before
        assert same(weights(resumed), weights(whole)) == set(weights(whole))
        assert hash_weights(resumed.model) == hash_weights(whole.model)
        assert resumed.temperature == whole.temperature

    @pytest.mark.parametrize(
        "other", [{"mirror": True}, {"training": replace(TRAINING, seed=3)}, {"validation": ()}]
    )
    def test_the_checkpoint_of_another_training_is_ignored(self, task, tmp_path, other):
        self.interrupted(task, tmp_path / "c.safetensors", 1)
        epochs = []

        run_finetune(
            replace(task, **other), on_epoch=epochs.append, checkpoint=tmp_path / "c.safetensors"
        )

        assert [epoch.number for epoch in epochs] == [1, 2]


@pytest.fixture
def cuda():
    if not torch.cuda.is_available():
        if os.environ.get("FAIL_WITHOUT_CUDA"):
            pytest.fail("FAIL_WITHOUT_CUDA is set, and torch sees no CUDA device")
        pytest.skip("torch sees no CUDA device")


@pytest.mark.cuda
@pytest.mark.usefixtures("cuda")
def test_training_on_a_gpu(task):
    finetuned = run_finetune(replace(task, tuning=FAST, training=replace(TRAINING, device="cuda")))

    assert finetuned.best.validation_loss < finetuned.before[0]
    assert {p.device.type for p in finetuned.model.parameters()} == {"cpu"}
    assert {p.device.type for p in finetuned.backbone.module.parameters()} == {"cpu"}


def test_too_many_blocks_fail(task):
    with pytest.raises(OptionError, match=r"3 blocks of .* cannot be fine-tuned, .* depend on 2"):
        run_finetune(replace(task, tuning=replace(TUNING, blocks=3)))
