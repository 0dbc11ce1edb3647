"""Synthetic features for tests of novelty: videos with the same four oscillations."""

from __future__ import annotations

from unittest import mock

import numpy as np

from pipeline.anomaly import fit as fitting
from pipeline.anomaly.fit import TrainingVideo, fit_novelty
from pipeline.anomaly.model import FeatureSpec, NoveltyScorer
from pipeline.config import Sampling
from pipeline.records import DecodeReport, FrameFeatures

D, FPS, FRAMES = 20, 8, 120
CUT = D - 1
AXES = np.random.default_rng(1).normal(size=(4, D))
SPEC = FeatureSpec("toy", "feed", "cafe", D, 0, "float32", Sampling(fps=FPS))


def make_features(seed, frames=FRAMES):
    """Features of a normal video, (T, D): four oscillations and a little noise."""
    rng = np.random.default_rng(seed)
    times, phases = np.arange(frames)[:, None], rng.uniform(0, 2 * np.pi, 4)
    oscillations = np.sin(times * np.array([0.1, 0.17, 0.25, 0.31]) + phases)
    values = oscillations @ AXES + 0.1 * rng.normal(size=(frames, D))
    values[:, CUT] = 0
    return values.astype(np.float16)


def chunks(values, size=None):
    """Split the features of a video as the feature store does."""
    size = size or len(values)
    for start in range(0, len(values), size):
        index = np.arange(start, min(len(values), start + size))
        yield FrameFeatures(
            video_id="v",
            start=int(index[0]),
            stop=int(index[-1]) + 1,
            num_samples=len(values),
            values=values[index],
            sample_index=index,
            frame_index=index * 3,
            pts_seconds=index / FPS,
            report=DecodeReport("ok"),
        )


def training_video(values, size=None):
    return TrainingVideo("v", len(values), lambda: chunks(values, size))


def fit(videos, spec=SPEC, cut=None, seed=0):
    with mock.patch.object(fitting, "TRAINING_STEPS", 150):  # enough for four oscillations
        return fit_novelty([training_video(values) for values in videos], spec, cut, seed)


def score(model, values):
    return NoveltyScorer(model).score(values.astype(np.float32))
