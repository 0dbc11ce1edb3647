"""Synthetic sequences and untrained models for the tests of diagnostics."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.temporal.batching import Example
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import TemporalOptions


def example(features, label=0, mask=None):
    length = len(features)
    mask = np.ones(length, np.bool_) if mask is None else mask
    return Example("e", "e", "e", label, features.astype(np.float32), mask, 0.0, float(length))


def noise(length, size=3, seed=0):
    return np.random.default_rng(seed).normal(size=(length, size))


def make(cell, **changes):
    torch.manual_seed(5)
    options = TemporalOptions(cell=cell, size=8, heads=2, pooling="last", **changes)
    return TemporalModel(3, 2, options).eval()
