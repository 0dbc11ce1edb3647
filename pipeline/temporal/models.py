"""
Temporal models: features of frames in, labels of frames and of the clip out.

    x: (N, L, D) features, mask: (N, L) valid steps  →  Logits(frames (N, L, K), clips (N, K))

All models have this interface. Causal models with a state of fixed size also run step by step with
an explicit `State`, over sequences of any length in constant memory, and give the same logits.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.errors import OptionError
from pipeline.temporal.blocks import make_blocks, repeat_for_frames
from pipeline.temporal.cells import CELLS
from pipeline.temporal.convolution import Refinement, TemporalConvolutions, context
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


_NOTHING = torch.zeros(0)


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
    refinement: Tensor = _NOTHING
    """States of the refinement stages, (N, R)."""
    open_block: Tensor = _NOTHING
    """Sums of the inputs after the last complete block of frames, (N, P); (N, 0) without stride."""
    held: Tensor = _NOTHING
    """Logits of the last complete block of frames, (N, K); (N, 0) without stride."""

    def __post_init__(self) -> None:
        for name in ("refinement", "open_block", "held"):  # states of earlier versions lack them
            if getattr(self, name) is _NOTHING:
                object.__setattr__(self, name, self.previous.new_zeros(len(self.previous), 0))

    def tensors(self) -> dict[str, Tensor]:
        """Give the tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def concatenate(cls, states: list[State]) -> State:
        """Concatenate states along the dimension of the sequences."""
        joined = {
            name: torch.cat([state.tensors()[name] for state in states], dim=_dimension(name))
            for name in states[0].tensors()
        }
        return cls(**joined)

    def detach(self) -> State:
        """Give the same state, detached from the graph."""
        return State(**{name: tensor.detach() for name, tensor in self.tensors().items()})

    def select(self, number: int) -> State:
        """Give the state of one sequence."""
        one = {
            name: tensor.narrow(_dimension(name), number, 1)
            for name, tensor in self.tensors().items()
        }
        return State(**one)


def _dimension(name: str) -> int:
    """Give the dimension of the sequences in a tensor of a state."""
    return 1 if name == "layers" else 0


_Output = tuple[list[Tensor], Tensor, Tensor]
"""Logits of frames by stage, (N, L, K) each; logits (N, K) and embeddings (N, H) of clips."""


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
        self.recurrence = _make_recurrence(options)
        width = self.recurrence.width if self.recurrence else options.size
        has_attention = options.cell in ("transformer", "gru_transformer")
        self.attention = SelfAttention(width, options) if has_attention else None
        self.pool = TemporalPooling(width, options.pooling)
        self.head = nn.Linear(width, num_labels)
        self.dropout = nn.Dropout(options.dropout)
        self.refinement = Refinement(num_labels, options) if options.refine else None

    @property
    def streams(self) -> bool:
        """Whether the model is causal, with a state of fixed size."""
        return self.attention is None and not self.options.bidirectional

    @property
    def context(self) -> int | None:
        """
        Number of frames on either side of a frame that can influence its logits.

        None if it has no limit. A model that streams reads all of them before the frame.
        """
        return context(self.options)

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
        strided = self.options.stride > 1
        return State(
            layers=like.new_zeros(layers, n, size),
            previous=like.new_zeros(n, self.feature_size),
            steps=torch.zeros(n, dtype=torch.long, device=like.device),
            pooled=self.pool.initial_memory(n, like),
            refinement=like.new_zeros(n, self.refinement.state_size if self.refinement else 0),
            open_block=like.new_zeros(n, self.inputs.project.in_features if strided else 0),
            held=like.new_zeros(n, self.num_labels if strided else 0),
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
        (stages, clips, embeddings), _ = self._run(x, mask, self.initial_state(len(x)))
        return Logits(stages[-1], clips, embeddings)

    def stages(self, inputs: Tensor, lengths: Tensor, state: State) -> tuple[list[Tensor], State]:
        """
        Compute the logits of steps of the first stage and of each refinement, (N, L, K) each.

        Args:
            inputs: prepared by `inputs`, and averaged in blocks if there is a stride, (N, L, P).
            lengths: number of valid steps, which come first, (N,).
            state: before the first step.

        Returns:
            The logits, and the state with what layers and stages carry.
        """
        (stages, _, _), changed = self._run_steps(inputs, lengths, state)
        return stages, replace(state, **changed)

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
        x = x if standardized else self.inputs.standardize(x)
        (stages, clips, embeddings), state = self._run(x, mask, state)
        return Logits(stages[-1], clips, embeddings), state

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run one step: features (N, D) and a state to frame logits (N, K) and the new state."""
        logits, state = self.stream(x.unsqueeze(1), state)
        return logits.frames[:, 0], state

    def _run(self, x: Tensor, mask: Tensor | None, state: State) -> tuple[_Output, State]:
        """Run over standardized features."""
        if mask is None:
            mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        moved, lengths = move_valid_to_front(x, mask)
        if x.shape[1] == 0:
            embeddings = self.pool.read(state.pooled)
            no_frames = x.new_zeros(len(x), 0, self.num_labels)
            return ([no_frames], self.head(embeddings), embeddings), state
        inputs = self.inputs.prepared(moved, state.previous, state.steps == 0)  # (N, L, P)
        after = {
            "previous": last_valid(moved, lengths, state.previous),
            "steps": state.steps + lengths,
        }
        if self.options.stride == 1:
            (stages, clips, embeddings), changed = self._run_steps(inputs, lengths, state)
        else:
            (stages, clips, embeddings), changed = self._run_blocks(inputs, lengths, state)
        stages = [_fill_masked(frames, mask) for frames in stages]
        return (stages, clips, embeddings), replace(state, **after, **changed)

    def _run_steps(
        self, inputs: Tensor, lengths: Tensor, state: State
    ) -> tuple[_Output, dict[str, Tensor]]:
        """Run over prepared inputs (N, L, P), the first `lengths` (N,) of them valid."""
        hidden, layers = self.inputs.projected(inputs), state.layers  # (N, L, H)
        if self.recurrence is not None:
            hidden, layers = self.recurrence(hidden, layers, lengths)
        if self.attention is not None:
            hidden = self.attention(hidden, lengths)
        pooled = self.pool(state.pooled, hidden, lengths)
        stages = [self.head(self.dropout(hidden))]  # (N, L, K), valid steps first
        refinement = state.refinement
        if self.refinement is not None:
            refined, refinement = self.refinement(stages[0], refinement, lengths)
            stages += refined
        embeddings = self.pool.read(pooled)  # (N, H)
        clips = self.head(self.dropout(embeddings))  # (N, K)
        changed = {"layers": layers, "pooled": pooled, "refinement": refinement}
        return (stages, clips, embeddings), changed

    def _run_blocks(
        self, inputs: Tensor, lengths: Tensor, state: State
    ) -> tuple[_Output, dict[str, Tensor]]:
        """As `_run_steps`, over the means of blocks of frames; logits are those of frames."""
        blocks = make_blocks(
            inputs,
            lengths,
            state.steps,
            state.open_block,
            stride=self.options.stride,
            looks_ahead=self.options.looks_ahead,
        )
        (stages, clips, embeddings), changed = self._run_steps(blocks.steps, blocks.lengths, state)
        changed["open_block"] = blocks.open
        changed["held"] = last_valid(stages[-1], blocks.lengths, state.held)
        frames = [repeat_for_frames(stage, state.held, blocks.frames) for stage in stages]
        return (frames, clips, embeddings), changed

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


def _make_recurrence(options: TemporalOptions) -> RecurrentLayers | TemporalConvolutions | None:
    if options.cell == "tcn":
        return TemporalConvolutions(options)
    recurrent = options.cell in (*CELLS, "gru_transformer")
    return RecurrentLayers(options) if recurrent else None


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
