"""
Temporal models: features of frames in, labels of frames and of the clip out.

    x: (N, L, D) features, mask: (N, L) which steps count  →  Logits(frames (N, L, K), clips (N, K))

All models share this interface. Those that only look back also run step by step with a carried
`State`, over sequences of any length in constant memory, and give the same logits.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from pipeline.errors import OptionError
from pipeline.temporal.cells import CELLS, make_layer
from pipeline.temporal.options import TemporalOptions

CONSTANT = 1e-6
"""A feature with no greater standard deviation, or share of its mean, changes by rounding only."""


class Logits(NamedTuple):
    """Scores before softmax, and what the clips were read from."""

    frames: Tensor
    """(N, L, K)."""
    clips: Tensor
    """(N, K)."""
    embeddings: Tensor
    """Pooled states of the clips, (N, H)."""


@dataclass(frozen=True)
class State:
    """
    What a streaming model remembers of N sequences. Made by `TemporalModel.initial_state` only.

    As in torch, recurrent states are stacked over layers first: (num_layers, N, S), not (S, N).
    """

    layers: Tensor
    """Recurrent states, (num_layers, N, S)."""
    previous: Tensor
    """Features of the last step that counted, (N, D)."""
    steps: Tensor
    """Steps that counted so far, (N,)."""
    pooled: Tensor
    """What the pooling needs of all steps so far, (N, P)."""

    def tensors(self) -> dict[str, Tensor]:
        """Give the parts by name, to be saved as safetensors."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> State:
        """Put together what `tensors` gave."""
        return cls(**tensors)

    @classmethod
    def join(cls, states: list[State]) -> State:
        """Put the sequences of several states beside each other."""
        return cls(
            layers=torch.cat([state.layers for state in states], dim=1),
            previous=torch.cat([state.previous for state in states]),
            steps=torch.cat([state.steps for state in states]),
            pooled=torch.cat([state.pooled for state in states]),
        )

    def detach(self) -> State:
        """Give the same state, through which no gradient flows back."""
        return State(**{name: tensor.detach() for name, tensor in self.tensors().items()})

    def pick(self, number: int) -> State:
        """Give the state of one sequence alone."""
        one = slice(number, number + 1)
        return State(self.layers[:, one], self.previous[one], self.steps[one], self.pooled[one])


def compact(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """
    Move the steps that count to the front, in order.

    Returns:
        x moved, (N, L, D), and how many steps count, (N,).
    """
    lengths = mask.sum(1)
    if bool((mask[:, :-1] >= mask[:, 1:]).all()):
        return x, lengths
    order = torch.argsort((~mask).to(torch.uint8), dim=1, stable=True)
    return x.gather(1, order.unsqueeze(2).expand_as(x)), lengths


class _Inputs(nn.Module):
    """
    Standardizes features, joins them with their change, and projects them to size H.

    What is joined has the width P: D features, then D changes, or D rises and D falls.
    """

    mean: Tensor
    scale: Tensor
    centre: Tensor
    weight: Tensor

    def __init__(self, feature_size: int, options: TemporalOptions) -> None:
        super().__init__()
        self.options = options
        width = feature_size * (1 + options.differences + options.rectified)
        self.register_buffer("mean", torch.zeros(feature_size))
        self.register_buffer("scale", torch.ones(feature_size))
        if options.rectified:
            self.register_buffer("centre", torch.zeros(width))
            self.register_buffer("weight", torch.ones(width))
        self.project = nn.Linear(width, options.size)
        self.norm = nn.LayerNorm(options.size) if options.layer_norm else nn.Identity()
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, x: Tensor, previous: Tensor, first: Tensor) -> Tensor:
        """
        Prepare steps that follow each other.

        Args:
            x: (N, L, D).
            previous: features of the step before, (N, D).
            first: whether there was no step before, (N,): the change is 0 then.
        """
        joined = self.joined(x, previous, first)
        if self.options.rectified:
            joined = (joined - self.centre) * self.weight
        prepared: Tensor = self.dropout(self.norm(self.project(joined)))
        return prepared

    def joined(self, x: Tensor, previous: Tensor, first: Tensor) -> Tensor:
        """Standardize steps and join them with their change, (N, L, P): see `forward`."""
        x = self._standardized(x)
        if not self.options.differences:
            return x
        before = torch.where(first.unsqueeze(1), x[:, 0], self._standardized(previous))
        change = x - torch.cat([before.unsqueeze(1), x[:, :-1]], dim=1)
        parts = [change.relu(), (-change).relu()] if self.options.rectified else [change]
        return torch.cat([x, *parts], dim=2)

    def evened(self, x: Tensor) -> Tensor:
        """Take signed square roots of features (..., D), where that is wanted."""
        if not self.options.signed_root:
            return x
        # the slope of the root has no end at 0, and times 0 it would be no number
        at_zero = x == 0
        return torch.where(at_zero, 0.0, x.sign() * torch.where(at_zero, 1.0, x).abs().sqrt())

    def _standardized(self, x: Tensor) -> Tensor:
        # in place: no tensor is larger than this one
        return (self.evened(x) - self.mean).mul_(self.scale)


class _Pool(nn.Module):
    """
    Reads a clip from the states of its frames, with a memory of bounded size.

    The memory is (weighted sum (H), weight, greatest score): for `last` the sum is the last state.
    """

    def __init__(self, size: int, pooling: str) -> None:
        super().__init__()
        self.pooling = pooling
        self.memory_size = size + 2
        # without a bias, which adds the same to all scores and so changes no weight
        self.score = nn.Linear(size, 1, bias=False) if pooling == "attention" else None

    def start(self, n: int, like: Tensor) -> Tensor:
        memory = like.new_zeros(n, self.memory_size)
        memory[:, -1] = -torch.inf
        return memory

    def forward(self, memory: Tensor, states: Tensor, lengths: Tensor) -> Tensor:
        """Add the first `lengths` (N,) of states (N, L, H) to the memory."""
        steps = torch.arange(states.shape[1], device=states.device)
        counts = steps < lengths.unsqueeze(1)  # (N, L)
        total, weight, top = memory[:, :-2], memory[:, -2], memory[:, -1]
        if self.pooling == "last":
            last = states.gather(
                1, (lengths - 1).clamp(min=0).view(-1, 1, 1).expand(-1, 1, states.shape[2])
            ).squeeze(1)
            some = (lengths > 0).unsqueeze(1)
            total = torch.where(some, last, total)
            return torch.cat([total, torch.ones_like(total[:, :2])], dim=1)
        scores = (
            states.new_zeros(counts.shape) if self.score is None else self.score(states)[..., 0]
        )
        scores = scores.masked_fill(~counts, -torch.inf)
        top_now = torch.maximum(top, scores.amax(1) if scores.shape[1] else top)
        # where nothing counted yet, both are -inf: any finite reference will do
        reference = torch.where(top_now.isfinite(), top_now, torch.zeros_like(top_now))
        weights = torch.exp(scores - reference.unsqueeze(1))  # (N, L)
        kept = torch.exp(top - reference)
        total = total * kept.unsqueeze(1) + (weights.unsqueeze(2) * states).sum(1)
        return torch.cat(
            [total, (weight * kept + weights.sum(1)).unsqueeze(1), top_now.unsqueeze(1)], 1
        )

    def read(self, memory: Tensor) -> Tensor:
        """Give (N, H); zeros where no step counted."""
        return memory[:, :-2] / memory[:, -2:-1].clamp(min=1e-12)


class _Recurrence(nn.Module):
    """Layers of one recurrent cell, with norms and residual connections between them."""

    def __init__(self, options: TemporalOptions) -> None:
        super().__init__()
        self.options = options
        self.directions = 2 if options.bidirectional else 1
        width = options.size * self.directions
        self.layers = nn.ModuleList()
        self.norms = nn.ModuleList()
        for number in range(options.layers):
            size = options.size if number == 0 else width
            cell = "gru" if options.cell == "gru_transformer" else options.cell
            layers = [make_layer(cell, size, options.size) for _ in range(self.directions)]
            self.layers.append(nn.ModuleList(layers))
            self.norms.append(nn.LayerNorm(width) if options.layer_norm else nn.Identity())
        self.dropout = nn.Dropout(options.dropout)
        self.state_size: int = self.layers[0][0].state_size  # type: ignore[index]
        self.state_layers = options.layers * self.directions
        self.width = width

    def forward(self, x: Tensor, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        after = []
        for number, (layers, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            outputs = []
            for direction, layer in enumerate(cast(nn.ModuleList, layers)):
                given = reverse(x, lengths) if direction else x
                state = states[number * self.directions + direction]
                output, state = layer(given, state, lengths)
                outputs.append(reverse(output, lengths) if direction else output)
                after.append(state)
            output = torch.cat(outputs, dim=2)
            residual = self.options.residual and number > 0
            x = norm(x + self.dropout(output) if residual else output)
            if number + 1 < len(self.layers):
                x = self.dropout(x)
        return x, torch.stack(after)


def reverse(x: Tensor, lengths: Tensor) -> Tensor:
    """Turn the first `lengths` (N,) steps of x (N, L, D) round; padding stays where it is."""
    steps = torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1)
    index = torch.where(steps < lengths.unsqueeze(1), lengths.unsqueeze(1) - 1 - steps, steps)
    return x.gather(1, index.unsqueeze(2).expand_as(x))


class _Attention(nn.Module):
    """A pre-norm transformer encoder with sinusoidal positions."""

    def __init__(self, size: int, options: TemporalOptions) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            size,
            options.heads,
            dim_feedforward=4 * size,
            dropout=options.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.encoder = nn.TransformerEncoder(
            layer, options.layers, norm=nn.LayerNorm(size), enable_nested_tensor=False
        )
        self.causal = options.causal

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        steps = torch.arange(x.shape[1], device=x.device)
        padding = steps >= lengths.clamp(min=1).unsqueeze(1)
        future = None
        if self.causal:
            future = steps.unsqueeze(0) > steps.unsqueeze(1)
        output: Tensor = self.encoder(
            x + positions(steps, x.shape[2]), mask=future, src_key_padding_mask=padding
        )
        return output


def positions(steps: Tensor, size: int) -> Tensor:
    """Give sinusoidal codes (L, size) of positions (L,) (Vaswani et al. 2017)."""
    half = torch.arange((size + 1) // 2, device=steps.device)
    angles = steps.unsqueeze(1) * torch.pow(10000.0, -2 * half / size)
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :size]


class TemporalModel(nn.Module):
    """
    A temporal model of any cell.

    Args:
        feature_size: D.
        num_labels: K.
        options: the architecture.
    """

    def __init__(self, feature_size: int, num_labels: int, options: TemporalOptions) -> None:
        super().__init__()
        self.feature_size, self.num_labels, self.options = feature_size, num_labels, options
        self.inputs = _Inputs(feature_size, options)
        recurrent = options.cell in (*CELLS, "gru_transformer")
        self.recurrence = _Recurrence(options) if recurrent else None
        width = self.recurrence.width if self.recurrence else options.size
        attends = options.cell in ("transformer", "gru_transformer")
        self.attention = _Attention(width, options) if attends else None
        self.pool = _Pool(width, options.pooling)
        self.head = nn.Linear(width, num_labels)
        self.dropout = nn.Dropout(options.dropout)

    @property
    def streams(self) -> bool:
        """Whether the model only looks back with a state of bounded size."""
        return self.attention is None and not self.options.bidirectional

    def standardize(self, mean: Tensor, std: Tensor) -> None:
        """
        Set the mean and the standard deviation (D,) by which features are standardized.

        They are those of the signed square roots, where the model takes these. A feature that never
        changed is not looked at: there is no telling what its changes mean.
        """
        least = CONSTANT * mean.abs().clamp(min=1)
        self.inputs.mean.copy_(mean)
        self.inputs.scale.copy_(torch.where(std > least, 1 / std.clamp(min=CONSTANT), 0))

    def balance(self, centre: Tensor, weight: Tensor) -> None:
        """
        Set how features and their rises and falls are weighed against each other.

        Args:
            centre: what is taken off each, (P,).
            weight: what each is multiplied by then, (P,).
        """
        self.inputs.centre.copy_(centre)
        self.inputs.weight.copy_(weight)

    def initial_state(self, n: int) -> State:
        """Give the state before the first step of n sequences."""
        like = self.head.weight
        recurrence = self.recurrence
        layers = recurrence.state_layers if recurrence else 0
        size = recurrence.state_size if recurrence else 0
        return State(
            layers=like.new_zeros(layers, n, size),
            previous=like.new_zeros(n, self.feature_size),
            steps=torch.zeros(n, dtype=torch.long, device=like.device),
            pooled=self.pool.start(n, like),
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Logits:
        """
        Label clips and their frames.

        Args:
            x: (N, L, D).
            mask: (N, L), True where a step counts; all count by default. Logits of frames that do
                not count are those of the last one before that does, or of the first that does.
        """
        self._check(x, mask)
        logits, _ = self._run(x, mask, self.initial_state(len(x)))
        return logits

    def stream(self, x: Tensor, state: State, mask: Tensor | None = None) -> tuple[Logits, State]:
        """
        Go on with sequences: as `forward`, but from a state, which is given back advanced.

        Clip logits are those of everything since the initial state.

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
        return self._run(x, mask, state)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Take one step: features (N, D) and a state to frame logits (N, K) and the next state."""
        logits, state = self.stream(x.unsqueeze(1), state)
        return logits.frames[:, 0], state

    def _run(self, x: Tensor, mask: Tensor | None, state: State) -> tuple[Logits, State]:
        if mask is None:
            mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        moved, lengths = compact(x, mask)
        if x.shape[1] == 0:
            embeddings = self.pool.read(state.pooled)
            nothing = x.new_zeros(len(x), 0, self.num_labels)
            return Logits(nothing, self.head(embeddings), embeddings), state
        hidden = self.inputs(moved, state.previous, state.steps == 0)  # (N, L, H)
        layers = state.layers
        if self.recurrence is not None:
            hidden, layers = self.recurrence(hidden, layers, lengths)
        if self.attention is not None:
            hidden = self.attention(hidden, lengths)
        pooled = self.pool(state.pooled, hidden, lengths)
        frames = self.head(self.dropout(hidden))  # (N, L, K), steps that count first
        embeddings = self.pool.read(pooled)  # (N, H)
        clips = self.head(self.dropout(embeddings))  # (N, K)
        after = State(layers, _last(moved, state.previous, lengths), state.steps + lengths, pooled)
        return Logits(_spread(frames, mask), clips, embeddings), after

    def _check(self, x: Tensor, mask: Tensor | None) -> None:
        if x.ndim != 3 or x.shape[2] != self.feature_size:
            raise ValueError(f"x must be (N, L, {self.feature_size}), got {tuple(x.shape)}")
        if mask is not None and (mask.shape != x.shape[:2] or mask.dtype != torch.bool):
            raise ValueError(
                f"mask must be bool {tuple(x.shape[:2])}, got {mask.dtype} {tuple(mask.shape)}"
            )

    def _check_state(self, x: Tensor, state: State) -> None:
        expected = self.initial_state(len(x))
        for name, wanted in expected.tensors().items():
            found = getattr(state, name)
            if found.shape != wanted.shape:
                raise ValueError(
                    f"state.{name} must be {tuple(wanted.shape)}, got {tuple(found.shape)}: "
                    "start from initial_state(n)"
                )


def _last(x: Tensor, before: Tensor, lengths: Tensor) -> Tensor:
    index = (lengths - 1).clamp(min=0).view(-1, 1, 1).expand(-1, 1, x.shape[2])
    return torch.where((lengths > 0).unsqueeze(1), x.gather(1, index).squeeze(1), before)


def _spread(frames: Tensor, mask: Tensor) -> Tensor:
    """Put frame logits back where they belong; steps that do not count repeat the one before."""
    latest = (mask.cumsum(1) - 1).clamp(min=0)  # (N, L)
    return frames.gather(1, latest.unsqueeze(2).expand(-1, -1, frames.shape[2]))
