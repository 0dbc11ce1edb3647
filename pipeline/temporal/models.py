"""
Temporal models: features of frames in, labels of frames and of the clip out.

    x: (N, L, D) features, mask: (N, L) valid steps  →  Logits(frames (N, L, K), clips (N, K))

All models have this interface. Causal models with a state of fixed size also run step by step with
an explicit `State`, over sequences of any length in constant memory, and give the same logits.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.errors import OptionError
from pipeline.temporal.cells import CELLS
from pipeline.temporal.layers import (
    InputLayer,
    RecurrentLayers,
    SelfAttention,
    TemporalPooling,
    last_valid,
)
from pipeline.temporal.options import TemporalOptions

MIN_STD = 1e-6
"""Features with a lower standard deviation, or lower share of the mean, are taken as constant: they
differ by rounding only."""


class Logits(NamedTuple):
    """Logits, and the pooled states from which those of the clips are computed."""

    frames: Tensor
    """(N, L, K)."""
    clips: Tensor
    """(N, K)."""
    embeddings: Tensor
    """Pooled states of the clips, (N, H)."""


@dataclass(frozen=True)
class State:
    """
    State of a streaming model for N sequences. Create it by `TemporalModel.initial_state`.

    As in torch, recurrent states are stacked over layers first: (num_layers, N, S), not (S, N).
    """

    layers: Tensor
    """Recurrent states, (num_layers, N, S)."""
    previous: Tensor
    """Standardized features of the last valid step, (N, D)."""
    steps: Tensor
    """Number of valid steps so far, (N,)."""
    pooled: Tensor
    """Memory of the pooling, (N, P)."""

    def tensors(self) -> dict[str, Tensor]:
        """Give the tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def concatenate(cls, states: list[State]) -> State:
        """Concatenate states along the dimension of the sequences."""
        return cls(
            layers=torch.cat([state.layers for state in states], dim=1),
            previous=torch.cat([state.previous for state in states]),
            steps=torch.cat([state.steps for state in states]),
            pooled=torch.cat([state.pooled for state in states]),
        )

    def detach(self) -> State:
        """Give the same state, detached from the graph."""
        return State(**{name: tensor.detach() for name, tensor in self.tensors().items()})

    def select(self, number: int) -> State:
        """Give the state of one sequence."""
        one = slice(number, number + 1)
        return State(self.layers[:, one], self.previous[one], self.steps[one], self.pooled[one])


class TemporalModel(nn.Module):
    """
    A temporal model with any of the cells.

    Args:
        feature_size: D.
        num_labels: K.
        options: the architecture.
    """

    def __init__(self, feature_size: int, num_labels: int, options: TemporalOptions) -> None:
        super().__init__()
        self.feature_size, self.num_labels, self.options = feature_size, num_labels, options
        self.inputs = InputLayer(feature_size, options)
        recurrent = options.cell in (*CELLS, "gru_transformer")
        self.recurrence = RecurrentLayers(options) if recurrent else None
        width = self.recurrence.width if self.recurrence else options.size
        has_attention = options.cell in ("transformer", "gru_transformer")
        self.attention = SelfAttention(width, options) if has_attention else None
        self.pool = TemporalPooling(width, options.pooling)
        self.head = nn.Linear(width, num_labels)
        self.dropout = nn.Dropout(options.dropout)

    @property
    def streams(self) -> bool:
        """Whether the model is causal, with a state of fixed size."""
        return self.attention is None and not self.options.bidirectional

    def set_standardization(self, mean: Tensor, std: Tensor) -> None:
        """
        Set the mean and standard deviation (D,) by which features are standardized.

        With `signed_root` they are those of the signed square roots. Features that are constant are
        multiplied by 0: the scale of their changes is unknown.
        """
        threshold = MIN_STD * mean.abs().clamp(min=1)
        self.inputs.mean.copy_(mean)
        self.inputs.scale.copy_(torch.where(std > threshold, 1 / std.clamp(min=MIN_STD), 0))

    def set_scaling(self, mean: Tensor, scale: Tensor) -> None:
        """
        Set how features and rectified differences are scaled relative to each other.

        Args:
            mean: subtracted from each input, (P,).
            scale: factor of each input, (P,).
        """
        self.inputs.centre.copy_(mean)
        self.inputs.weight.copy_(scale)

    def initial_state(self, n: int) -> State:
        """Give the state before the first step of n sequences."""
        like = self.head.weight
        recurrence = self.recurrence
        layers = recurrence.num_states if recurrence else 0
        size = recurrence.state_size if recurrence else 0
        return State(
            layers=like.new_zeros(layers, n, size),
            previous=like.new_zeros(n, self.feature_size),
            steps=torch.zeros(n, dtype=torch.long, device=like.device),
            pooled=self.pool.initial_memory(n, like),
        )

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, standardized: bool = False
    ) -> Logits:
        """
        Compute the logits of clips and of their frames.

        Args:
            x: (N, L, D).
            mask: (N, L), True for valid steps; all by default. Other frames get the logits of the
                last valid frame before them, or of the first valid frame.
            standardized: whether `inputs.standardize` was applied to x already.
        """
        self._check(x, mask)
        x = x if standardized else self.inputs.standardize(x)
        logits, _ = self._run(x, mask, self.initial_state(len(x)))
        return logits

    def stream(
        self, x: Tensor, state: State, mask: Tensor | None = None, *, standardized: bool = False
    ) -> tuple[Logits, State]:
        """
        Continue sequences from a state. As `forward`, and also returns the new state.

        Clip logits are those of all steps since the initial state.

        Raises:
            OptionError: the model needs whole clips.
        """
        if not self.streams:
            raise OptionError(
                f"a {'bidirectional ' * self.options.bidirectional}{self.options.cell} model needs "
                "whole clips and cannot stream: cut the video into clips (--clip-seconds)"
            )
        self._check(x, mask)
        self._check_state(x, state)
        return self._run(x if standardized else self.inputs.standardize(x), mask, state)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run one step: features (N, D) and a state to frame logits (N, K) and the new state."""
        logits, state = self.stream(x.unsqueeze(1), state)
        return logits.frames[:, 0], state

    def _run(self, x: Tensor, mask: Tensor | None, state: State) -> tuple[Logits, State]:
        """Run over standardized features."""
        if mask is None:
            mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        moved, lengths = move_valid_to_front(x, mask)
        if x.shape[1] == 0:
            embeddings = self.pool.read(state.pooled)
            no_frames = x.new_zeros(len(x), 0, self.num_labels)
            return Logits(no_frames, self.head(embeddings), embeddings), state
        hidden = self.inputs(moved, state.previous, state.steps == 0)  # (N, L, H)
        layers = state.layers
        if self.recurrence is not None:
            hidden, layers = self.recurrence(hidden, layers, lengths)
        if self.attention is not None:
            hidden = self.attention(hidden, lengths)
        pooled = self.pool(state.pooled, hidden, lengths)
        frames = self.head(self.dropout(hidden))  # (N, L, K), valid steps first
        embeddings = self.pool.read(pooled)  # (N, H)
        clips = self.head(self.dropout(embeddings))  # (N, K)
        previous = last_valid(moved, lengths, state.previous)
        new_state = State(layers, previous, state.steps + lengths, pooled)
        return Logits(_fill_masked(frames, mask), clips, embeddings), new_state

    def _check(self, x: Tensor, mask: Tensor | None) -> None:
        if x.ndim != 3 or x.shape[2] != self.feature_size:
            raise ValueError(f"x must be (N, L, {self.feature_size}), got {tuple(x.shape)}")
        if mask is not None and (mask.shape != x.shape[:2] or mask.dtype != torch.bool):
            raise ValueError(
                f"mask must be bool {tuple(x.shape[:2])}, got {mask.dtype} {tuple(mask.shape)}"
            )

    def _check_state(self, x: Tensor, state: State) -> None:
        for name, expected in self.initial_state(len(x)).tensors().items():
            found = getattr(state, name)
            if found.shape != expected.shape:
                raise ValueError(
                    f"state.{name} must be {tuple(expected.shape)}, got {tuple(found.shape)}: "
                    "start from initial_state(n)"
                )


def move_valid_to_front(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """
    Move the steps in the mask to the front and keep their order.

    Returns:
        The reordered x, (N, L, D), and the number of valid steps, (N,).
    """
    lengths = mask.sum(1)
    if bool((mask[:, :-1] >= mask[:, 1:]).all()):
        return x, lengths
    order = torch.argsort((~mask).to(torch.uint8), dim=1, stable=True)
    return x.gather(1, order.unsqueeze(2).expand_as(x)), lengths


def _fill_masked(frames: Tensor, mask: Tensor) -> Tensor:
    """Undo `move_valid_to_front`; steps outside the mask repeat the last valid step before them."""
    latest = (mask.cumsum(1) - 1).clamp(min=0)  # (N, L)
    return frames.gather(1, latest.unsqueeze(2).expand(-1, -1, frames.shape[2]))
