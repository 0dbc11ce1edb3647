"""The GRU for training on the CPU gives the outputs and gradients of torch's GRU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.temporal import gru
from pipeline.temporal.cells import GRULayer, last_states


def outputs_and_gradients(layer, x, state, lengths, run):
    tensors = [x, state, *layer.parameters()]
    outputs, last = run(x, state, lengths)
    loss = outputs.sin().sum() + last.cos().sum()
    return [outputs, last, *torch.autograd.grad(loss, tensors)]


def compare(layer, n, length, *, atol):
    """Compare a layer with its `torch.nn.GRU` on noise."""
    dtype = layer.gru.weight_hh_l0.dtype
    x = torch.randn(n, length, layer.gru.input_size, dtype=dtype, requires_grad=True)
    state = torch.randn(n, layer.state_size, dtype=dtype, requires_grad=True)
    lengths = torch.randint(0, length + 1, (n,))

    def reference(x, state, lengths):
        outputs, _ = layer.gru(x, state.unsqueeze(0))
        return outputs, last_states(outputs, state, lengths)

    found = outputs_and_gradients(layer, x, state, lengths, layer)
    expected = outputs_and_gradients(layer, x, state, lengths, reference)
    for one, other in zip(found, expected, strict=True):
        scale = max(1.0, float(other.detach().abs().max()))
        torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=atol)


@pytest.mark.parametrize(("n", "length"), [(1, 1), (5, 40), (1, 1000), (3, 700)])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_outputs_and_gradients_are_those_of_torch(n, length, dtype, atol):
    torch.manual_seed(0)
    layer = GRULayer(6, 9).to(dtype)
    nn.init.normal_(layer.gru.bias_hh_l0)  # as after training: the bias of the new gate matters

    compare(layer, n, length, atol=atol)


@pytest.mark.parametrize("bias", [-3.0, 6.0, 30.0])
def test_blocks_of_a_cell_that_forgets_nothing(bias):
    """The update gate is z = sigmoid(bias + …): the state is kept for 1 / (1 − z) steps."""
    torch.manual_seed(0)
    layer = GRULayer(6, 9).double()
    with torch.no_grad():
        layer.gru.bias_ih_l0[9:18] = bias

    compare(layer, 1, 1200, atol=1e-11)


def test_long_sequences_run_in_blocks(monkeypatch):
    """So a training step has few operations in Python: about one loop of 256 steps."""
    loops, forward = [], gru._forward
    monkeypatch.setattr(
        gru, "_forward", lambda *given: loops.append(given[2].shape) or forward(*given)
    )
    layer, x = GRULayer(4, 8), torch.randn(1, 4096, 4)

    layer(x, torch.zeros(1, 8), torch.tensor([4096]))

    steps, rows, _ = loops[0]
    assert (steps - 1, rows) == (256, 16)
    assert len(loops) < 5
