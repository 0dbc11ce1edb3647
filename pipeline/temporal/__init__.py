"""
From features of frames, (N, L, D), to labels of clips and frames.

    from pipeline.temporal import TemporalModel, TemporalOptions

    model = TemporalModel(28, 10, TemporalOptions(cell="mingru", size=64))  # D = 28, K = 10
    frames, clips, embeddings = model(x, mask)  # (N, L, 10), (N, 10), (N, 64)
    state = model.initial_state(n=1)
    logits, state = model.step(x_t, state)  # (1, 10)

What is named here is for use on any tensor; everything else is the pipeline's own.
"""

from pipeline.config import TemporalOptions, TrainingOptions
from pipeline.temporal.batching import Example
from pipeline.temporal.cells import CELLS, linear_scan
from pipeline.temporal.models import Logits, State, TemporalModel
from pipeline.temporal.trainer import Fitted, fit, predict

__all__ = [
    "CELLS",
    "Example",
    "Fitted",
    "Logits",
    "State",
    "TemporalModel",
    "TemporalOptions",
    "TrainingOptions",
    "fit",
    "linear_scan",
    "predict",
]
