"""
Dilated convolutions over time: a temporal convolutional network, and stages that refine labels.

Layer i reads the steps t - 2^i, t and t + 2^i, so that a few layers see far; a causal layer reads
t - 2^(i+1), t - 2^i and t (Lea et al. 2017; Farha and Gall 2019). The state of a causal network is
the input of each layer at the last 2^(i+1) steps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.temporal.options import TemporalOptions

TAPS = 3
"""Steps that a convolution reads."""


class DilatedConvolutions(nn.Module):
    """
    Residual dilated convolutions: (N, L, size) to (N, L, size).

    Args:
        size: channels of all layers.
        layers: number of layers; layer i has the dilation 2^i.
        causal: whether a step depends on earlier steps only.
        dropout: probability, after each layer.
    """

    def __init__(self, size: int, layers: int, *, causal: bool, dropout: float) -> None:
        super().__init__()
        self.size, self.causal = size, causal
        # as matrix products of shifted inputs: on CPUs faster than Conv1d with a dilation
        self.dilated = nn.ModuleList(nn.Linear(TAPS * size, size) for _ in range(layers))
        self.mix = nn.ModuleList(nn.Linear(size, size) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.history = [2 * 2**number if causal else 0 for number in range(layers)]
        """Steps of the state, by layer."""
        self.state_size = sum(self.history) * size

    def forward(self, x: Tensor, state: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """
        Run over a sequence.

        Args:
            x: (N, L, size).
            state: (N, state_size), before the first step.
            lengths: (N,), number of valid steps; the others, at the end, are padding.

        Returns:
            Outputs (N, L, size), and the state (N, state_size) after the last valid step.
        """
        valid = torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(1)
        valid = valid.unsqueeze(2)  # (N, L, 1)
        x = x * valid
        befores = torch.split(state, [steps * self.size for steps in self.history], dim=1)
        states = []
        for number, (dilated, mix) in enumerate(zip(self.dilated, self.mix, strict=True)):
            before = befores[number].reshape(len(x), self.history[number], self.size)
            taps, after = self._taps(x, before, lengths, 2**number)
            states.append(after.flatten(1))
            update = self.dropout(mix(functional.relu(dilated(taps))))
            x = (x + update) * valid
        return x, torch.cat(states, dim=1)

    def _taps(
        self, x: Tensor, before: Tensor, lengths: Tensor, dilation: int
    ) -> tuple[Tensor, Tensor]:
        """Join the steps that each step reads, (N, L, 3 · size); give the new state of a layer."""
        length = x.shape[1]
        if self.causal:
            padded = torch.cat([before, x], dim=1)
            after = _steps_before(padded, lengths, before.shape[1])
        else:
            padded, after = functional.pad(x, (0, 0, dilation, dilation)), before
        starts = range(0, TAPS * dilation, dilation)
        return torch.cat([padded[:, start : start + length] for start in starts], dim=2), after


def _steps_before(padded: Tensor, lengths: Tensor, steps: int) -> Tensor:
    """Select the last `steps` steps before step `steps` + lengths (N,) of padded (N, L, H)."""
    index = lengths.unsqueeze(1) + torch.arange(steps, device=lengths.device)
    return padded.gather(1, index.unsqueeze(2).expand(-1, -1, padded.shape[2]))


class TemporalConvolutions(nn.Module):
    """A temporal convolutional network with the interface of `RecurrentLayers`."""

    num_states = 1

    def __init__(self, options: TemporalOptions) -> None:
        super().__init__()
        self.convolutions = DilatedConvolutions(
            options.size,
            options.layers,
            causal=not options.looks_ahead,
            dropout=options.dropout,
        )
        self.state_size = self.convolutions.state_size
        self.width = options.size
        self.norm = nn.LayerNorm(options.size) if options.layer_norm else nn.Identity()

    def forward(self, x: Tensor, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, L, H) and states (1, N, S) to outputs (N, L, H) and new states."""
        outputs, state = self.convolutions(x, states[0], lengths)
        return self.norm(outputs), state.unsqueeze(0)


def context(options: TemporalOptions) -> int | None:
    """Count the frames on either side that can influence the labels of a frame; None: no limit."""
    if options.cell not in ("mean", "tcn"):
        return None
    steps: int = options.refine * (2**options.refine_layers - 1)
    if options.cell == "tcn":
        steps += 2**options.layers - 1
    if not options.looks_ahead:
        steps *= 2  # causal layers read twice as far back
    return steps * options.stride + options.stride + options.differences


class Refinement(nn.Module):
    """
    Stages that each read the probabilities of the stage before and predict the labels again.

    They learn which labels follow each other and how long they last (Farha and Gall 2019).
    """

    def __init__(self, num_labels: int, options: TemporalOptions) -> None:
        super().__init__()
        size = options.refine_size
        self.multi_label = options.multi_label
        causal = not options.looks_ahead
        self.inputs = nn.ModuleList(nn.Linear(num_labels, size) for _ in range(options.refine))
        self.convolutions = nn.ModuleList(
            DilatedConvolutions(size, options.refine_layers, causal=causal, dropout=options.dropout)
            for _ in range(options.refine)
        )
        self.heads = nn.ModuleList(nn.Linear(size, num_labels) for _ in range(options.refine))
        state_size: int = self.convolutions[0].state_size  # type: ignore[assignment]
        self.state_size = options.refine * state_size
        self.refine = options.refine

    def forward(
        self, logits: Tensor, state: Tensor, lengths: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """
        Run all stages.

        Args:
            logits: of the first stage, (N, L, K).
            state: (N, S), before the first step.
            lengths: (N,), number of valid steps.

        Returns:
            The logits of each stage, (N, L, K), without the first; and the new state (N, S).
        """
        found, states = [], []
        stages = zip(self.inputs, self.convolutions, self.heads, strict=True)
        parts = state.chunk(self.refine, dim=1)
        for part, (project, convolutions, head) in zip(parts, stages, strict=True):
            probabilities = logits.sigmoid() if self.multi_label else logits.softmax(2)
            hidden, after = convolutions(project(probabilities), part, lengths)
            logits = head(hidden)
            found.append(logits)
            states.append(after)
        return found, torch.cat(states, dim=1)
