"""Training: it learns, twice the same, goes on after an end, stops in time, in bounded memory."""

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
from pipeline.temporal.trainer import Fitted, best_of, fit, measure, own_chance, predict
from tests.temporal.lessons import make_example, rises_and_falls

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


def weights(fitted: Fitted) -> dict[str, torch.Tensor]:
    return fitted.model.state_dict()


def agree(a: Fitted, b: Fitted) -> bool:
    return all(torch.equal(weights(a)[name], weights(b)[name]) for name in weights(a))


@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru", "mingru", "gru_transformer"])
def test_what_only_the_order_of_frames_tells_is_learned(cell):
    examples = rises_and_falls(64)
    options = TrainingOptions(epochs=15, learning_rate=1e-2, device="cpu")

    fitted = fit(
        examples[:48], 2, TemporalOptions(cell=cell, size=16, pooling="last"), options,
        validation=examples[48:],
    )  # fmt: skip

    assert measure(fitted.model, examples[48:])[1] == 1.0
    assert not fitted.model.training


def test_a_mean_of_frames_does_not_know_their_order():
    examples = rises_and_falls(64)
    options = TrainingOptions(epochs=15, learning_rate=1e-2, device="cpu")

    fitted = fit(examples[:48], 2, TemporalOptions(cell="mean", size=16), options)

    assert measure(fitted.model, examples[48:])[1] < 0.8


class TestChance:
    def test_the_same_seed_gives_the_same_bits(self):
        first, second = (fit(rises_and_falls(20), 2, SMALL, SHORT) for _ in range(2))

        assert agree(first, second)
        assert first.history == second.history

    def test_two_threads_give_the_same_bits_twice(self):
        torch.set_num_threads(2)
        first, second = (fit(rises_and_falls(20), 2, SMALL, SHORT) for _ in range(2))
        torch.set_num_threads(1)

        assert agree(first, second)

    def test_another_seed_gives_others(self):
        first, second = (
            fit(rises_and_falls(20), 2, SMALL, replace(SHORT, seed=seed)) for seed in (0, 1)
        )

        assert not agree(first, second)

    def test_that_of_the_caller_stays_as_it_was(self):
        torch.manual_seed(5)
        expected = torch.rand(3)

        torch.manual_seed(5)
        fit(rises_and_falls(8), 2, SMALL, SHORT)

        assert torch.equal(torch.rand(3), expected)

    def test_no_gpu_is_woken_that_is_not_used(self, monkeypatch):
        given, fork = [], torch.random.fork_rng

        def forking(devices=None):
            given.append(devices)
            return fork(devices=[])

        monkeypatch.setattr(torch.random, "fork_rng", forking)
        fit(rises_and_falls(4), 2, SMALL, replace(SHORT, epochs=1))
        assert given == [[]]

        monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
        own_chance(replace(SHORT, device="cuda"))
        assert given == [[], [3]]


class Interrupted(Exception):
    pass


class TestCheckpoint:
    @pytest.fixture
    def interrupted(self, tmp_path):
        """A checkpoint of a training that was ended after two epochs of four."""

        def end(epoch):
            if epoch.number == 2:
                raise Interrupted

        examples = rises_and_falls(20)
        with pytest.raises(Interrupted):
            fit(
                examples, 2, SMALL, SHORT, validation=examples[:4], on_epoch=end,
                checkpoint=tmp_path / "c.safetensors",
            )  # fmt: skip
        return tmp_path / "c.safetensors"

    def test_a_training_goes_on_as_if_nothing_had_been(self, interrupted):
        examples, told = rises_and_falls(20), []
        whole = fit(examples, 2, SMALL, SHORT, validation=examples[:4])

        rest = fit(
            examples, 2, SMALL, SHORT, validation=examples[:4], checkpoint=interrupted,
            on_epoch=lambda epoch: told.append(epoch.number),
        )  # fmt: skip

        assert told == [3, 4]
        assert agree(rest, whole)
        assert rest.history == whole.history
        assert rest.temperature == whole.temperature

    @pytest.mark.parametrize("change", [{"seed": 9}, {"learning_rate": 1e-3}])
    def test_other_options_begin_anew(self, interrupted, change):
        told = []
        examples = rises_and_falls(20)

        fit(
            examples, 2, SMALL, replace(SHORT, **change), validation=examples[:4],
            checkpoint=interrupted, on_epoch=lambda epoch: told.append(epoch.number),
        )  # fmt: skip

        assert told == [1, 2, 3, 4]

    def test_other_examples_begin_anew(self, interrupted):
        told = []
        examples = rises_and_falls(22)

        fit(
            examples, 2, SMALL, SHORT, validation=examples[:4], checkpoint=interrupted,
            on_epoch=lambda epoch: told.append(epoch.number),
        )  # fmt: skip

        assert told == [1, 2, 3, 4]


class TestStopping:
    def test_training_ends_when_patience_does(self):
        """Labels of the examples held back are wrong: the more is learned, the worse they do."""
        examples = rises_and_falls(40)
        wrong = [replace(example, label=1 - example.label) for example in examples[32:]]
        options = replace(SHORT, epochs=30, patience=3)

        fitted = fit(examples[:32], 2, SMALL, options, validation=wrong)

        losses = [epoch.validation_loss for epoch in fitted.history]
        assert len(losses) == losses.index(min(losses)) + 1 + 3 < 30

    def test_the_weights_of_the_best_epoch_are_kept(self):
        examples = rises_and_falls(40)
        wrong = [replace(example, label=1 - example.label) for example in examples[32:]]

        fitted = fit(examples[:32], 2, SMALL, replace(SHORT, patience=3), validation=wrong)

        assert measure(fitted.model, wrong)[0] == pytest.approx(fitted.best.validation_loss)

    def test_without_examples_held_back_all_epochs_are_run(self):
        fitted = fit(rises_and_falls(8), 2, SMALL, replace(SHORT, patience=1))

        assert len(fitted.history) == 4
        assert fitted.best.number == 4
        assert fitted.temperature == 1.0


class TestRefit:
    """Once the number of epochs is known, everything is learned for as many."""

    EXAMPLES = rises_and_falls(24)

    REFIT = replace(SHORT, refit=True)

    def fit(self):
        return fit(self.EXAMPLES[:16], 2, SMALL, self.REFIT, validation=self.EXAMPLES[16:])

    def test_it_is_a_training_on_everything(self):
        fitted = self.fit()

        again = fit(self.EXAMPLES, 2, SMALL, replace(SHORT, epochs=len(fitted.history)))
        assert agree(fitted, again)

    def test_what_was_measured_is_of_the_first_training(self):
        first = fit(self.EXAMPLES[:16], 2, SMALL, SHORT, validation=self.EXAMPLES[16:])
        fitted = self.fit()

        assert fitted.history == first.history
        assert fitted.temperature == first.temperature
        assert not agree(fitted, first)

    def test_the_first_model_is_kept_beside_it(self):
        first = fit(self.EXAMPLES[:16], 2, SMALL, SHORT, validation=self.EXAMPLES[16:])
        fitted = self.fit()

        assert agree(replace(fitted, model=fitted.apart), first)
        assert first.apart is None

    def test_it_goes_on_after_an_end(self, tmp_path):
        path, told = tmp_path / "c.safetensors", []
        held, whole = self.EXAMPLES[16:], self.fit()

        def end(epoch):
            told.append(epoch.validation_loss is None)
            if told.count(True) == 2:
                raise Interrupted

        given = (self.EXAMPLES[:16], 2, SMALL, self.REFIT)
        with pytest.raises(Interrupted):
            fit(*given, validation=held, on_epoch=end, checkpoint=path)
        told.clear()
        rest = fit(
            *given, validation=held, checkpoint=path, on_epoch=lambda e: told.append(e.number)
        )

        assert told == list(range(3, len(whole.history) + 1))
        assert agree(rest, whole)


class TestDivergence:
    def test_a_gradient_that_is_no_number_ends_the_training(self):
        examples = rises_and_falls(8)
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
    def test_the_best_epoch_is_one_with_a_loss(self, losses, number):
        (epoch,) = fit(rises_and_falls(4), 2, SMALL, replace(SHORT, epochs=1)).history
        history = [replace(epoch, number=n, validation_loss=v) for n, v in enumerate(losses, 1)]

        assert best_of(history).number == number


class TestHistory:
    def test_clipped_steps_are_counted(self):
        always, never = (
            fit(rises_and_falls(16), 2, SMALL, replace(SHORT, clip_norm=norm)).history[0]
            for norm in (1e-6, 1e6)
        )

        assert (always.clipped, never.clipped) == (1.0, 0.0)
        assert always.gradient_norm > 0.01

    def test_the_learning_rate_ends_near_nothing(self):
        history = fit(rises_and_falls(16), 2, SMALL, replace(SHORT, epochs=10)).history

        assert max(epoch.learning_rate for epoch in history) > 0.009
        assert history[-1].learning_rate < 0.001

    def test_a_model_that_is_sure_and_wrong_is_cooled(self):
        examples = rises_and_falls(60)
        flipped = [
            replace(e, label=1 - e.label) if n % 3 == 0 else e for n, e in enumerate(examples)
        ]

        fitted = fit(
            examples[:30], 2, SMALL,
            replace(SHORT, epochs=10, label_smoothing=0, patience=10), validation=flipped[30:],
        )  # fmt: skip

        assert fitted.temperature > 1


def test_weights_decay():
    free, held = (
        fit(rises_and_falls(16), 2, SMALL, replace(SHORT, epochs=10, weight_decay=decay))
        for decay in (0, 5)
    )

    def size(fitted):
        return sum(p.norm().item() for p in fitted.model.parameters() if p.ndim > 1)

    assert size(held) < 0.8 * size(free)


class TestPredict:
    def test_logits_come_in_the_order_of_the_examples(self):
        examples = rises_and_falls(10)
        model = fit(examples, 2, SMALL, SHORT).model

        logits = predict(model, examples)

        assert logits.shape == (10, 2)
        for example, row in zip(examples, logits, strict=True):
            np.testing.assert_allclose(predict(model, [example])[0], row, atol=1e-5)

    def test_a_model_stays_in_its_mode(self):
        model = TemporalModel(2, 2, SMALL).train()

        predict(model, rises_and_falls(2))

        assert model.training

    def test_measures_are_of_all_examples(self):
        model = TemporalModel(2, 2, SMALL).eval()
        examples = rises_and_falls(6)

        loss, accuracy = measure(model, examples)

        logits = torch.from_numpy(predict(model, examples))
        labels = torch.tensor([example.label for example in examples])
        assert loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item())
        assert accuracy == (logits.argmax(1) == labels).float().mean().item()


@pytest.mark.parametrize("examples", [[], [make_example(0, np.zeros((0, 2)))]])
def test_nothing_to_learn_from_fails(examples):
    with pytest.raises(OptionError, match="no frame to learn from"):
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
def test_on_a_gpu_every_cell_learns_what_it_does_on_the_cpu(cell, precision):
    examples, temporal = rises_and_falls(16), TemporalOptions(cell=cell, size=8, heads=2)
    on_gpu = replace(SHORT, device="cuda", precision=precision)

    found = fit(examples, 2, temporal, on_gpu, validation=examples[:4])

    expected = fit(examples, 2, temporal, SHORT, validation=examples[:4])
    assert {p.device.type for p in found.model.parameters()} == {"cpu"}
    losses = [[epoch.loss for epoch in fitted.history] for fitted in (found, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@pytest.mark.slow
def test_ten_thousand_steps_are_learned_in_bounded_memory():
    """Whole, the states of 10,000 steps of this model alone would take over 500 MB."""
    chance = np.random.default_rng(0)
    options = TrainingOptions(epochs=1, batch_size=4, unroll=250, device="cpu")
    temporal = TemporalOptions(cell="rnn_tanh", size=256, layers=2)
    short = [make_example(n % 2, chance.normal(size=(300, 8))) for n in range(4)]
    fit(short, 2, temporal, options)
    before = peak_bytes()
    long = [make_example(n % 2, chance.normal(size=(10_000, 8))) for n in range(4)]

    fit(long, 2, temporal, options)

    assert peak_bytes() - before < 60 << 20
