"""Saturation of gates, and the gates that torch computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.diagnostics.compare_cells import measure
from pipeline.diagnostics.gates import gate_activations
from pipeline.temporal.cells import make_layer
from tests.diagnostics.synthetic_sequences import example, make, noise


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
    def test_each_layer_has_its_gates(self, cell, gates):
        found = measure(make(cell, layers=2), [example(noise(8))], "start").gates

        assert [(gate.layer, gate.gate) for gate in found] == [
            (layer, gate) for layer in (0, 1) for gate in gates if gates
        ]
        assert all(0 <= gate.closed <= 1 and 0 <= gate.open <= 1 for gate in found)

    @pytest.mark.parametrize(("bias", "closed", "open_"), [(-9.0, 1, 0), (9.0, 0, 1), (0.0, 0, 0)])
    def test_saturated_gates_are_counted(self, bias, closed, open_):
        model = make("mingru")
        layer = model.recurrence.layers[0][0]
        torch.nn.init.zeros_(layer.gate.weight)
        torch.nn.init.constant_(layer.gate.bias, bias)
        (gate,) = measure(model, [example(noise(8))], "start").gates

        assert (gate.closed, gate.open, gate.saturated) == (closed, open_, closed + open_)

    def test_masked_frames_are_ignored(self):
        model = make("mingru")
        layer = model.recurrence.layers[0][0]
        torch.nn.init.constant_(layer.gate.weight, 0.0)
        layer.gate.bias.data = torch.tensor([-9.0] * 2 + [0.0] * 6)
        mask = np.array([True] * 3 + [False] * 5)
        (gate,) = measure(model, [example(noise(8), mask=mask)], "start").gates

        assert gate.closed == 0.25

    @torch.no_grad()
    @pytest.mark.parametrize("cell", ["gru", "lstm"])
    def test_a_step_computed_from_the_gates_equals_that_of_torch(self, cell):
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
            projected, recurrent = x[:, 0] @ w[8:].T + bw[8:], h @ u[8:].T + bu[8:]
            new = torch.tanh(projected + gates["reset"] * recurrent)
            expected = (1 - gates["keep"]) * new + gates["keep"] * h
            torch.testing.assert_close(outputs[:, 0], expected)
