"""Whether the result of fine-tuning is used, and its metrics."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pipeline.config import RunOptions, Sampling
from pipeline.encode.backbone import hash_weights
from pipeline.errors import OptionError
from pipeline.temporal.trainer import TrainingResult
from pipeline.training.finetune.finetune import fine_tune, load_tunable
from tests.training.finetune.synthetic_task import TRAINING, TUNING, make_task

OPTIONS = replace(TUNING, epochs=3, learning_rate=5e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("frames")


def task_of(folder, tuning=OPTIONS, validation=4, *, refit):
    task = make_task(folder, tuning=tuning, validation=validation)
    return replace(task, training=replace(TRAINING, refit=refit))


def trained_before(task):
    return TrainingResult(task.model, 1.5, ())


@pytest.fixture(scope="module")
def outcome(folder):
    task = task_of(folder, refit=False)
    return fine_tune(task, trained_before(task))


class TestKept:
    def test_a_lower_validation_loss_is_kept(self, outcome):
        assert outcome.backbone.weights_hash == hash_weights(outcome.backbone.network)
        assert outcome.trained.temperature != 1.5

    def test_metrics_are_plain_json(self, outcome):
        found = json.loads(json.dumps(outcome.metrics))

        assert found["kept"] is True
        assert found["blocks"] == ["blocks.1.0"]
        assert found["epochs"] == len(found["history"]) == 3
        assert found["mirrored"] is False
        validation = found["validation"]
        assert validation["clips"] == 4
        assert validation["learned_afterwards"] is False
        assert validation["after"]["loss"] < validation["before"]["loss"]
        best = found["history"][found["best_epoch"] - 1]
        assert validation["after"] == {
            "loss": best["validation_loss"],
            "accuracy": best["validation_accuracy"],
        }


class TestDiscarded:
    def test_a_higher_validation_loss_is_discarded(self, folder):
        task = task_of(folder, replace(TUNING, epochs=1, learning_rate=50.0), refit=True)
        start = trained_before(task)

        outcome = fine_tune(task, start)

        assert outcome.backbone is None
        assert outcome.trained is start
        assert outcome.metrics["kept"] is False
        assert outcome.metrics["validation"]["learned_afterwards"] is False
        assert len(outcome.history) == 1


class TestRefit:
    def test_the_final_training_is_on_all_clips(self, folder):
        epochs = []
        task = task_of(folder, refit=True)

        outcome = fine_tune(task, trained_before(task), on_epoch=epochs.append)

        assert [epoch.number for epoch in epochs] == [1, 2, 3, 1, 2, 3]
        assert [epoch.validation_loss is None for epoch in epochs] == [False] * 3 + [True] * 3
        assert outcome.metrics["validation"]["learned_afterwards"] is True
        assert outcome.history == tuple(epochs[:3])

    def test_without_a_validation_set_there_is_one_training(self, folder):
        epochs = []
        task = task_of(folder, validation=0, refit=True)

        outcome = fine_tune(task, trained_before(task), on_epoch=epochs.append)

        assert [epoch.number for epoch in epochs] == [1, 2, 3]
        assert outcome.backbone is not None
        assert outcome.metrics["validation"] == {
            "clips": 0,
            "before": {"loss": None, "accuracy": None},
            "after": {"loss": None, "accuracy": None},
            "learned_afterwards": False,
        }

    @pytest.mark.parametrize("after", [2, 5])
    def test_both_trainings_are_resumed(self, folder, tmp_path, after):
        task = task_of(folder, refit=True)
        whole = fine_tune(task, trained_before(task))
        epochs = []

        def stop(epoch):
            epochs.append(epoch)
            if len(epochs) == after:
                raise KeyboardInterrupt

        path = tmp_path / "c.safetensors"
        with pytest.raises(KeyboardInterrupt):
            fine_tune(task, trained_before(task), on_epoch=stop, checkpoint=path)
        resumed = fine_tune(task, trained_before(task), on_epoch=epochs.append, checkpoint=path)

        assert len(epochs) == 6
        assert resumed.metrics == whole.metrics
        assert resumed.backbone.weights_hash == whole.backbone.weights_hash


class TestLoad:
    @staticmethod
    def options(name="random:test_resnet", tap=None):
        return RunOptions(None, name, tap=tap, sampling=Sampling(fps=8))

    def test_a_backbone_with_blocks_is_loaded(self):
        backbone = load_tunable(self.options(tap="layer2"), 2)

        assert backbone.name == "random:test_resnet"
        assert all(p.requires_grad for p in backbone.module.parameters())

    def test_too_few_blocks_fail(self):
        with pytest.raises(OptionError, match=r"3 blocks of .* depend on 2: layer1.0, layer2.0"):
            load_tunable(self.options(tap="layer2"), 3)
