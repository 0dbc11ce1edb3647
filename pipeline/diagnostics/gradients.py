"""
What a temporal model remembers: gradients by lag, and gates that are stuck.

L_T is the cross-entropy of the last frame's label. The norm of its gradient with respect to the
features of a frame k steps before says how much that frame still matters: in a plain RNN it falls
like a power of k (or grows), gates and attention keep it. Everything is computed in float64, where
a gradient of 1e-200 is not yet 0.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pipeline.records import Integers
from pipeline.temporal.batching import Batch, Example, batches_by_length, collate
from pipeline.temporal.cells import GRULayer, LSTMLayer, MinGRULayer
from pipeline.temporal.models import TemporalModel, move_valid_to_front
from pipeline.temporal.normalization import fit_normalization
from pipeline.temporal.options import CellName, TemporalOptions, TrainingOptions
from pipeline.temporal.trainer import fit, predict
from pipeline.temporal.training_loop import Epoch

COMPARED: tuple[CellName, ...] = ("rnn_tanh", "rnn_relu", "lstm", "gru", "mingru", "transformer")
"""Cells that are set side by side."""
SHUT, OPEN = 0.05, 0.95
"""A gate beyond these is saturated: hardly any gradient passes through its sigmoid."""
BATCH = 16


@dataclass(frozen=True)
class LagProfile:
    """How much the last frame depends on each frame before it."""

    norms: NDArray[np.float64]
    """‖∂L_T/∂x_{T−k}‖ for k = 0, 1, …, a mean over sequences; x in standard deviations, and its
    signed square root where a model takes that."""
    sequences: Integers
    """Sequences that are long enough for each lag."""

    @cached_property
    def relative(self) -> NDArray[np.float64]:
        """Norms as shares of their greatest."""
        return self.norms / max(float(self.norms.max(initial=0)), np.finfo(np.float64).tiny)

    @property
    def memory_steps(self) -> float:
        """
        Effective memory: the mean lag, each lag weighted by its gradient norm.

        0 where only the last frame matters, half the length where all matter alike, and the lag of
        what has to be remembered where that alone matters.
        """
        return float((self.relative * np.arange(len(self.norms))).sum() / self.relative.sum())


@dataclass(frozen=True, slots=True)
class GateUse:
    """How one gate of one layer is used over all frames and units."""

    layer: int
    """From 0."""
    gate: str
    shut: float
    """Share of activations below 0.05."""
    open: float
    """Share of activations above 0.95."""

    @property
    def saturated(self) -> float:
        """Share of activations at either end."""
        return self.shut + self.open


@dataclass(frozen=True, slots=True)
class Measured:
    """One model as it is at one time."""

    stage: str
    """`start`: as initialized. `trained`. `saved`: a recognizer as it is."""
    accuracy: float
    """Of the clips that it was measured on."""
    lags: LagProfile
    gates: tuple[GateUse, ...]


@dataclass(frozen=True, slots=True)
class CellDiagnosis:
    """One cell: before training, after, and the way between."""

    name: str
    measured: tuple[Measured, ...]
    history: tuple[Epoch, ...] = ()


def measure(model: TemporalModel, examples: Sequence[Example], stage: str) -> Measured:
    """Measure a model on labelled sequences."""
    known = [example for example in examples if example.mask.any()]
    labels = np.array([example.label for example in known])
    right = predict(model, known).argmax(1) == labels
    exact, evened = of_standardized(model, known)
    return Measured(
        stage, float(right.mean()), measure_lags(exact, evened), measure_gates(exact, evened)
    )


def of_standardized(
    model: TemporalModel, examples: Sequence[Example]
) -> tuple[TemporalModel, list[Example]]:
    """
    Copy a model in float64 to one that is given what it standardizes, and examples with it.

    They differ where it takes signed square roots, whose slope has no end where a feature is 0.
    """
    exact = copy.deepcopy(model).double().eval().requires_grad_(False)
    exact.inputs.options = replace(exact.inputs.options, signed_root=False)
    evened = [
        replace(
            example, features=model.inputs.signed_sqrt(torch.from_numpy(example.features)).numpy()
        )
        for example in examples
    ]
    return exact, evened


def measure_lags(model: TemporalModel, examples: Sequence[Example]) -> LagProfile:
    """Measure the gradients of the last frame's loss, by lag."""
    longest = max(int(example.mask.sum()) for example in examples)
    total, count = np.zeros(longest), np.zeros(longest, np.int64)
    for batch in _batches(examples, model):
        norms, lengths = _gradient_norms(model, batch)
        for row, length in zip(norms, lengths.tolist(), strict=True):
            total[:length] += row[:length].flip(0).numpy()  # the last frame first
            count[:length] += 1
    return LagProfile(total / np.maximum(count, 1), count)


def _batches(examples: Sequence[Example], model: TemporalModel) -> Iterator[Batch]:
    """Give batches in the precision of a model, the frames that count in front."""
    kind = model.head.weight.dtype
    for numbers in batches_by_length(examples, BATCH):
        batch = collate([examples[number] for number in numbers])
        moved, lengths = move_valid_to_front(batch.x.to(kind), batch.mask)
        mask = torch.arange(moved.shape[1]) < lengths.unsqueeze(1)
        yield Batch(moved, mask, batch.labels)


def _gradient_norms(model: TemporalModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Give the norms by frame (N, L), and how many frames count (N,)."""
    x = batch.x.clone().requires_grad_()
    frames = model(x, batch.mask).frames  # (N, L, K); padding repeats the last that counts
    loss = functional.cross_entropy(frames[:, -1], batch.labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    scale = model.inputs.scale
    std = torch.where(scale > 0, 1 / scale, 0)  # (D,), 0 where a feature is not looked at
    return (gradient * std).norm(dim=2), batch.mask.sum(1)


def measure_gates(model: TemporalModel, examples: Sequence[Example]) -> tuple[GateUse, ...]:
    """Tell how often gates are shut or open; nothing for cells without gates."""
    seen: dict[tuple[int, str], list[Tensor]] = {}
    layers = [
        cast(nn.ModuleList, pair)[0]
        for pair in (model.recurrence.layers if model.recurrence else ())
    ]
    hooks = [
        layer.register_forward_hook(partial(_see, seen, number))
        for number, layer in enumerate(layers)
        if isinstance(layer, (LSTMLayer, GRULayer, MinGRULayer))
    ]
    with torch.inference_mode():
        for batch in _batches(examples, model):
            model(batch.x, batch.mask)
    for hook in hooks:
        hook.remove()
    return tuple(
        GateUse(layer, gate, *(float(share) for share in torch.cat(counts).mean(0)))
        for (layer, gate), counts in sorted(seen.items())
    )


def _see(
    seen: dict[tuple[int, str], list[Tensor]],
    number: int,
    layer: nn.Module,
    given: tuple[Tensor, Tensor, Tensor],
    gave: tuple[Tensor, Tensor],
) -> None:
    """Note which gates of a layer were shut and open in the frames that count."""
    x, state, lengths = given
    outputs = gave[0]
    before = torch.cat([state[:, : outputs.shape[2]].unsqueeze(1), outputs[:, :-1]], dim=1)
    counts = torch.arange(x.shape[1]) < lengths.unsqueeze(1)
    for gate, values in gate_activations(layer, x, before).items():
        kept = values[counts]  # (steps, H)
        ends = torch.stack([(kept < SHUT).double().mean(1), (kept > OPEN).double().mean(1)], dim=1)
        seen.setdefault((number, gate), []).append(ends)


def gate_activations(layer: nn.Module, x: Tensor, before: Tensor) -> dict[str, Tensor]:
    """
    Compute the gates of a recurrent layer.

    Args:
        layer: an LSTM, a GRU or a minGRU.
        x: what it was given, (N, L, H_in).
        before: its output of the step before each step, (N, L, H).

    Returns:
        Activations by the name of the gate, (N, L, H), in [0, 1].
    """
    if isinstance(layer, MinGRULayer):
        return {"update": torch.sigmoid(layer.gate(x))}
    inner = layer.lstm if isinstance(layer, LSTMLayer) else cast(GRULayer, layer).gru
    weights: dict[str, Any] = dict(inner.named_parameters())
    driven = functional.linear(x, weights["weight_ih_l0"], weights["bias_ih_l0"])
    driven = driven + functional.linear(before, weights["weight_hh_l0"], weights["bias_hh_l0"])
    if isinstance(layer, LSTMLayer):
        gates = torch.sigmoid(driven).chunk(4, dim=2)
        return {"input": gates[0], "forget": gates[1], "output": gates[3]}
    # torch keeps what was where the gate is open: 1 - update of the paper
    gates = torch.sigmoid(driven).chunk(3, dim=2)
    return {"reset": gates[0], "keep": gates[1]}


OnCellEpoch = Callable[[str, Epoch], None]


def diagnose_cell(
    cell: CellName,
    examples: Sequence[Example],
    num_labels: int,
    temporal: TemporalOptions,
    training: TrainingOptions,
    *,
    measured_on: Sequence[Example] = (),
    on_epoch: OnCellEpoch | None = None,
) -> CellDiagnosis:
    """
    Train one cell on labelled sequences, and measure it before and after.

    The model only looks back and reads a clip from its last state, so that whatever came early must
    be carried to the end.

    Args:
        cell: to be put in the place of that of `temporal`.
        examples: to train on.
        num_labels: K.
        temporal: sizes and layers.
        training: how it is trained.
        measured_on: other sequences than those that it is trained on.
        on_epoch: told of each epoch.
    """
    options = looking_back(temporal, cell)
    start = untrained(examples, num_labels, options, training.seed)
    told = partial(on_epoch, cell) if on_epoch else None
    fitted = fit(examples, num_labels, options, training, on_epoch=told)
    others = measured_on or examples
    measured = (measure(start, others, "start"), measure(fitted.model, others, "trained"))
    return CellDiagnosis(cell, measured, fitted.history)


def looking_back(temporal: TemporalOptions, cell: CellName) -> TemporalOptions:
    """Give the same architecture with another cell, one that sees only the past."""
    heads = next(n for n in (temporal.heads, 4, 2, 1) if temporal.size % n == 0)
    return replace(
        temporal, cell=cell, bidirectional=False, causal=True, pooling="last", heads=heads
    )


def untrained(
    examples: Sequence[Example], num_labels: int, options: TemporalOptions, seed: int
) -> TemporalModel:
    """Make a model as training begins with it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TemporalModel(examples[0].features.shape[1], num_labels, options)
    fit_normalization(model, examples)
    return model.eval()
