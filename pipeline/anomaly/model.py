"""
Novelty of frames: how far their features are from those of normal videos.

A frame has three distances: the Mahalanobis distance within the principal subspace of normal
features, the residual outside it, and the prediction error of a small GRU. The logarithm of each is
standardized on held-out normal frames. The mean of the three, standardized again, is the novelty: 0
is typical, 1 is one standard deviation above.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import Precision, Sampling, fingerprint
from pipeline.errors import RecognizerError
from pipeline.recognition.recognizer import CutSpec
from pipeline.recognition.windows import split_at
from pipeline.temporal.models import State, TemporalModel
from pipeline.temporal.options import TemporalOptions

FORECASTER = TemporalOptions(cell="gru", size=64, pooling="last")
DISTANCES = ("mahalanobis", "residual", "prediction_error")
"""The distances of a frame, in the order of their columns."""
CLIP_QUANTILE = 0.9
"""The novelty of a clip is this quantile over its frames: it is robust to single frames."""
CLIP_SIGMA = 10.0
"""Inputs of the forecaster are clipped to this many standard deviations."""
EPS = 1e-12
WARM_UP = 8
"""Prediction errors after fewer frames are larger, and have their own expected values."""

Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """The features that a novelty model was fitted to."""

    backbone: str
    weights_hash: str
    identity: str
    """Of the backbone: weights, input size, tap and grid."""
    feature_size: int
    context: int
    precision: Precision
    sampling: Sampling

    def __str__(self) -> str:
        return (
            f"{self.backbone} (weights {self.weights_hash}, features {self.identity}), "
            f"{self.precision}, {self.sampling}"
        )


def require_features(wanted: FeatureSpec, found: FeatureSpec, folder: Path | None) -> None:
    """
    Require the features that a novelty model was fitted to.

    Raises:
        RecognizerError: they differ; the message describes both.
    """
    compared = ("identity", "feature_size", "precision", "sampling")
    if any(getattr(wanted, name) != getattr(found, name) for name in compared):
        raise RecognizerError(
            f"novelty model {folder} was fitted to features of {wanted}; those of this run are of "
            f"{found}: fit it again with clipline novelty fit, with the --recognizer and sampling "
            "of this run"
        )


@dataclass(frozen=True)
class Statistics:
    """Statistics of normal features, float32; Z is the size of the subspace."""

    mean: Tensor
    """(D,)."""
    axes: Tensor
    """Principal axes, each divided by its standard deviation, (Z, D)."""
    outside: Tensor
    """Variance outside the subspace, ()."""
    errors: Tensor
    """Expected squared prediction errors, (WARM_UP, Z), by number of frames before."""
    part_means: Tensor
    """Of the log distances of held-out normal frames, (3,)."""
    part_stds: Tensor
    """(3,)."""
    total: Tensor
    """Mean and standard deviation of the mean of the standardized log distances, (2,)."""

    def project(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Give whitened coordinates (T, Z), and the squared distance to the subspace (T,)."""
        centred = torch.from_numpy(rows) - self.mean
        whitened = centred @ self.axes.T
        directions = self.axes / self.axes.norm(dim=1, keepdim=True).clamp(min=EPS)
        inside = centred @ directions.T @ directions
        return whitened, (centred - inside).square().sum(1)

    def tensors(self) -> dict[str, Tensor]:
        """Give the tensors by name."""
        return {part.name: getattr(self, part.name) for part in dataclasses.fields(self)}


@dataclass(frozen=True)
class NoveltyModel:
    """A model of normal features."""

    features: FeatureSpec
    statistics: Statistics
    forecaster: TemporalModel
    """Predicts from coordinates (N, L, Z) the change to the next step, as frame logits."""
    cut: CutSpec | None = None
    """The feature that detects cuts: the forecaster is reset at each."""
    notes: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    @property
    def identity(self) -> str:
        """Hash of everything that changes a score."""
        digest = hashlib.blake2b(digest_size=16)
        tensors = {**self.statistics.tensors(), **self.forecaster.state_dict()}
        for name, tensor in sorted(tensors.items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return fingerprint(self.features, self.cut, digest.hexdigest())

    def combine(self, parts: Tensor) -> Tensor:
        """Combine log distances (T, 3) to novelty (T,); NaN is ignored."""
        statistics = self.statistics
        standardized = (parts - statistics.part_means) / statistics.part_stds
        return (standardized.nanmean(1) - statistics.total[0]) / statistics.total[1]


class NoveltyScorer:
    """
    Scores the frames of one video in order, chunk by chunk, in constant memory.

    Frames that were encoded together with a frame of another shot have the score NaN.
    """

    def __init__(self, model: NoveltyModel) -> None:
        self.model = model
        self._state: State | None = None
        self._forecast: Tensor | None = None
        """Predicted coordinates of the next frame of the shot, (1, Z)."""

    def score(self, rows: Rows) -> Rows:
        """Score the next frames: features (T, D) to novelty (T,), NaN where unknown."""
        return self.model.combine(self.distances(rows)).numpy()

    @staticmethod
    def clip_score(scores: Rows) -> float | None:
        """Reduce the novelty of the frames of a clip (n,) to one value; None if all are NaN."""
        known = scores[np.isfinite(scores)]
        return float(np.quantile(known, CLIP_QUANTILE)) if len(known) else None

    @torch.inference_mode()
    def distances(self, rows: Rows) -> Tensor:
        """Give the log distances (T, 3) of the next frames, NaN where unknown."""
        starts = shot_starts(rows, self.model.cut, is_first=self._state is None)
        distances = [
            self._shot_distances(rows[start:stop], starts_shot=bool(starts[start]))
            for start, stop in split_at(starts)
        ]
        return torch.cat([torch.zeros(0, len(DISTANCES)), *distances])

    def _shot_distances(self, rows: Rows, *, starts_shot: bool) -> Tensor:
        if starts_shot:
            self._state, self._forecast = self.model.forecaster.initial_state(1), None
        skipped = 1 if starts_shot and self.model.features.context else 0
        distances = torch.full((len(rows), len(DISTANCES)), torch.nan)
        if len(rows) > skipped:
            distances[skipped:] = self._log_distances(rows[skipped:])
        return distances

    def _log_distances(self, rows: Rows) -> Tensor:
        statistics = self.model.statistics
        whitened, residual = statistics.project(rows)
        return torch.stack(
            [
                _log(whitened.square().mean(1)),
                _log(residual / statistics.outside.clamp(min=EPS)),
                self._prediction_error(whitened),
            ],
            dim=1,
        )

    def _prediction_error(self, whitened: Tensor) -> Tensor:
        """Compare coordinates (T, Z) with the predicted ones; NaN for the first of a shot."""
        assert self._state is not None
        frames_before = int(self._state.steps) + torch.arange(len(whitened))
        expected_errors = self.model.statistics.errors[(frames_before - 1).clamp(0, WARM_UP - 1)]
        inputs = whitened.clamp(-CLIP_SIGMA, CLIP_SIGMA)
        logits, self._state = self.model.forecaster.stream(inputs.unsqueeze(0), self._state)
        next_steps = inputs + logits.frames[0]  # (T, Z)
        unknown = torch.full_like(whitened[:1], torch.nan)
        first = unknown if self._forecast is None else self._forecast
        predicted = torch.cat([first, next_steps[:-1]])
        self._forecast = next_steps[-1:]
        return _log(((whitened - predicted).square() / expected_errors).mean(1))


def shot_starts(rows: Rows, cut: CutSpec | None, *, is_first: bool) -> NDArray[np.bool_]:
    """Give the frames that start a shot, (T,). `is_first`: the video starts with these frames."""
    starts = np.zeros(len(rows), np.bool_) if cut is None else rows[:, cut.feature] > cut.threshold
    if is_first and len(rows):
        starts[0] = True
    return np.asarray(starts)


def _log(values: Tensor) -> Tensor:
    return torch.log(values.clamp(min=EPS))  # NaN stays NaN
