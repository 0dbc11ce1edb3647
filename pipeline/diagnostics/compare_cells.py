"""
Measure the memory of temporal models on labelled sequences, and compare cells.

    cells = [diagnose_cell(name, examples, num_labels, temporal, training) for name in COMPARED]
    write_diagnosis(Diagnosis(tuple(cells), seconds_per_frame(examples)), Path("DIAG"))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from pipeline.diagnostics.gates import GateSaturation, measure_gates
from pipeline.diagnostics.gradients import GradientByLag, measure_gradients, without_signed_sqrt
from pipeline.recognition.recognizer import Recognizer
from pipeline.temporal.batching import Example, valid_frames
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.normalization import fit_normalization
from pipeline.temporal.options import CellName, TemporalOptions, TrainingOptions
from pipeline.temporal.trainer import fit, predict
from pipeline.temporal.training_loop import Epoch

COMPARED: tuple[CellName, ...] = ("rnn_tanh", "rnn_relu", "lstm", "gru", "mingru", "transformer")
"""Cells that are compared."""

OnCellEpoch = Callable[[str, Epoch], None]


@dataclass(frozen=True, slots=True)
class Measurement:
    """Memory and accuracy of one model."""

    stage: str
    """`start`: as initialized. `trained`. `saved`: of a saved recognizer."""
    accuracy: float
    """On the sequences of the measurement."""
    gradients: GradientByLag
    gates: tuple[GateSaturation, ...]


@dataclass(frozen=True, slots=True)
class CellDiagnosis:
    """One cell: measured before and after training, and the history of the training."""

    name: str
    measurements: tuple[Measurement, ...]
    history: tuple[Epoch, ...] = ()


def measure(model: TemporalModel, examples: Sequence[Example], stage: str) -> Measurement:
    """Measure a model on labelled sequences; those without valid frames are ignored."""
    nonempty = [example for example in examples if example.mask.any()]
    labels = np.array([example.label for example in nonempty])
    correct = predict(model, nonempty).argmax(1) == labels
    exact, roots = without_signed_sqrt(model, nonempty)
    return Measurement(
        stage, float(correct.mean()), measure_gradients(exact, roots), measure_gates(exact, roots)
    )


def diagnose_cell(
    cell: CellName,
    examples: Sequence[Example],
    num_labels: int,
    temporal: TemporalOptions,
    training: TrainingOptions,
    *,
    test: Sequence[Example] = (),
    on_epoch: OnCellEpoch | None = None,
) -> CellDiagnosis:
    """
    Train one cell on labelled sequences, and measure it before and after.

    The model is causal and its clip logits are read from the last state, so that information of
    early frames must be carried to the end.

    Args:
        cell: replaces that of `temporal`.
        examples: training set.
        num_labels: K.
        temporal: sizes and layers.
        training: options of the training.
        test: sequences to measure on; by default the training set.
        on_epoch: called with the cell and each epoch.
    """
    options = causal_options(temporal, cell)
    initial = untrained_model(examples, num_labels, options, training.seed)
    callback = partial(on_epoch, cell) if on_epoch else None
    result = fit(examples, num_labels, options, training, on_epoch=callback)
    test = test or examples
    measurements = (measure(initial, test, "start"), measure(result.model, test, "trained"))
    return CellDiagnosis(cell, measurements, result.history)


def causal_options(temporal: TemporalOptions, cell: CellName) -> TemporalOptions:
    """Give the same architecture with another cell, causal, and with pooling `last`."""
    heads = next(n for n in (temporal.heads, 4, 2, 1) if temporal.size % n == 0)
    return replace(
        temporal, cell=cell, bidirectional=False, causal=True, pooling="last", heads=heads
    )


def untrained_model(
    examples: Sequence[Example], num_labels: int, options: TemporalOptions, seed: int
) -> TemporalModel:
    """Create the model with which a training starts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TemporalModel(examples[0].features.shape[1], num_labels, options)
    fit_normalization(model, valid_frames(examples))
    return model.eval()


def diagnose_saved(
    recognizer: Recognizer, examples: Sequence[Example], labels: Sequence[str]
) -> CellDiagnosis:
    """
    Measure a saved recognizer.

    Args:
        recognizer: the recognizer.
        examples: labelled sequences of its features.
        labels: names of the labels of the examples; the recognizer must have them.
    """
    indices = [recognizer.labels.index(label) for label in labels]
    relabelled = [replace(example, label=indices[example.label]) for example in examples]
    measurement = measure(recognizer.model, relabelled, "saved")
    return CellDiagnosis(f"{recognizer.name} ({recognizer.temporal.cell})", (measurement,))


def seconds_per_frame(examples: Sequence[Example]) -> float:
    """Give the median distance between frames, from the lengths of clips."""
    gaps = [(e.end_seconds - e.start_seconds) / len(e.features) for e in examples]
    return float(np.median(gaps))
