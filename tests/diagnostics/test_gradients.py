"""Gradients by lag, compared with autograd and known formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.diagnostics.compare_cells import measure
from pipeline.diagnostics.gradients import GradientByLag
from tests.diagnostics.synthetic_sequences import example, make, noise


class TestGradients:
    def test_equals_the_gradient_of_autograd(self):
        """In standard deviations of the features."""
        model = make("gru").double()
        std = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
        model.set_standardization(torch.zeros(3, dtype=torch.float64), std)
        values = noise(6)
        x = torch.from_numpy(values.astype(np.float32)).double()[None].requires_grad_()
        loss = -torch.log_softmax(model(x).frames[0, -1], dim=0)[1]
        (gradient,) = torch.autograd.grad(loss, x)
        expected = (gradient[0] * std).norm(dim=1).flip(0)

        found = measure(model.float(), [example(values, label=1)], "start").gradients
        np.testing.assert_allclose(found.norms, expected.numpy(), rtol=1e-5)

    def test_with_signed_root_it_is_the_gradient_with_respect_to_the_roots(self):
        """As after a ReLU: many features are 0, where the derivative of the root is infinite."""
        rooted, plain = make("gru", signed_root=True), make("gru")
        std = torch.tensor([0.5, 1.0, 2.0])
        for model in (rooted, plain):
            model.set_standardization(torch.tensor([0.3, 0.0, 1.0]), std)
        values = np.maximum(noise(6), 0)
        assert 0.3 < (values == 0).mean() < 0.7

        found = measure(rooted, [example(values)], "start")
        expected = measure(plain, [example(np.sqrt(values))], "start")

        np.testing.assert_allclose(found.gradients.norms, expected.gradients.norms, rtol=1e-5)
        assert found.gradients.norms.min() > 0
        assert found.gates == pytest.approx(expected.gates)

    def test_a_constant_feature_has_no_gradient(self):
        model = make("gru")
        model.set_standardization(torch.zeros(3), torch.tensor([0.5, 0.0, 2.0]))
        values, other = noise(6), noise(6)
        other[:, 1] = 7
        found = measure(model, [example(values)], "start").gradients

        assert np.isfinite(found.norms).all()
        np.testing.assert_array_equal(
            measure(model, [example(other)], "start").gradients.norms, found.norms
        )

    @pytest.mark.parametrize("kept", [0.5, 0.9])
    def test_a_cell_with_a_constant_gate_decays_exponentially(self, kept):
        """MinGRU with a constant gate: the gradient is multiplied by `kept` at each step."""
        model = make("mingru", layer_norm=False)
        layer = model.recurrence.layers[0][0]
        torch.nn.init.zeros_(layer.gate.weight)
        torch.nn.init.constant_(layer.gate.bias, float(np.log((1 - kept) / kept)))
        lags = measure(model, [example(noise(30, seed=n)) for n in range(3)], "start").gradients

        np.testing.assert_allclose(lags.relative, kept ** np.arange(30), rtol=1e-4)
        powers = kept ** np.arange(30)
        assert lags.effective_memory == pytest.approx(
            (powers * np.arange(30)).sum() / powers.sum(), rel=1e-4
        )

    def test_the_identity_preserves_gradients(self):
        """Le et al. 2015: positive states are not changed."""
        model = make("rnn_relu", layer_norm=False)
        layer = model.recurrence.layers[0][0]
        torch.nn.init.constant_(layer.input.bias, 10.0)
        lags = measure(model, [example(noise(40))], "start").gradients

        np.testing.assert_allclose(lags.relative, 1, rtol=1e-4)
        assert lags.effective_memory == pytest.approx(19.5)

    def test_a_mean_depends_on_its_own_frame_only(self):
        lags = measure(make("mean"), [example(noise(10))], "start").gradients

        assert lags.norms[0] > 0
        assert not lags.norms[1:].any()
        assert lags.effective_memory == 0

    def test_gradients_too_small_for_float32(self):
        model = make("mingru")
        torch.nn.init.constant_(model.recurrence.layers[0][0].gate.bias, 3.0)
        lags = measure(model, [example(noise(100))], "start").gradients

        assert 0 < lags.norms[-1] < 1e-60

    def test_masked_frames_have_no_influence(self):
        values = noise(12)
        mask = np.ones(12, np.bool_)
        mask[[0, 5, 11]] = False
        model = make("lstm")
        found = measure(model, [example(values, mask=mask)], "start").gradients
        expected = measure(model, [example(values[mask])], "start").gradients

        np.testing.assert_allclose(found.norms, expected.norms, rtol=1e-6)

    def test_sequences_of_all_lengths_are_averaged_by_lag(self):
        model = make("gru")
        sequences = [example(noise(length, seed=length)) for length in (4, 9, 6)]
        alone = [measure(model, [one], "start").gradients.norms for one in sequences]
        found = measure(model, sequences, "start").gradients

        assert found.sequences.tolist() == [3] * 4 + [2] * 2 + [1] * 3
        np.testing.assert_allclose(found.norms[0], np.mean([a[0] for a in alone]), rtol=1e-6)
        np.testing.assert_allclose(found.norms[5], (alone[1][5] + alone[2][5]) / 2, rtol=1e-6)
        np.testing.assert_allclose(found.norms[8], alone[1][8], rtol=1e-6)

    def test_the_model_is_not_modified(self):
        model = make("gru")
        before = {name: value.clone() for name, value in model.state_dict().items()}
        measure(model, [example(noise(5))], "start")

        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
        assert all(p.requires_grad and p.grad is None for p in model.parameters())

    def test_effective_memory_of_a_single_relevant_frame(self):
        norms = np.zeros(50)
        norms[37] = 1e-200

        assert GradientByLag(norms, np.ones(50, np.int64)).effective_memory == pytest.approx(37)
