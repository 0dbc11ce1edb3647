"""Saturation of the gates of recurrent cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.diagnostics.gradients import compact_batches
from pipeline.temporal.batching import Example
from pipeline.temporal.cells import GRULayer, LSTMLayer, MinGRULayer
from pipeline.temporal.layers import RecurrentLayers
from pipeline.temporal.models import TemporalModel

CLOSED, OPEN = 0.05, 0.95
"""Gates below and above are saturated: their sigmoid has almost no gradient."""


@dataclass(frozen=True, slots=True)
class GateSaturation:
    """Saturation of one gate of one layer, over all frames and units."""

    layer: int
    """From 0."""
    gate: str
    closed: float
    """Share of activations below 0.05."""
    open: float
    """Share of activations above 0.95."""

    @property
    def saturated(self) -> float:
        """Share of activations that are closed or open."""
        return self.closed + self.open


def measure_gates(model: TemporalModel, examples: Sequence[Example]) -> tuple[GateSaturation, ...]:
    """Measure the saturation of all gates; none for cells without gates."""
    shares: dict[tuple[int, str], list[Tensor]] = {}
    recurrence = model.recurrence
    recurrent = recurrence.layers if isinstance(recurrence, RecurrentLayers) else ()
    layers = [cast(nn.ModuleList, directions)[0] for directions in recurrent]
    hooks = [
        layer.register_forward_hook(partial(_record_gates, shares, number))
        for number, layer in enumerate(layers)
        if isinstance(layer, (LSTMLayer, GRULayer, MinGRULayer))
    ]
    with torch.inference_mode():
        for batch in compact_batches(examples, model):
            model(batch.x, batch.mask)
    for hook in hooks:
        hook.remove()
    return tuple(
        GateSaturation(layer, gate, *(float(share) for share in torch.cat(parts).mean(0)))
        for (layer, gate), parts in sorted(shares.items())
    )


def _record_gates(
    shares: dict[tuple[int, str], list[Tensor]],
    number: int,
    layer: nn.Module,
    inputs: tuple[Tensor, Tensor, Tensor],
    results: tuple[Tensor, Tensor],
) -> None:
    """Record the shares of closed and open gates of a layer, (steps, 2), for valid frames."""
    x, state, lengths = inputs
    outputs = results[0]
    previous = torch.cat([state[:, : outputs.shape[2]].unsqueeze(1), outputs[:, :-1]], dim=1)
    mask = torch.arange(x.shape[1]) < lengths.unsqueeze(1)
    for gate, values in gate_activations(layer, x, previous).items():
        valid = values[mask]  # (steps, H)
        both = [(valid < CLOSED).double().mean(1), (valid > OPEN).double().mean(1)]
        shares.setdefault((number, gate), []).append(torch.stack(both, dim=1))


def gate_activations(layer: nn.Module, x: Tensor, previous: Tensor) -> dict[str, Tensor]:
    """
    Compute the gates of a recurrent layer.

    Args:
        layer: an LSTM, a GRU or a minGRU.
        x: its input, (N, L, H_in).
        previous: its output at the step before each step, (N, L, H).

    Returns:
        Activations by the name of the gate, (N, L, H), in [0, 1].
    """
    if isinstance(layer, MinGRULayer):
        return {"update": torch.sigmoid(layer.gate(x))}
    inner = layer.lstm if isinstance(layer, LSTMLayer) else cast(GRULayer, layer).gru
    weights: dict[str, Any] = dict(inner.named_parameters())
    projected = functional.linear(x, weights["weight_ih_l0"], weights["bias_ih_l0"])
    projected = projected + functional.linear(
        previous, weights["weight_hh_l0"], weights["bias_hh_l0"]
    )
    if isinstance(layer, LSTMLayer):
        gates = torch.sigmoid(projected).chunk(4, dim=2)
        return {"input": gates[0], "forget": gates[1], "output": gates[3]}
    # torch keeps the previous state where this gate is open: it is 1 - update of the paper
    gates = torch.sigmoid(projected).chunk(3, dim=2)
    return {"reset": gates[0], "keep": gates[1]}
