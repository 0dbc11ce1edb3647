"""
Recurrent layers with one interface: one layer, one direction, an explicit state.

Every layer maps (N, L, H_in) and a state to (N, L, H) and the state after the last valid step.
Padding follows the valid steps, so it does not affect them; `last_states` selects the states where
it begins.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.temporal.gru import run_gru

LEAKY_RELU_SLOPE = 0.01


class RecurrentLayer(Protocol):
    """One recurrent layer. Its state is (N, S): S is `state_size`."""

    state_size: int

    def __call__(self, x: Tensor, state: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """
        Run over a sequence.

        Args:
            x: (N, L, H_in).
            state: (N, S), before the first step.
            lengths: (N,), number of valid steps; the others, at the end, are padding.

        Returns:
            Outputs (N, L, H), and the state (N, S) after the last valid step.
        """


def last_states(states: Tensor, first: Tensor, lengths: Tensor) -> Tensor:
    """Select from states (N, L, S) the one after `lengths` (N,) steps; `first` (N, S) after 0."""
    all_states = torch.cat([first.unsqueeze(1), states], dim=1)  # (N, L + 1, S)
    index = lengths.view(-1, 1, 1).expand(-1, 1, all_states.shape[2])
    return all_states.gather(1, index).squeeze(1)  # (N, S)


class ElmanLayer(nn.Module):
    """
    Plain RNN: h_t = f(W x_t + U h_{t-1} + b).

    Args:
        input_size, size: H_in and H.
        activation: `tanh`, `relu` (U is initialized to the identity, Le et al. 2015), or
            `leaky_relu` (likewise).
    """

    def __init__(self, input_size: int, size: int, activation: str) -> None:
        super().__init__()
        self.state_size = size
        self.activation = activation
        self.input = nn.Linear(input_size, size)
        self.recurrent = nn.Linear(size, size, bias=False)
        if activation == "tanh":
            nn.init.orthogonal_(self.recurrent.weight)
        else:
            nn.init.eye_(self.recurrent.weight)
            nn.init.normal_(self.input.weight, std=1 / math.sqrt(input_size))
            nn.init.zeros_(self.input.bias)

    def forward(self, x: Tensor, state: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Run over a sequence: see `RecurrentLayer`."""
        projected = self.input(x)
        if x.shape[1] == 0:
            return projected, state
        outputs, h = [], state
        for step in projected.unbind(1):
            h = self._activate(step + self.recurrent(h))
            outputs.append(h)
        states = torch.stack(outputs, dim=1)  # (N, L, H)
        return states, last_states(states, state, lengths)

    def _activate(self, x: Tensor) -> Tensor:
        if self.activation == "tanh":
            return torch.tanh(x)
        slope = LEAKY_RELU_SLOPE if self.activation == "leaky_relu" else 0.0
        return functional.leaky_relu(x, slope)


class LSTMLayer(nn.Module):
    """LSTM whose forget gate bias is initialized to 1. The state is (h, c)."""

    def __init__(self, input_size: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.state_size = 2 * size
        self.lstm = nn.LSTM(input_size, size, batch_first=True)
        parameters = dict(self.lstm.named_parameters())
        for gate in parameters["weight_hh_l0"].chunk(4):
            nn.init.orthogonal_(gate)
        nn.init.zeros_(parameters["bias_hh_l0"])
        nn.init.zeros_(parameters["bias_ih_l0"])
        with torch.no_grad():
            parameters["bias_ih_l0"][size : 2 * size] = 1.0

    def forward(self, x: Tensor, state: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Run over a sequence: see `RecurrentLayer`."""
        if x.shape[1] == 0:
            return x.new_zeros(x.shape[0], 0, self.size), state
        h, c = (part.unsqueeze(0).contiguous() for part in state.chunk(2, dim=1))
        packed = nn.utils.rnn.pack_padded_sequence(
            x, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
        )
        outputs, (h, c) = self.lstm(packed, (h, c))
        padded, _ = nn.utils.rnn.pad_packed_sequence(
            outputs, batch_first=True, total_length=x.shape[1]
        )
        after = torch.cat([h[0], c[0]], dim=1)
        return padded, torch.where((lengths > 0).unsqueeze(1), after, state)


class GRULayer(nn.Module):
    """GRU with orthogonal initialization of the recurrent weights."""

    def __init__(self, input_size: int, size: int) -> None:
        super().__init__()
        self.state_size = size
        self.gru = nn.GRU(input_size, size, batch_first=True)
        parameters = dict(self.gru.named_parameters())
        for gate in parameters["weight_hh_l0"].chunk(3):
            nn.init.orthogonal_(gate)
        nn.init.zeros_(parameters["bias_hh_l0"])
        nn.init.zeros_(parameters["bias_ih_l0"])

    def forward(self, x: Tensor, state: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Run over a sequence: see `RecurrentLayer`."""
        if x.shape[1] == 0:
            return x.new_zeros(x.shape[0], 0, self.state_size), state
        if x.device.type == "cpu" and torch.is_grad_enabled():
            outputs = self._run_with_gradient(x, state)
        else:
            outputs, _ = self.gru(x, state.unsqueeze(0).contiguous())
        return outputs, last_states(outputs, state, lengths)

    def _run_with_gradient(self, x: Tensor, state: Tensor) -> Tensor:
        """Give the outputs (N, L, H) of a sequence by a function that is fast in training."""
        gates = 2 * self.state_size
        input_weight, weight, input_bias, bias = self.gru.parameters()
        both = input_bias + functional.pad(bias[:gates], (0, self.state_size))
        return run_gru(functional.linear(x, input_weight, both), state, weight, bias[gates:])


class MinGRULayer(nn.Module):
    """
    minGRU (Feng et al. 2024): gates do not depend on the state, so a sequence is one linear scan.

        z_t = sigmoid(W_z x_t),  h_t = (1 - z_t) h_{t-1} + z_t W_h x_t
    """

    def __init__(self, input_size: int, size: int) -> None:
        super().__init__()
        self.state_size = size
        self.gate = nn.Linear(input_size, size)
        self.candidate = nn.Linear(input_size, size)

    def forward(self, x: Tensor, state: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Run over a sequence: see `RecurrentLayer`."""
        z = torch.sigmoid(self.gate(x))
        states = linear_scan(1 - z, z * self.candidate(x), state)
        return states, last_states(states, state, lengths)


def linear_scan(keep: Tensor, add: Tensor, first: Tensor) -> Tensor:
    """
    Solve h_t = keep_t · h_{t-1} + add_t for all t.

    Args:
        keep, add: (N, L, H), keep in [0, 1].
        first: h before the first step, (N, H).

    Returns:
        h, (N, L, H).
    """
    if keep.shape[1] == 0:
        return add
    add = torch.cat([add[:, :1] + keep[:, :1] * first.unsqueeze(1), add[:, 1:]], dim=1)
    result: Tensor = _LinearScan.apply(keep, add)
    return result


class _LinearScan(torch.autograd.Function):
    """
    Linear scan in blocks of about √L steps: within all blocks in parallel, then block by block.

    It is computed in linear space, where the error does not grow with L as it does in log space.
    The gradient is the same scan in reverse, so only `keep` and the output are saved for it.
    """

    @staticmethod
    def forward(ctx: Any, keep: Tensor, add: Tensor) -> Tensor:
        states = _scan_blocks(keep, add)
        ctx.save_for_backward(keep, states)
        return states

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        keep, states = ctx.saved_tensors
        next_keep = functional.pad(keep[:, 1:], (0, 0, 0, 1)).flip(1)
        add_gradient = _scan_blocks(next_keep, gradient.flip(1)).flip(1)
        previous_states = functional.pad(states[:, :-1], (0, 0, 1, 0))
        return add_gradient * previous_states, add_gradient


def _scan_blocks(keep: Tensor, add: Tensor) -> Tensor:
    n, length, size = add.shape
    block = math.isqrt(length - 1) + 1
    blocks = -(-length // block)
    padding = blocks * block - length
    keep = functional.pad(keep, (0, 0, 0, padding)).reshape(n, blocks, block, size).clone()
    h = functional.pad(add, (0, 0, 0, padding)).reshape(n, blocks, block, size).clone()
    for step in range(1, block):
        h[:, :, step].addcmul_(keep[:, :, step], h[:, :, step - 1])
        keep[:, :, step].mul_(keep[:, :, step - 1])  # cumulative product within the block
    for number in range(1, blocks):
        h[:, number].addcmul_(keep[:, number], h[:, number - 1, -1:])
    return h.reshape(n, blocks * block, size)[:, :length]


CELLS = ("rnn_tanh", "rnn_relu", "rnn_leaky_relu", "lstm", "gru", "mingru")
"""Names of the recurrent cells."""


def make_layer(cell: str, input_size: int, size: int) -> nn.Module:
    """Create one recurrent layer."""
    if cell.startswith("rnn_"):
        return ElmanLayer(input_size, size, cell.removeprefix("rnn_"))
    kinds = {"lstm": LSTMLayer, "gru": GRULayer, "mingru": MinGRULayer}
    return kinds[cell](input_size, size)
