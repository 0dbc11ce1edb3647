"""Training: reproducible, resumable, with early stopping, in bounded memory."""

from __future__ import annotations

import os
import resource
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from pipeline.errors import OptionError
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import CellName, TemporalOptions, TrainingOptions
from pipeline.temporal.trainer import TrainingResult, fit, loss_and_accuracy, predict
from pipeline.temporal.training_loop import best_epoch, isolated_rng
from tests.temporal.synthetic_clips import make_example, rising_and_falling

SMALL = TemporalOptions(cell="gru", size=8, dropout=0.2)
SHORT = TrainingOptions(
    epochs=4,
    batch_size=8,
    learning_rate=1e-2,
    shortest_crop=0.8,
    drop_frames=0.1,
    refit=False,
    device="cpu",
)


def weights(result: TrainingResult) -> dict[str, torch.Tensor]:
    return result.model.state_dict()


def equal_weights(a: TrainingResult, b: TrainingResult) -> bool:
    return all(torch.equal(weights(a)[name], weights(b)[name]) for name in weights(a))


@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru", "mingru", "gru_transformer"])
def test_cells_learn_labels_that_depend_on_the_order_of_frames(cell):
    examples = rising_and_falling(64)
    options = TrainingOptions(epochs=15, learning_rate=1e-2, device="cpu")

    result = fit(
        examples[:48], 2, TemporalOptions(cell=cell, size=16, pooling="last"), options,
        validation=examples[48:],
    )  # fmt: skip

    assert loss_and_accuracy(result.model, examples[48:])[1] == 1.0
    assert not result.model.training


def test_the_mean_of_frames_does_not_depend_on_their_order():
    examples = rising_and_falling(64)
    options = TrainingOptions(epochs=15, learning_rate=1e-2, device="cpu")

    result = fit(examples[:48], 2, TemporalOptions(cell="mean", size=16), options)

    assert loss_and_accuracy(result.model, examples[48:])[1] < 0.8


class TestReproducibility:
    def test_the_same_seed_gives_equal_weights(self):
        first, second = (fit(rising_and_falling(20), 2, SMALL, SHORT) for _ in range(2))

        assert equal_weights(first, second)
        assert first.history == second.history

    def test_two_threads_give_equal_weights(self):
        torch.set_num_threads(2)
        first, second = (fit(rising_and_falling(20), 2, SMALL, SHORT) for _ in range(2))
        torch.set_num_threads(1)

        assert equal_weights(first, second)

    def test_another_seed_gives_other_weights(self):
        first, second = (
            fit(rising_and_falling(20), 2, SMALL, replace(SHORT, seed=seed)) for seed in (0, 1)
        )

        assert not equal_weights(first, second)

    def test_the_global_random_state_is_restored(self):
        torch.manual_seed(5)
        expected = torch.rand(3)

        torch.manual_seed(5)
        fit(rising_and_falling(8), 2, SMALL, SHORT)

        assert torch.equal(torch.rand(3), expected)

    def test_unused_gpus_are_not_initialized(self, monkeypatch):
        calls, fork = [], torch.random.fork_rng

        def forking(devices=None):
            calls.append(devices)
            return fork(devices=[])

        monkeypatch.setattr(torch.random, "fork_rng", forking)
        fit(rising_and_falling(4), 2, SMALL, replace(SHORT, epochs=1))
        assert calls == [[]]

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
        isolated_rng(replace(SHORT, device="cuda"))
        assert calls == [[], [3]]


class Interrupted(Exception):
    pass


class TestCheckpoint:
    @pytest.fixture
    def interrupted(self, tmp_path):
        """A checkpoint of a training interrupted after two of four epochs."""

        def interrupt(epoch):
            if epoch.number == 2:
                raise Interrupted

        examples = rising_and_falling(20)
        with pytest.raises(Interrupted):
            fit(
                examples, 2, SMALL, SHORT, validation=examples[:4], on_epoch=interrupt,
                checkpoint=tmp_path / "c.safetensors",
            )  # fmt: skip
        return tmp_path / "c.safetensors"

    def test_a_resumed_training_gives_equal_results(self, interrupted):
        examples, epochs = rising_and_falling(20), []
        whole = fit(examples, 2, SMALL, SHORT, validation=examples[:4])

        rest = fit(
            examples, 2, SMALL, SHORT, validation=examples[:4], checkpoint=interrupted,
            on_epoch=lambda epoch: epochs.append(epoch.number),
        )  # fmt: skip

        assert epochs == [3, 4]
        assert equal_weights(rest, whole)
        assert rest.history == whole.history
        assert rest.temperature == whole.temperature

    @pytest.mark.parametrize("change", [{"seed": 9}, {"learning_rate": 1e-3}])
    def test_other_options_restart_the_training(self, interrupted, change):
        epochs = []
        examples = rising_and_falling(20)

        fit(
            examples, 2, SMALL, replace(SHORT, **change), validation=examples[:4],
            checkpoint=interrupted, on_epoch=lambda epoch: epochs.append(epoch.number),
        )  # fmt: skip

        assert epochs == [1, 2, 3, 4]

    def test_other_examples_restart_the_training(self, interrupted):
        epochs = []
        examples = rising_and_falling(22)

        fit(
            examples, 2, SMALL, SHORT, validation=examples[:4], checkpoint=interrupted,
            on_epoch=lambda epoch: epochs.append(epoch.number),
        )  # fmt: skip

        assert epochs == [1, 2, 3, 4]


class TestEarlyStopping:
    def test_training_stops_after_patience_epochs_without_improvement(self):
        """The labels of the validation set are wrong: its loss grows during training."""
        examples = rising_and_falling(40)
        wrong = [replace(example, label=1 - example.label) for example in examples[32:]]
        options = replace(SHORT, epochs=30, patience=3)

        result = fit(examples[:32], 2, SMALL, options, validation=wrong)

        losses = [epoch.validation_loss for epoch in result.history]
        assert len(losses) == losses.index(min(losses)) + 1 + 3 < 30

    def test_the_weights_of_the_best_epoch_are_kept(self):
        examples = rising_and_falling(40)
        wrong = [replace(example, label=1 - example.label) for example in examples[32:]]

        result = fit(examples[:32], 2, SMALL, replace(SHORT, patience=3), validation=wrong)

        assert loss_and_accuracy(result.model, wrong)[0] == pytest.approx(
            result.best.validation_loss
        )

    def test_without_validation_set_all_epochs_are_run(self):
        result = fit(rising_and_falling(8), 2, SMALL, replace(SHORT, patience=1))

        assert len(result.history) == 4
        assert result.best.number == 4
        assert result.temperature == 1.0


class TestRefit:
    """The final model is trained on all examples, for the number of epochs found."""

    EXAMPLES = rising_and_falling(24)

    REFIT = replace(SHORT, refit=True)

    def fit(self):
        return fit(self.EXAMPLES[:16], 2, SMALL, self.REFIT, validation=self.EXAMPLES[16:])

    def test_it_trains_on_all_examples(self):
        result = self.fit()

        again = fit(self.EXAMPLES, 2, SMALL, replace(SHORT, epochs=len(result.history)))
        assert equal_weights(result, again)

    def test_history_and_temperature_are_those_of_the_first_training(self):
        first = fit(self.EXAMPLES[:16], 2, SMALL, SHORT, validation=self.EXAMPLES[16:])
        result = self.fit()

        assert result.history == first.history
        assert result.temperature == first.temperature
        assert not equal_weights(result, first)

    def test_the_first_model_is_kept(self):
        first = fit(self.EXAMPLES[:16], 2, SMALL, SHORT, validation=self.EXAMPLES[16:])
        result = self.fit()

        assert equal_weights(replace(result, model=result.validation_model), first)
        assert first.validation_model is None

    def test_it_resumes_after_an_interruption(self, tmp_path):
        path, epochs = tmp_path / "c.safetensors", []
        validation, whole = self.EXAMPLES[16:], self.fit()

        def interrupt(epoch):
            epochs.append(epoch.validation_loss is None)
            if epochs.count(True) == 2:
                raise Interrupted

        arguments = (self.EXAMPLES[:16], 2, SMALL, self.REFIT)
        with pytest.raises(Interrupted):
            fit(*arguments, validation=validation, on_epoch=interrupt, checkpoint=path)
        epochs.clear()
        rest = fit(
            *arguments,
            validation=validation,
            checkpoint=path,
            on_epoch=lambda e: epochs.append(e.number),
        )

        assert epochs == list(range(3, len(whole.history) + 1))
        assert equal_weights(rest, whole)


class TestDivergence:
    def test_a_gradient_that_is_not_finite_fails(self):
        examples = rising_and_falling(8)
        examples[3].features[2, 0] = np.nan

        with pytest.raises(OptionError, match=r"training diverged.* nan\. .*rate than 0\.01"):
            fit(examples, 2, SMALL, SHORT)

    @pytest.mark.parametrize(
        ("losses", "number"),
        [
            ((np.nan, 2.0, 1.0, np.nan), 3),
            ((1.0, np.nan, 1.0), 1),
            ((np.nan, np.inf), 2),
            ((None, None, None), 3),
        ],
    )
    def test_the_best_epoch_has_a_finite_loss(self, losses, number):
        (epoch,) = fit(rising_and_falling(4), 2, SMALL, replace(SHORT, epochs=1)).history
        history = [replace(epoch, number=n, validation_loss=v) for n, v in enumerate(losses, 1)]

        assert best_epoch(history).number == number


class TestHistory:
    def test_clipped_steps_are_counted(self):
        always, never = (
            fit(rising_and_falling(16), 2, SMALL, replace(SHORT, clip_norm=norm)).history[0]
            for norm in (1e-6, 1e6)
        )

        assert (always.clipped, never.clipped) == (1.0, 0.0)
        assert always.gradient_norm > 0.01

    def test_the_learning_rate_decays_to_about_0(self):
        history = fit(rising_and_falling(16), 2, SMALL, replace(SHORT, epochs=10)).history

        assert max(epoch.learning_rate for epoch in history) > 0.009
        assert history[-1].learning_rate < 0.001

    def test_an_overconfident_model_has_a_temperature_above_1(self):
        examples = rising_and_falling(60)
        flipped = [
            replace(e, label=1 - e.label) if n % 3 == 0 else e for n, e in enumerate(examples)
        ]

        result = fit(
            examples[:30], 2, SMALL,
            replace(SHORT, epochs=10, label_smoothing=0, patience=10), validation=flipped[30:],
        )  # fmt: skip

        assert result.temperature > 1


def test_weight_decay():
    without, decayed = (
        fit(rising_and_falling(16), 2, SMALL, replace(SHORT, epochs=10, weight_decay=decay))
        for decay in (0, 5)
    )

    def size(result):
        return sum(p.norm().item() for p in result.model.parameters() if p.ndim > 1)

    assert size(decayed) < 0.8 * size(without)


class TestPredict:
    def test_logits_have_the_order_of_the_examples(self):
        examples = rising_and_falling(10)
        model = fit(examples, 2, SMALL, SHORT).model

        logits = predict(model, examples)

        assert logits.shape == (10, 2)
        for example, row in zip(examples, logits, strict=True):
            np.testing.assert_allclose(predict(model, [example])[0], row, atol=1e-5)

    def test_the_mode_of_the_model_is_kept(self):
        model = TemporalModel(2, 2, SMALL).train()

        predict(model, rising_and_falling(2))

        assert model.training

    def test_loss_and_accuracy_are_means_over_all_examples(self):
        model = TemporalModel(2, 2, SMALL).eval()
        examples = rising_and_falling(6)

        loss, accuracy = loss_and_accuracy(model, examples)

        logits = torch.from_numpy(predict(model, examples))
        labels = torch.tensor([example.label for example in examples])
        assert loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item())
        assert accuracy == (logits.argmax(1) == labels).float().mean().item()


@pytest.mark.parametrize("examples", [[], [make_example(0, np.zeros((0, 2)))]])
def test_examples_without_frames_fail(examples):
    with pytest.raises(OptionError, match="no frames to train on"):
        fit(examples, 2, SMALL, SHORT)


@pytest.fixture
def cuda():
    if not torch.cuda.is_available():
        if os.environ.get("FAIL_WITHOUT_CUDA"):
            pytest.fail("FAIL_WITHOUT_CUDA is set, and torch sees no CUDA device")
        pytest.skip("torch sees no CUDA device")


@pytest.mark.cuda
@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("precision", ["auto", "bfloat16"])
@pytest.mark.parametrize("cell", get_args(CellName))
def test_every_cell_has_the_same_losses_on_gpu_and_cpu(cell, precision):
    examples, temporal = rising_and_falling(16), TemporalOptions(cell=cell, size=8, heads=2)
    on_gpu = replace(SHORT, device="cuda", precision=precision)

    found = fit(examples, 2, temporal, on_gpu, validation=examples[:4])

    expected = fit(examples, 2, temporal, SHORT, validation=examples[:4])
    assert {p.device.type for p in found.model.parameters()} == {"cpu"}
    losses = [[epoch.loss for epoch in result.history] for result in (found, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@pytest.mark.slow
def test_training_on_long_clips_has_bounded_memory():
    """The states of all 10,000 steps would take over 500 MB."""
    rng = np.random.default_rng(0)
    options = TrainingOptions(epochs=1, batch_size=4, unroll=250, device="cpu")
    temporal = TemporalOptions(cell="rnn_tanh", size=256, layers=2)
    short = [make_example(n % 2, rng.normal(size=(300, 8))) for n in range(4)]
    fit(short, 2, temporal, options)
    before = peak_bytes()
    long = [make_example(n % 2, rng.normal(size=(10_000, 8))) for n in range(4)]

    fit(long, 2, temporal, options)

    assert peak_bytes() - before < 60 << 20
