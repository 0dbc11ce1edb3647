"""
Temporal models: from the features of frames, (N, L, D), to the labels of clips and frames.

    from pipeline.temporal import TemporalModel, TemporalOptions

    model = TemporalModel(28, 10, TemporalOptions(cell="mingru", size=64))  # D = 28, K = 10
    frames, clips, embeddings = model(x, mask)  # (N, L, 10), (N, 10), (N, 64)
    state = model.initial_state(n=1)
    logits, state = model.step(x_t, state)  # (1, 10)

    result = fit_sequences(sequences, num_labels, options, training)  # a label for each frame
    logits = predict_sequences(result.model, sequences)  # (T, K) each

The names below are the public interface. They are imported on first use, because the command line
imports `pipeline.temporal.options` and must not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.temporal.batching import Example
    from pipeline.temporal.cells import CELLS, linear_scan
    from pipeline.temporal.models import Logits, State, TemporalModel
    from pipeline.temporal.options import TemporalOptions, TrainingOptions
    from pipeline.temporal.sequence_trainer import fit_sequences, predict_sequences
    from pipeline.temporal.sequences import LabelledSequence, LabelledSequences
    from pipeline.temporal.trainer import TrainingResult, fit, predict

__all__ = [
    "CELLS",
    "Example",
    "LabelledSequence",
    "LabelledSequences",
    "Logits",
    "State",
    "TemporalModel",
    "TemporalOptions",
    "TrainingOptions",
    "TrainingResult",
    "fit",
    "fit_sequences",
    "linear_scan",
    "predict",
    "predict_sequences",
]
_MODULES = {
    "batching": ("Example",),
    "cells": ("CELLS", "linear_scan"),
    "models": ("Logits", "State", "TemporalModel"),
    "options": ("TemporalOptions", "TrainingOptions"),
    "sequence_trainer": ("fit_sequences", "predict_sequences"),
    "sequences": ("LabelledSequence", "LabelledSequences"),
    "trainer": ("TrainingResult", "fit", "predict"),
}
"""Modules of this package, and the public names that they define."""


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
