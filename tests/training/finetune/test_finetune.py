"""What is kept of a fine-tuning, and what is said of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pipeline.config import RunOptions, Sampling
from pipeline.encode.backbone import hash_weights
from pipeline.errors import OptionError
from pipeline.temporal.trainer import TrainingResult
from pipeline.training.finetune.finetune import fine_tune, load_tunable
from tests.training.finetune.material import TRAINING, TUNING, make_lesson

GENTLE = replace(TUNING, epochs=3, learning_rate=5e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pictures")


def lesson_of(folder, tuning=GENTLE, held=4, *, refit):
    lesson = make_lesson(folder, tuning=tuning, held=held)
    return replace(lesson, training=replace(TRAINING, refit=refit))


def start_of(lesson):
    return TrainingResult(lesson.model, 1.5, ())


@pytest.fixture(scope="module")
def outcome(folder):
    lesson = lesson_of(folder, refit=False)
    return fine_tune(lesson, start_of(lesson))


class TestKept:
    def test_what_helped_is_kept(self, outcome):
        assert outcome.backbone.weights_hash == hash_weights(outcome.backbone.network)
        assert outcome.fitted.temperature != 1.5

    def test_it_is_told_in_plain_json(self, outcome):
        said = json.loads(json.dumps(outcome.metrics))

        assert said["kept"] is True
        assert said["blocks"] == ["blocks.1.0"]
        assert said["epochs"] == len(said["history"]) == 3
        assert said["mirrored"] is False
        held = said["validation"]
        assert held["clips"] == 4
        assert held["learned_afterwards"] is False
        assert held["after"]["loss"] < held["before"]["loss"]
        best = said["history"][said["best_epoch"] - 1]
        assert held["after"] == {
            "loss": best["validation_loss"],
            "accuracy": best["validation_accuracy"],
        }


class TestGivenUp:
    def test_what_did_not_help_leaves_all_as_it_was(self, folder):
        lesson = lesson_of(folder, replace(TUNING, epochs=1, learning_rate=50.0), refit=True)
        start = start_of(lesson)

        outcome = fine_tune(lesson, start)

        assert outcome.backbone is None
        assert outcome.fitted is start
        assert outcome.metrics["kept"] is False
        assert outcome.metrics["validation"]["learned_afterwards"] is False
        assert len(outcome.history) == 1


class TestRefit:
    def test_what_was_held_back_is_learned_in_the_end(self, folder):
        told = []
        lesson = lesson_of(folder, refit=True)

        outcome = fine_tune(lesson, start_of(lesson), on_epoch=told.append)

        assert [epoch.number for epoch in told] == [1, 2, 3, 1, 2, 3]
        assert [epoch.validation_loss is None for epoch in told] == [False] * 3 + [True] * 3
        assert outcome.metrics["validation"]["learned_afterwards"] is True
        assert outcome.history == tuple(told[:3])

    def test_where_nothing_was_held_back_nothing_is_learned_again(self, folder):
        told = []
        lesson = lesson_of(folder, held=0, refit=True)

        outcome = fine_tune(lesson, start_of(lesson), on_epoch=told.append)

        assert [epoch.number for epoch in told] == [1, 2, 3]
        assert outcome.backbone is not None
        assert outcome.metrics["validation"] == {
            "clips": 0,
            "before": {"loss": None, "accuracy": None},
            "after": {"loss": None, "accuracy": None},
            "learned_afterwards": False,
        }

    @pytest.mark.parametrize("after", [2, 5])
    def test_either_part_goes_on_where_it_was(self, folder, tmp_path, after):
        lesson = lesson_of(folder, refit=True)
        whole = fine_tune(lesson, start_of(lesson))
        told = []

        def stop(epoch):
            told.append(epoch)
            if len(told) == after:
                raise KeyboardInterrupt

        path = tmp_path / "c.safetensors"
        with pytest.raises(KeyboardInterrupt):
            fine_tune(lesson, start_of(lesson), on_epoch=stop, checkpoint=path)
        resumed = fine_tune(lesson, start_of(lesson), on_epoch=told.append, checkpoint=path)

        assert len(told) == 6
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
        with pytest.raises(OptionError, match=r"3 blocks of .* are 2: layer1.0, layer2.0"):
            load_tunable(self.options(tap="layer2"), 3)
