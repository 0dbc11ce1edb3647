"""Diagnostics: gradients by lag as formulas say, gates as they are, and the order of theory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.diagnostics.copy_task import LABELS, draw_recall
from pipeline.diagnostics.gradients import (
    COMPARED,
    LagProfile,
    diagnose_cell,
    gate_activations,
    looking_back,
    measure,
    untrained,
)
from pipeline.temporal.batching import Example
from pipeline.temporal.cells import make_layer
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import TemporalOptions, TrainingOptions
from pipeline.temporal.trainer import predict

TRAINING = TrainingOptions(
    epochs=8, learning_rate=1e-2, label_smoothing=0, validation=0, device="cpu"
)
LAG = 19
GATED = ("lstm", "gru", "mingru")


def example(features, label=0, mask=None):
    length = len(features)
    mask = np.ones(length, np.bool_) if mask is None else mask
    return Example("e", "e", "e", label, features.astype(np.float32), mask, 0.0, float(length))


def noise(length, size=3, seed=0):
    return np.random.default_rng(seed).normal(size=(length, size))


def make(cell, **changes):
    torch.manual_seed(5)
    options = TemporalOptions(cell=cell, size=8, heads=2, pooling="last", **changes)
    return TemporalModel(3, 2, options).eval()


class TestLags:
    def test_is_the_gradient_that_autograd_gives(self):
        """One step at a time, in the features' own standard deviations."""
        model = make("gru").double()
        std = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
        model.set_standardization(torch.zeros(3, dtype=torch.float64), std)
        values = noise(6)
        x = torch.from_numpy(values.astype(np.float32)).double()[None].requires_grad_()
        loss = -torch.log_softmax(model(x).frames[0, -1], dim=0)[1]
        (gradient,) = torch.autograd.grad(loss, x)
        expected = (gradient[0] * std).norm(dim=1).flip(0)

        found = measure(model.float(), [example(values, label=1)], "start").lags
        np.testing.assert_allclose(found.norms, expected.numpy(), rtol=1e-5)

    def test_of_signed_roots_it_is_the_gradient_by_the_roots(self):
        """As after a ReLU, where half of all features are 0 and the root is steep without end."""
        rooted, plain = make("gru", signed_root=True), make("gru")
        std = torch.tensor([0.5, 1.0, 2.0])
        for model in (rooted, plain):
            model.set_standardization(torch.tensor([0.3, 0.0, 1.0]), std)
        values = np.maximum(noise(6), 0)
        assert 0.3 < (values == 0).mean() < 0.7

        found = measure(rooted, [example(values)], "start")
        expected = measure(plain, [example(np.sqrt(values))], "start")

        np.testing.assert_allclose(found.lags.norms, expected.lags.norms, rtol=1e-5)
        assert found.lags.norms.min() > 0
        assert found.gates == pytest.approx(expected.gates)

    def test_a_feature_that_is_not_looked_at_has_no_part(self):
        model = make("gru")
        model.set_standardization(torch.zeros(3), torch.tensor([0.5, 0.0, 2.0]))
        values, other = noise(6), noise(6)
        other[:, 1] = 7
        found = measure(model, [example(values)], "start").lags

        assert np.isfinite(found.norms).all()
        np.testing.assert_array_equal(
            measure(model, [example(other)], "start").lags.norms, found.norms
        )

    @pytest.mark.parametrize("kept", [0.5, 0.9])
    def test_a_cell_that_keeps_a_share_each_step_forgets_like_its_power(self, kept):
        """MinGRU with a gate that never moves: a gradient falls to `kept` of itself each step."""
        model = make("mingru", layer_norm=False)
        layer = model.recurrence.layers[0][0]
        torch.nn.init.zeros_(layer.gate.weight)
        torch.nn.init.constant_(layer.gate.bias, float(np.log((1 - kept) / kept)))
        lags = measure(model, [example(noise(30, seed=n)) for n in range(3)], "start").lags

        np.testing.assert_allclose(lags.relative, kept ** np.arange(30), rtol=1e-4)
        powers = kept ** np.arange(30)
        assert lags.memory_steps == pytest.approx(
            (powers * np.arange(30)).sum() / powers.sum(), rel=1e-4
        )

    def test_an_identity_forgets_nothing(self):
        """Le et al. 2015: what is positive stays as it is."""
        model = make("rnn_relu", layer_norm=False)
        layer = model.recurrence.layers[0][0]
        torch.nn.init.constant_(layer.input.bias, 10.0)
        lags = measure(model, [example(noise(40))], "start").lags

        np.testing.assert_allclose(lags.relative, 1, rtol=1e-4)
        assert lags.memory_steps == pytest.approx(19.5)

    def test_a_mean_looks_at_its_own_frame_only(self):
        lags = measure(make("mean"), [example(noise(10))], "start").lags

        assert lags.norms[0] > 0
        assert not lags.norms[1:].any()
        assert lags.memory_steps == 0

    def test_gradients_that_float32_would_lose_are_seen(self):
        model = make("mingru")
        torch.nn.init.constant_(model.recurrence.layers[0][0].gate.bias, 3.0)
        lags = measure(model, [example(noise(100))], "start").lags

        assert 0 < lags.norms[-1] < 1e-60

    def test_frames_that_do_not_count_are_as_if_they_were_not_there(self):
        values = noise(12)
        counts = np.ones(12, np.bool_)
        counts[[0, 5, 11]] = False
        model = make("lstm")
        found = measure(model, [example(values, mask=counts)], "start").lags
        expected = measure(model, [example(values[counts])], "start").lags

        np.testing.assert_allclose(found.norms, expected.norms, rtol=1e-6)

    def test_sequences_of_all_lengths_are_averaged_lag_by_lag(self):
        model = make("gru")
        sequences = [example(noise(length, seed=length)) for length in (4, 9, 6)]
        alone = [measure(model, [one], "start").lags.norms for one in sequences]
        found = measure(model, sequences, "start").lags

        assert found.sequences.tolist() == [3] * 4 + [2] * 2 + [1] * 3
        np.testing.assert_allclose(found.norms[0], np.mean([a[0] for a in alone]), rtol=1e-6)
        np.testing.assert_allclose(found.norms[5], (alone[1][5] + alone[2][5]) / 2, rtol=1e-6)
        np.testing.assert_allclose(found.norms[8], alone[1][8], rtol=1e-6)

    def test_the_model_is_left_as_it_is(self):
        model = make("gru")
        before = {name: value.clone() for name, value in model.state_dict().items()}
        measure(model, [example(noise(5))], "start")

        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
        assert all(p.requires_grad and p.grad is None for p in model.parameters())

    def test_memory_is_the_lag_of_what_alone_matters(self):
        norms = np.zeros(50)
        norms[37] = 1e-200

        assert LagProfile(norms, np.ones(50, np.int64)).memory_steps == pytest.approx(37)


def test_accuracy_is_of_the_clips_that_are_measured():
    model = make("gru")
    clips = [example(noise(5, seed=n), label=n % 2) for n in range(8)]
    said = predict(model, clips).argmax(1)
    right = [replace(clip, label=int(label)) for clip, label in zip(clips, said, strict=True)]
    nothing = replace(right[0], label=1 - right[0].label, mask=np.zeros(5, np.bool_))

    assert measure(model, right, "start").accuracy == 1
    assert measure(model, [*right, nothing], "start").accuracy == 1
    wrong = [replace(clip, label=1 - clip.label) for clip in right[:2]]
    assert measure(model, [*wrong, *right[2:]], "start").accuracy == 0.75


class TestGates:
    @pytest.mark.parametrize(
        ("cell", "gates"),
        [
            ("lstm", ["forget", "input", "output"]),
            ("gru", ["keep", "reset"]),
            ("mingru", ["update"]),
            ("rnn_tanh", []),
            ("transformer", []),
        ],
    )
    def test_each_layer_has_its_own(self, cell, gates):
        found = measure(make(cell, layers=2), [example(noise(8))], "start").gates

        assert [(gate.layer, gate.gate) for gate in found] == [
            (layer, gate) for layer in (0, 1) for gate in gates if gates
        ]
        assert all(0 <= gate.shut <= 1 and 0 <= gate.open <= 1 for gate in found)

    @pytest.mark.parametrize(("bias", "shut", "open_"), [(-9.0, 1, 0), (9.0, 0, 1), (0.0, 0, 0)])
    def test_stuck_gates_are_counted(self, bias, shut, open_):
        model = make("mingru")
        layer = model.recurrence.layers[0][0]
        torch.nn.init.zeros_(layer.gate.weight)
        torch.nn.init.constant_(layer.gate.bias, bias)
        (gate,) = measure(model, [example(noise(8))], "start").gates

        assert (gate.shut, gate.open, gate.saturated) == (shut, open_, shut + open_)

    def test_frames_that_do_not_count_are_not_counted(self):
        model = make("mingru")
        layer = model.recurrence.layers[0][0]
        torch.nn.init.constant_(layer.gate.weight, 0.0)
        layer.gate.bias.data = torch.tensor([-9.0] * 2 + [0.0] * 6)
        counts = np.array([True] * 3 + [False] * 5)
        (gate,) = measure(model, [example(noise(8), mask=counts)], "start").gates

        assert gate.shut == 0.25

    @torch.no_grad()
    @pytest.mark.parametrize("cell", ["gru", "lstm"])
    def test_are_those_that_torch_computes_with(self, cell):
        """A step put together from the gates is torch's own."""
        layer = make_layer(cell, 3, 4).requires_grad_(False)
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter, std=0.7)
        x, h, c = torch.randn(2, 1, 3), torch.randn(2, 4), torch.randn(2, 4)
        state = torch.cat([h, c], dim=1) if cell == "lstm" else h
        outputs, after = layer(x, state, torch.tensor([1, 1]))
        gates = {k: v[:, 0] for k, v in gate_activations(layer, x, h.unsqueeze(1)).items()}
        weights = dict((layer.lstm if cell == "lstm" else layer.gru).named_parameters())
        w, u = weights["weight_ih_l0"], weights["weight_hh_l0"]
        bw, bu = weights["bias_ih_l0"], weights["bias_hh_l0"]
        if cell == "lstm":
            g = torch.tanh((x[:, 0] @ w.T + bw + h @ u.T + bu)[:, 8:12])
            expected = gates["forget"] * c + gates["input"] * g
            torch.testing.assert_close(after[:, 4:], expected)
            torch.testing.assert_close(outputs[:, 0], gates["output"] * torch.tanh(expected))
        else:
            driven, kept = x[:, 0] @ w[8:].T + bw[8:], h @ u[8:].T + bu[8:]
            new = torch.tanh(driven + gates["reset"] * kept)
            expected = (1 - gates["keep"]) * new + gates["keep"] * h
            torch.testing.assert_close(outputs[:, 0], expected)


class TestCompared:
    def test_all_look_back_only(self):
        given = TemporalOptions(cell="gru", size=6, heads=4, bidirectional=True, pooling="mean")
        for cell in COMPARED:
            options = looking_back(given, cell)

            assert (options.cell, options.pooling, options.bidirectional) == (cell, "last", False)
            assert options.causal
            assert options.size % options.heads == 0

    def test_before_training_gradients_fall_as_theory_says(self):
        """With gates half open minGRU halves each step; the identity and attention keep."""
        drawn = draw_recall(32, 40, seed=1)
        memory = {}
        for cell in COMPARED:
            options = looking_back(TemporalOptions(size=32), cell)
            model = untrained(drawn, LABELS, options, seed=0)
            memory[cell] = measure(model, drawn, "start").lags.relative[-1]

        assert memory["mingru"] < 1e-6
        assert memory["gru"] < 1e-4
        assert memory["rnn_tanh"] < 1e-3
        assert memory["lstm"] > 10 * memory["gru"]  # its forget gate begins open
        assert memory["transformer"] > 1e-3
        assert memory["rnn_relu"] > 1e-2


FAR = 39


@pytest.fixture(scope="module")
def learned():
    """All cells, trained on labels asked for up to 39 frames later, and measured at 39."""
    drawn = draw_recall(1024, FAR + 1)
    asked = draw_recall(128, FAR + 1, lag=FAR, seed=1)
    training = TrainingOptions(
        epochs=12, learning_rate=5e-3, label_smoothing=0, validation=0, device="cpu"
    )
    temporal = TemporalOptions(size=32)
    return {
        cell: diagnose_cell(cell, drawn, LABELS, temporal, training, measured_on=asked)
        for cell in COMPARED
    }


@pytest.mark.slow
class TestKnownLag:
    """A label is shown in one frame and asked for 39 frames later."""

    def test_the_plain_cell_forgets_and_does_not_learn(self, learned):
        trained = learned["rnn_tanh"].measured[1].lags

        assert trained.memory_steps < 6
        assert trained.relative[FAR] < 1e-3
        assert learned["rnn_tanh"].history[-1].accuracy < 0.75

    @pytest.mark.parametrize("cell", [*GATED, "transformer"])
    def test_gates_and_attention_look_at_the_frame_that_matters(self, learned, cell):
        trained = learned[cell].measured[1].lags

        assert trained.norms.argmax() == FAR
        assert trained.memory_steps > 15
        assert learned[cell].history[-1].accuracy > 0.9

    def test_the_identity_carries_the_gradient(self, learned):
        for at in learned["rnn_relu"].measured:
            assert at.lags.relative[FAR] > 1e-2


def test_training_opens_the_gate_for_what_matters():
    """The short twin of the above: a gated cell at a lag of 19, which before it had forgotten."""
    drawn = draw_recall(512, LAG + 1)
    asked = draw_recall(64, LAG + 1, lag=LAG, seed=1)
    temporal = TemporalOptions(size=24)
    told = []
    found = diagnose_cell(
        *("gru", drawn, LABELS, temporal, TRAINING),
        measured_on=asked,
        on_epoch=lambda cell, epoch: told.append((cell, epoch.number)),
    )
    start, trained = (at.lags for at in found.measured)

    assert [at.stage for at in found.measured] == ["start", "trained"]
    assert start.relative[LAG] < 1e-2
    assert trained.norms.argmax() == LAG
    assert trained.memory_steps > 2 * start.memory_steps
    assert told == [("gru", number) for number in range(1, 9)]
    assert all(epoch.gradient_norm > 0 for epoch in found.history)


class TestDrawn:
    def test_the_label_is_shown_where_it_is_said_to_be(self):
        """The noise of four hundred sequences cancels, the mark and the label stay."""
        drawn = draw_recall(400, 30, lag=12)
        mean = np.mean([one.features for one in drawn], axis=0)
        shown = np.mean([one.features[17, one.label] for one in drawn])

        assert mean[:, LABELS].argmax() == 29 - 12
        assert mean[17, LABELS] == pytest.approx(1, abs=0.1)
        assert np.abs(np.delete(mean, 17, axis=0)).max() < 0.1
        assert shown == pytest.approx(1, abs=0.1)

    def test_lags_are_all_there_unless_one_is_named(self):
        marks = np.mean([one.features[:, LABELS] for one in draw_recall(4000, 8)], axis=0)

        np.testing.assert_allclose(marks, 1 / 8, atol=0.04)

    def test_the_same_seed_draws_the_same(self):
        one, other, third = draw_recall(3, 5), draw_recall(3, 5), draw_recall(3, 5, seed=1)

        assert all(np.array_equal(a.features, b.features) for a, b in zip(one, other, strict=True))
        assert not np.array_equal(one[0].features, third[0].features)
