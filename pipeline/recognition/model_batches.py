"""Run the temporal model of a recognizer on sequences of many videos, in batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.recognition.predictions import Probabilities
from pipeline.recognition.recognizer import Recognizer
from pipeline.recognition.windows import FeatureArray
from pipeline.temporal.models import State

MAX_BATCH_STEPS = 16_384
"""Steps of a batch, padding included."""


@dataclass(frozen=True)
class ModelInput:
    """Input of the model."""

    x: FeatureArray
    """(L, D)."""
    mask: NDArray[np.bool_]
    """(L,)."""
    state: State | None = None


@dataclass(frozen=True)
class ModelOutput:
    """Output of the model for one sequence."""

    frames: Probabilities
    """(L, K)."""
    clip: Probabilities
    """(K,)."""
    embedding: NDArray[np.float32]
    """(H,)."""
    state: State | None


@torch.inference_mode()
def compute(recognizer: Recognizer, sequences: list[ModelInput]) -> list[ModelOutput]:
    """Compute sequences in batches of about equal lengths."""
    outputs: dict[int, ModelOutput] = {}
    order = sorted(range(len(sequences)), key=lambda n: len(sequences[n].x))
    for batch in _batches(order, sequences):
        batch_outputs = _compute_batch(recognizer, [sequences[n] for n in batch])
        outputs.update(zip(batch, batch_outputs, strict=True))
    return [outputs[n] for n in range(len(sequences))]


def _batches(order: list[int], sequences: list[ModelInput]) -> Iterator[list[int]]:
    batch: list[int] = []
    for number in order:
        longest = len(sequences[number].x)
        if batch and (len(batch) + 1) * longest > MAX_BATCH_STEPS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _compute_batch(recognizer: Recognizer, sequences: list[ModelInput]) -> list[ModelOutput]:
    model = recognizer.model
    longest = max(len(sequence.x) for sequence in sequences)
    x = torch.zeros(len(sequences), longest, model.feature_size)
    mask = torch.zeros(len(sequences), longest, dtype=torch.bool)
    for number, sequence in enumerate(sequences):
        x[number, : len(sequence.x)] = torch.from_numpy(sequence.x)
        mask[number, : len(sequence.x)] = torch.from_numpy(sequence.mask)
    state = None
    if model.streams:
        initial = model.initial_state(1)
        state = State.concatenate([sequence.state or initial for sequence in sequences])
        logits, state = model.stream(x, state, mask)
    else:
        logits = model(x, mask)
    frames = to_probabilities(recognizer, logits.frames)
    clips = to_probabilities(recognizer, logits.clips)
    embeddings = logits.embeddings.numpy()
    return [
        ModelOutput(
            frames[number, : len(sequence.x)],
            clips[number],
            embeddings[number],
            state.select(number) if state else None,
        )
        for number, sequence in enumerate(sequences)
    ]


def to_probabilities(recognizer: Recognizer, logits: Tensor) -> Probabilities:
    """
    Convert logits to calibrated probabilities of the labels.

    Args:
        recognizer: its temperature divides the logits; with `multi_label`, labels are independent.
        logits: (…, K).
    """
    scaled = logits / recognizer.temperature
    if recognizer.multi_label:
        return np.asarray(torch.sigmoid(scaled).numpy())
    return np.asarray(torch.softmax(scaled, dim=-1).numpy())
