"""Parts of temporal models: inputs, recurrent layers, attention, pooling over time."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from pipeline.errors import OptionError
from pipeline.temporal.cells import make_layer
from pipeline.temporal.options import TemporalOptions


class InputLayer(nn.Module):
    """
    Standardizes features, appends their differences in time, and projects them to size H.

    The input of the projection has the width P: D features, then D differences, or, with
    `rectified`, D positive and D negative parts of the differences.
    """

    mean: Tensor
    scale: Tensor
    centre: Tensor
    weight: Tensor

    def __init__(self, feature_size: int, options: TemporalOptions) -> None:
        super().__init__()
        if options.motion_grid and feature_size % options.motion_grid**2:
            raise OptionError(
                f"features of size {feature_size} are not a grid of {options.motion_grid} × "
                f"{options.motion_grid} cells: their motion cannot be compensated"
            )
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

    def forward(self, x: Tensor, previous: Tensor, is_first: Tensor) -> Tensor:
        """
        Project consecutive steps to (N, L, H).

        Args:
            x: standardized features, (N, L, D).
            previous: those of the step before, (N, D).
            is_first: whether there is no step before, (N,); the first difference is 0 then.
        """
        return self.projected(self.prepared(x, previous, is_first))

    def prepared(self, x: Tensor, previous: Tensor, is_first: Tensor) -> Tensor:
        """Give the inputs of the projection, (N, L, P). Arguments as in `forward`."""
        inputs = self.with_differences(x, previous, is_first)
        if self.options.rectified:  # in place: this is the largest tensor of the model
            inputs = inputs.sub_(self.centre).mul_(self.weight)
        return inputs

    def projected(self, inputs: Tensor) -> Tensor:
        """Project prepared inputs (N, L, P) to (N, L, H)."""
        projected: Tensor = self.dropout(self.norm(self.project(inputs)))
        return projected

    def with_differences(self, x: Tensor, previous: Tensor, is_first: Tensor) -> Tensor:
        """Append the differences of steps to a copy of them, (N, L, P). Arguments as `forward`."""
        if not self.options.differences:
            return x
        size = x.shape[2]
        inputs = x.new_empty(*x.shape[:2], size * (2 + self.options.rectified))
        inputs[..., :size] = x
        difference = inputs[..., size : 2 * size]
        difference[:, 0] = torch.where(is_first.unsqueeze(1), 0.0, x[:, 0] - previous)
        difference[:, 1:] = x[:, 1:] - x[:, :-1]
        if self.options.motion_grid:
            cells = difference.view(*x.shape[:2], -1, self.options.motion_grid**2)
            cells -= cells.mean(3, keepdim=True)
        if self.options.rectified:  # max(d, 0) and max(-d, 0)
            inputs[..., 2 * size :] = (-difference).relu_()
            difference.relu_()
        return inputs

    def standardize(self, x: Tensor) -> Tensor:
        """Standardize features (..., D), with signed square roots if the options say so."""
        return (self.signed_sqrt(x) - self.mean).mul_(self.scale)

    def signed_sqrt(self, x: Tensor) -> Tensor:
        """Take the signed square root of features (..., D) if the options say so."""
        if not self.options.signed_root:
            return x
        # d√x/dx is infinite at 0 and inf · 0 is NaN, so 0 is masked
        is_zero = x == 0
        return torch.where(is_zero, 0.0, x.sign() * torch.where(is_zero, 1.0, x).abs().sqrt())


class TemporalPooling(nn.Module):
    """
    Reduces the hidden states of a clip to one vector, incrementally.

    The memory (N, H + 2) is a weighted sum of the states, the sum of the weights, and the greatest
    attention score so far; for `last` it holds the last state with weight 1.
    """

    def __init__(self, size: int, pooling: str) -> None:
        super().__init__()
        self.pooling = pooling
        self.memory_size = size + 2
        # softmax is invariant to a bias
        self.score = nn.Linear(size, 1, bias=False) if pooling == "attention" else None

    def initial_memory(self, n: int, like: Tensor) -> Tensor:
        """Give the memory before the first step of n sequences."""
        memory = like.new_zeros(n, self.memory_size)
        memory[:, -1] = -torch.inf
        return memory

    def forward(self, memory: Tensor, states: Tensor, lengths: Tensor) -> Tensor:
        """Add the first `lengths` (N,) of the states (N, L, H) to the memory."""
        if self.pooling == "last":
            total = last_valid(states, lengths, memory[:, :-2])
            return torch.cat([total, torch.ones_like(total[:, :2])], dim=1)
        steps = torch.arange(states.shape[1], device=states.device)
        mask = steps < lengths.unsqueeze(1)  # (N, L)
        total, weight, greatest = memory[:, :-2], memory[:, -2], memory[:, -1]
        scores = states.new_zeros(mask.shape) if self.score is None else self.score(states)[..., 0]
        scores = scores.masked_fill(~mask, -torch.inf)
        new_greatest = torch.maximum(greatest, scores.amax(1) if scores.shape[1] else greatest)
        # both are -inf before the first valid step: use any finite reference
        reference = torch.where(
            new_greatest.isfinite(), new_greatest, torch.zeros_like(new_greatest)
        )
        weights = torch.exp(scores - reference.unsqueeze(1))  # (N, L)
        rescale = torch.exp(greatest - reference)
        total = total * rescale.unsqueeze(1) + (weights.unsqueeze(2) * states).sum(1)
        weight = weight * rescale + weights.sum(1)
        return torch.cat([total, weight.unsqueeze(1), new_greatest.unsqueeze(1)], dim=1)

    def read(self, memory: Tensor) -> Tensor:
        """Give the pooled states (N, H); zeros for sequences without a valid step."""
        return memory[:, :-2] / memory[:, -2:-1].clamp(min=1e-12)


class RecurrentLayers(nn.Module):
    """Layers of one recurrent cell, with layer norms and residual connections."""

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
        self.num_states = options.layers * self.directions
        self.width = width

    def forward(self, x: Tensor, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, L, H) and states (num_states, N, S) to outputs (N, L, width) and new states."""
        new_states = []
        for number, (layers, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            outputs = []
            for direction, layer in enumerate(cast(nn.ModuleList, layers)):
                given = reverse(x, lengths) if direction else x
                state = states[number * self.directions + direction]
                output, state = layer(given, state, lengths)
                outputs.append(reverse(output, lengths) if direction else output)
                new_states.append(state)
            output = torch.cat(outputs, dim=2)
            residual = self.options.residual and number > 0
            x = norm(x + self.dropout(output) if residual else output)
            if number + 1 < len(self.layers):
                x = self.dropout(x)
        return x, torch.stack(new_states)


class SelfAttention(nn.Module):
    """A pre-norm transformer encoder with sinusoidal positional encoding."""

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
        """Map (N, L, size) to (N, L, size); the first `lengths` (N,) steps are attended to."""
        steps = torch.arange(x.shape[1], device=x.device)
        padding = steps >= lengths.clamp(min=1).unsqueeze(1)
        future = None
        if self.causal:
            future = steps.unsqueeze(0) > steps.unsqueeze(1)
        output: Tensor = self.encoder(
            x + positional_encoding(steps, x.shape[2]), mask=future, src_key_padding_mask=padding
        )
        return output


def positional_encoding(steps: Tensor, size: int) -> Tensor:
    """Give the sinusoidal encoding (L, size) of positions (L,) (Vaswani et al. 2017)."""
    half = torch.arange((size + 1) // 2, device=steps.device)
    angles = steps.unsqueeze(1) * torch.pow(10000.0, -2 * half / size)
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :size]


def reverse(x: Tensor, lengths: Tensor) -> Tensor:
    """Reverse the first `lengths` (N,) steps of x (N, L, D); padding stays at the end."""
    steps = torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1)
    index = torch.where(steps < lengths.unsqueeze(1), lengths.unsqueeze(1) - 1 - steps, steps)
    return x.gather(1, index.unsqueeze(2).expand_as(x))


def last_valid(x: Tensor, lengths: Tensor, default: Tensor) -> Tensor:
    """Select the last of the first `lengths` (N,) steps of x (N, L, D); `default` (N, D) for 0."""
    if x.shape[1] == 0:
        return default
    index = (lengths - 1).clamp(min=0).view(-1, 1, 1).expand(-1, 1, x.shape[2])
    return torch.where((lengths > 0).unsqueeze(1), x.gather(1, index).squeeze(1), default)
