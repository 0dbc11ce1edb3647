"""Recurrent layers: formulas, initialization, state, and the linear scan."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.temporal.cells import (
    CELLS,
    GRULayer,
    LSTMLayer,
    MinGRULayer,
    last_states,
    linear_scan,
    make_layer,
)

N, LENGTH, INPUTS, SIZE = 3, 9, 5, 4


@pytest.fixture
def x():
    return torch.randn(N, LENGTH, INPUTS)


def full(length=LENGTH, n=N):
    return torch.full((n,), length)


def zeros(layer, n=N):
    return torch.zeros(n, layer.state_size)


def randomized(cell):
    """Make a layer with random values in all parameters."""
    layer = make_layer(cell, INPUTS, SIZE)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.4)
    return layer.requires_grad_(False)


def is_orthogonal(weight):
    return torch.allclose(weight @ weight.T, torch.eye(len(weight)), atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
class TestEveryCell:
    def test_shapes(self, cell, x):
        layer = randomized(cell)
        outputs, state = layer(x, zeros(layer), full())

        assert outputs.shape == (N, LENGTH, SIZE)
        assert state.shape == (N, layer.state_size)

    def test_chunks_give_the_same_outputs_as_the_whole(self, cell, x):
        layer = randomized(cell)
        expected, last = layer(x, zeros(layer), full())
        state, parts = zeros(layer), []
        for part in x.split([2, 1, 4, 2], dim=1):
            outputs, state = layer(part, state, full(part.shape[1]))
            parts.append(outputs)

        torch.testing.assert_close(torch.cat(parts, dim=1), expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(state, last, atol=1e-6, rtol=1e-5)

    def test_padding_has_no_influence(self, cell, x):
        layer = randomized(cell)
        lengths = torch.tensor([4, 9, 1])
        outputs, state = layer(x, zeros(layer), lengths)
        for number, length in enumerate(lengths.tolist()):
            alone, after = layer(x[number : number + 1, :length], zeros(layer, 1), full(length, 1))
            torch.testing.assert_close(outputs[number, :length], alone[0], atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(state[number], after[0], atol=1e-6, rtol=1e-5)

    def test_without_a_valid_step_the_state_is_kept(self, cell, x):
        layer = randomized(cell)
        before = torch.randn(N, layer.state_size)
        _, after = layer(x, before, torch.tensor([0, 9, 0]))

        assert torch.equal(after[[0, 2]], before[[0, 2]])
        assert not torch.equal(after[1], before[1])

    def test_sequences_of_length_0(self, cell, x):
        layer = randomized(cell)
        before = torch.randn(N, layer.state_size)
        outputs, after = layer(x[:, :0], before, full(0))

        assert outputs.shape == (N, 0, SIZE)
        assert torch.equal(after, before)

    def test_outputs_do_not_depend_on_future_steps(self, cell, x):
        layer = randomized(cell)
        changed = x.clone()
        changed[:, 6:] += 1
        before, _ = layer(x, zeros(layer), full())
        after, _ = layer(changed, zeros(layer), full())

        torch.testing.assert_close(after[:, :6], before[:, :6], atol=1e-6, rtol=1e-5)
        assert (after[:, 6:] - before[:, 6:]).abs().max() > 1e-3


class TestElman:
    @pytest.mark.parametrize(
        ("cell", "activation"),
        [
            ("rnn_tanh", np.tanh),
            ("rnn_relu", lambda x: np.maximum(x, 0)),
            ("rnn_leaky_relu", lambda x: np.where(x > 0, x, 0.01 * x)),
        ],
    )
    def test_matches_its_formula(self, cell, activation, x):
        layer = randomized(cell)
        weights = [layer.input.weight, layer.input.bias, layer.recurrent.weight]
        w, b, u = (weight.detach().numpy() for weight in weights)
        h = np.zeros((N, SIZE))
        expected = []
        for step in x.numpy().swapaxes(0, 1):
            h = activation(step @ w.T + b + h @ u.T)
            expected.append(h)
        with torch.no_grad():
            found, state = layer(x, zeros(layer), full())

        np.testing.assert_allclose(found.numpy(), np.stack(expected, axis=1), atol=1e-5)
        np.testing.assert_allclose(state.numpy(), h, atol=1e-5)

    def test_tanh_is_initialized_orthogonal(self):
        assert is_orthogonal(make_layer("rnn_tanh", INPUTS, 16).recurrent.weight)

    @pytest.mark.parametrize("cell", ["rnn_relu", "rnn_leaky_relu"])
    def test_relu_is_initialized_to_the_identity(self, cell):
        layer = make_layer(cell, INPUTS, 16)

        assert torch.equal(layer.recurrent.weight, torch.eye(16))
        assert not layer.input.bias.any()

    @torch.no_grad()
    def test_an_untrained_relu_layer_keeps_its_state(self):
        """With zero inputs, the identity keeps the state for a thousand steps."""
        layer = make_layer("rnn_relu", INPUTS, 16)
        state = torch.rand(1, 16)
        _, after = layer(torch.zeros(1, 1000, INPUTS), state, full(1000, 1))

        assert torch.equal(after, state)


class TestLSTM:
    def test_the_forget_gate_bias_is_initialized_to_1(self):
        parameters = dict(LSTMLayer(INPUTS, SIZE).lstm.named_parameters())
        bias = (parameters["bias_ih_l0"] + parameters["bias_hh_l0"]).detach()
        expected = torch.zeros(4, SIZE)
        expected[1] = 1  # torch orders the gates: input, forget, cell, output

        assert torch.equal(bias.view(4, SIZE), expected)

    def test_the_weights_of_each_gate_are_initialized_orthogonal(self):
        gates = LSTMLayer(INPUTS, 16).lstm.weight_hh_l0.chunk(4)

        assert len(gates) == 4
        assert all(is_orthogonal(gate) for gate in gates)

    @torch.no_grad()
    def test_outputs_and_state_are_those_of_torch(self, x):
        layer = randomized("lstm")
        state = torch.randn(N, 2 * SIZE)
        h, c = state[:, :SIZE], state[:, SIZE:]
        outputs, after = layer(x, state, full())
        expected, (h, c) = layer.lstm(x, (h[None].contiguous(), c[None].contiguous()))

        torch.testing.assert_close(outputs, expected)
        torch.testing.assert_close(after, torch.cat([h[0], c[0]], dim=1))


class TestGRU:
    def test_the_weights_of_each_gate_are_initialized_orthogonal(self):
        layer = GRULayer(INPUTS, 16)
        gates = layer.gru.weight_hh_l0.chunk(3)

        assert len(gates) == 3
        assert all(is_orthogonal(gate) for gate in gates)
        assert not layer.gru.bias_ih_l0.any()
        assert not layer.gru.bias_hh_l0.any()

    @torch.no_grad()
    def test_matches_its_formula(self, x):
        layer = randomized("gru")
        w, u, bw, bu = (parameter.numpy() for parameter in layer.gru.parameters())

        def sigmoid(value):
            return 1 / (1 + np.exp(-value))

        h = np.zeros((N, SIZE))
        for step in x.numpy().swapaxes(0, 1):
            wr, wz, wn = np.split(step @ w.T + bw, 3, axis=1)
            ur, uz, un = np.split(h @ u.T + bu, 3, axis=1)
            z = sigmoid(wz + uz)
            h = (1 - z) * np.tanh(wn + sigmoid(wr + ur) * un) + z * h
        _, state = layer(x, zeros(layer), full())

        np.testing.assert_allclose(state.numpy(), h, atol=1e-5)


class TestMinGRU:
    @torch.no_grad()
    def test_matches_its_formula(self, x):
        layer = MinGRULayer(INPUTS, SIZE)
        state = torch.randn(N, SIZE)
        h, expected = state, []
        for step in x.unbind(1):
            z = torch.sigmoid(layer.gate(step))
            h = (1 - z) * h + z * layer.candidate(step)
            expected.append(h)
        found, after = layer(x, state, full())

        torch.testing.assert_close(found, torch.stack(expected, dim=1), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(after, h, atol=1e-6, rtol=1e-5)


def loop(keep, add, first):
    h, states = first, []
    for step in range(keep.shape[1]):
        h = keep[:, step] * h + add[:, step]
        states.append(h)
    return torch.stack(states, dim=1)


def scan_inputs(length, dtype=torch.float64, n=2, size=3):
    keep = torch.rand(n, length, size, dtype=dtype)
    add = torch.randn(n, length, size, dtype=dtype)
    return keep, add, torch.randn(n, size, dtype=dtype)


class TestLinearScan:
    @settings(max_examples=50, deadline=None)
    @given(length=st.integers(1, 70), seed=st.integers(0, 1000))
    def test_it_equals_a_loop(self, length, seed):
        torch.manual_seed(seed)
        inputs = scan_inputs(length)

        torch.testing.assert_close(linear_scan(*inputs), loop(*inputs), atol=1e-12, rtol=1e-10)

    @pytest.mark.parametrize("kept", [0.0, 1.0])
    def test_closed_and_open_gates(self, kept):
        _, add, first = scan_inputs(40)
        keep = torch.full_like(add, kept)

        torch.testing.assert_close(linear_scan(keep, add, first), loop(keep, add, first))

    def test_length_0(self):
        keep, add, first = scan_inputs(0)

        assert linear_scan(keep, add, first).shape == (2, 0, 3)

    def test_inputs_are_not_modified(self):
        inputs = scan_inputs(12)
        copies = [value.clone() for value in inputs]
        linear_scan(*inputs)

        assert all(torch.equal(a, b) for a, b in zip(inputs, copies, strict=True))

    @pytest.mark.parametrize("length", [1, 2, 5, 11])
    def test_gradient(self, length):
        inputs = [value.requires_grad_() for value in scan_inputs(length)]

        assert torch.autograd.gradcheck(linear_scan, inputs)

    def test_the_gradient_of_a_long_sequence_equals_that_of_a_loop(self):
        inputs = [value.requires_grad_() for value in scan_inputs(300)]
        weights = torch.randn(2, 300, 3, dtype=torch.float64)
        found = torch.autograd.grad((linear_scan(*inputs) * weights).sum(), inputs)
        expected = torch.autograd.grad((loop(*inputs) * weights).sum(), inputs)

        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8)

    @pytest.mark.parametrize("min_keep", [0.0, 0.99])
    def test_error_does_not_grow_with_the_length(self, min_keep):
        """Gates near 1 remember thousands of steps."""
        keep, add, first = scan_inputs(4096, n=1, size=16)
        keep = min_keep + (1 - min_keep) * keep
        add = (1 - keep) * add  # as in minGRU: the state is a weighted mean
        expected = loop(keep, add, first)
        found = linear_scan(keep.float(), add.float(), first.float())

        assert (found.double() - expected).abs().max() <= 1e-5


def test_last_states():
    states = torch.arange(2 * 3 * 1.0).view(2, 3, 1) + 1  # 1 2 3, 4 5 6
    first = torch.tensor([[-1.0], [-2.0]])

    assert last_states(states, first, torch.tensor([3, 1])).tolist() == [[3], [4]]
    assert last_states(states, first, torch.tensor([0, 2])).tolist() == [[-1], [5]]
