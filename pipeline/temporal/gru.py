"""
Training of a GRU on the CPU: a loop over time with few operations, and long sequences in blocks.

torch has no fused kernel for it: its autograd graph has dozens of nodes for each step. Here, the
caller projects the inputs in one matrix product, the loop has five operations for a step forwards
and three backwards, and gradients of weights are matrix products over all steps.

A step of 16 sequences costs little more than a step of one. So a long sequence is cut into blocks
that run at once, from guessed states. They run again from the states that the blocks before them
ended with, until these do not change. A GRU forgets, so two runs are usually enough. After as many
runs as there are blocks, the result is exact in any case. Gradients are propagated likewise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

MAX_ROWS = 16
"""Sequences, or blocks of them, that run at once."""
MIN_BLOCK_STEPS = 128
TOLERANCE = 8.0
"""Change of the state between blocks that is ignored, in units of the rounding error."""


def run_gru(projected: Tensor, state: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """
    Run a GRU as torch defines it, whose gates are in the order reset, update, new.

    Args:
        projected: inputs after their projection, (N, L, 3 H), with all biases but `bias`.
        state: before the first step, (N, H).
        weight: recurrent weights, (3 H, H).
        bias: recurrent bias of the new gate, (H,).

    Returns:
        The states after each step, (N, L, H).
    """
    states: Tensor = _GRU.apply(projected, state, weight, bias)
    return states


class _GRU(torch.autograd.Function):
    """The tensors of its loops are (T, M, ...): T steps of M rows, N sequences × B blocks."""

    @staticmethod
    def forward(ctx: Any, projected: Tensor, state: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        n, length, size = *projected.shape[:2], state.shape[1]
        blocks = max(1, min(length // MIN_BLOCK_STEPS, MAX_ROWS // n))
        gates = to_blocks(projected, blocks)  # reset, update, recurrent part of new
        new = gates[..., 2 * size :].clone()
        gates[..., 2 * size :] = bias
        inputs, states = (gates, new), gates.new_empty(len(gates) + 1, gates.shape[1], size)
        if blocks > 1:
            inputs = gates.clone(), new.clone()

        def run(start: Tensor) -> Tensor:
            states[0] = start
            _forward(inputs, (gates, new), states, weight)
            return states[-1]

        run_blocks(run, state, blocks)
        ctx.save_for_backward(gates, new, states, weight)
        ctx.blocks, ctx.length = blocks, length
        return from_blocks(states[1:], blocks, length)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        gates, new, states, weight = ctx.saved_tensors
        steps, rows, size = new.shape
        reset, update, recurrent = gates.unflatten(2, (3, size)).unbind(2)
        # derivatives of the next state with respect to the pre-activations
        by_new = (1 - update) * (1 - new * new)
        factors = torch.stack(
            [
                by_new * recurrent * reset * (1 - reset),
                (states[:-1] - new) * update * (1 - update),
                by_new * reset,
            ],
            dim=2,
        )  # (T, M, 3, H)
        outer = to_blocks(gradient, ctx.blocks)
        inner, by_gates = new.new_empty(steps, rows, size), torch.empty_like(factors)

        def run(carried: Tensor) -> Tensor:
            return _backward((outer, carried), (factors, update, weight), (inner, by_gates))

        first = run_blocks(run, gradient.new_zeros(len(gradient), size), ctx.blocks, reverse=True)
        flat = by_gates.flatten(2)  # (T, M, 3 H)
        by_weight = flat.flatten(0, 1).t() @ states[:-1].flatten(0, 1)
        by_bias = flat[..., 2 * size :].sum((0, 1))
        by_projected = torch.cat([flat[..., : 2 * size], inner * by_new], dim=2)
        return from_blocks(by_projected, ctx.blocks, ctx.length), first, by_weight, by_bias


def to_blocks(x: Tensor, blocks: int) -> Tensor:
    """Copy (N, L, D) to (T, N · blocks, D): T = L / blocks, rounded up; padded with zeros."""
    n, length, size = x.shape
    steps = -(-length // blocks)
    padded = functional.pad(x, (0, 0, 0, steps * blocks - length))
    rows = padded.reshape(n * blocks, steps, size)
    return rows.transpose(0, 1).clone(memory_format=torch.contiguous_format)


def from_blocks(x: Tensor, blocks: int, length: int) -> Tensor:
    """Undo `to_blocks`."""
    steps, rows, size = x.shape
    return x.transpose(0, 1).reshape(rows // blocks, blocks * steps, size)[:, :length]


def run_blocks(
    run: Callable[[Tensor], Tensor], first: Tensor, blocks: int, *, reverse: bool = False
) -> Tensor:
    """
    Run blocks until each starts with the state that the block before it ends with.

    Args:
        run: maps the states before all blocks, (N · blocks, H), to those after them.
        first: state before the first block, (N, H).
        blocks: number of blocks of each sequence.
        reverse: the blocks follow each other from the last to the first.

    Returns:
        The state after the last block, (N, H).
    """
    n, size = first.shape
    order = slice(None, None, -1) if reverse else slice(None)
    order_of = list(range(blocks))[order]
    start = first.new_zeros(n, blocks, size)
    start[:, order_of[0]] = first
    for _ in range(blocks):
        end = run(start.flatten(0, 1)).view(n, blocks, size)
        following = start.clone()
        following[:, order_of[1:]] = end[:, order_of[:-1]]
        tolerance = TOLERANCE * torch.finfo(end.dtype).eps * end.abs().amax()
        if bool(((following - start).abs() <= tolerance).all()):
            break
        start = following
    return end[:, order_of[-1]].clone()


def _forward(
    inputs: tuple[Tensor, Tensor], outputs: tuple[Tensor, Tensor], states: Tensor, weight: Tensor
) -> None:
    """
    Run all steps: h' = (1 - z) n + z h, n = tanh(x + r (W h + b)), r and z = sigmoid(x + W h).

    Args:
        inputs: of the gates (T, M, 3 H), with b in the last third, and x of the new gate (T, M, H).
        outputs: of the same shapes, filled with [r, z, W h + b] and n; may be the inputs.
        states: (T + 1, M, H), filled from its first row.
        weight: (3 H, H).
    """
    gates, new = outputs
    size = new.shape[2]
    matrix = weight.t().contiguous()
    parts = [gates[..., k * size : (k + 1) * size].unbind(0) for k in range(3)]
    sigmoids = gates[..., : 2 * size].unbind(0)
    steps = zip(
        *(inputs[0].unbind(0), inputs[1].unbind(0), gates.unbind(0), sigmoids),
        *(*parts, new.unbind(0), states[:-1].unbind(0), states[1:].unbind(0)),
        strict=True,
    )
    for given, x, gate, sigmoid, reset, update, recurrent, n, before, after in steps:
        torch.addmm(given, before, matrix, out=gate)
        sigmoid.sigmoid_()
        torch.addcmul(x, reset, recurrent, out=n).tanh_()
        torch.lerp(n, before, update, out=after)


def _backward(
    gradients: tuple[Tensor, Tensor],
    given: tuple[Tensor, Tensor, Tensor],
    outputs: tuple[Tensor, Tensor],
) -> Tensor:
    """
    Propagate gradients through all steps, from the last to the first.

    Args:
        gradients: of the states from outside, (T, M, H), and from the steps after the last, (M, H).
        given: factors (T, M, 3, H), update gates (T, M, H), weight (3 H, H).
        outputs: filled with the gradients of the states (T, M, H) and of the gates (T, M, 3, H).

    Returns:
        The gradient of the state before the first step, (M, H).
    """
    outer, carried = gradients
    factors, update, weight = given
    inner, by_gates = outputs
    zero = torch.zeros_like(carried)
    torch.add(outer[-1], carried, out=inner[-1])
    first = torch.empty_like(carried)
    steps = zip(
        inner.unsqueeze(2).unbind(0),
        inner.unbind(0),
        (first, *inner.unbind(0)[:-1]),
        (zero, *outer.unbind(0)[:-1]),
        *(factors.unbind(0), update.unbind(0), by_gates.unbind(0), by_gates.flatten(2).unbind(0)),
        strict=True,
    )
    for column, total, before, own, factor, keep, gates, flat in reversed(list(steps)):
        torch.mul(column, factor, out=gates)
        torch.addmm(torch.addcmul(own, total, keep), flat, weight, out=before)
    return first
