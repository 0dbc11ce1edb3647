"""
How unusual frames are, beside what a model was shown as normal.

A frame is scored by three distances: within the subspace that normal features vary in, out of that
subspace, and from the forecast that a small GRU makes of it. Each is a logarithm, standardized on
normal material that was held out; their mean, standardized again, is the novelty: 0 is typical, 1
is a standard deviation above it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import ClipWindows, Precision, Sampling, fingerprint
from pipeline.errors import RecognizerError
from pipeline.recognition.recognize import Recognition, recognize, sample_times
from pipeline.recognition.recognizer import CutSpec, Recognizer
from pipeline.recognition.windows import EPSILON_SECONDS
from pipeline.records import FrameFeatures
from pipeline.temporal.models import State, TemporalModel
from pipeline.temporal.options import TemporalOptions

FORECASTER = TemporalOptions(cell="gru", size=64, pooling="last")
PARTS = ("within", "outside", "forecast")
"""The distances of a frame, in the order of their columns."""
CLIP_QUANTILE = 0.9
"""A clip is as unusual as this quantile of its frames: one odd frame does not make an odd clip."""
FARTHEST = 10.0
"""Standard deviations at which the inputs of the forecaster are cut off."""
SMALLEST = 1e-12
WARM_UP = 8
"""A forecast from fewer frames is less sure, and measured against its own errors."""

Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """Which features a novelty model can read."""

    backbone: str
    weights_hash: str
    identity: str
    """Of the backbone: its weights, pictures, tap and grid."""
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
    Refuse features other than those that a novelty model was fitted to.

    Raises:
        RecognizerError: naming both.
    """
    compared = ("identity", "feature_size", "precision", "sampling")
    if any(getattr(wanted, name) != getattr(found, name) for name in compared):
        raise RecognizerError(
            f"novelty model {folder} was fitted to features of {wanted}; those of this run are of "
            f"{found}: fit it again with clipline novelty fit and the --recognizer and sampling of "
            "this run"
        )


@dataclass(frozen=True)
class Statistics:
    """What normal features are like, float32; Z is the size of the subspace."""

    mean: Tensor
    """(D,)."""
    axes: Tensor
    """Of the subspace, each divided by its standard deviation, (Z, D)."""
    outside: Tensor
    """Variance outside of the subspace, ()."""
    errors: Tensor
    """Mean squared errors of the forecast, (WARM_UP, Z), by frames that it was made from."""
    part_means: Tensor
    """Of the distances on normal material held out, (3,)."""
    part_stds: Tensor
    """(3,)."""
    total: Tensor
    """Mean and standard deviation of the mean of the standardized distances, (2,)."""

    def project(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Give coordinates (T, Z) with variance 1, and the squared distance outside (T,)."""
        centred = torch.from_numpy(rows) - self.mean
        whitened = centred @ self.axes.T
        directions = self.axes / self.axes.norm(dim=1, keepdim=True).clamp(min=SMALLEST)
        inside = centred @ directions.T @ directions
        return whitened, (centred - inside).square().sum(1)

    def tensors(self) -> dict[str, Tensor]:
        """Give the parts by name, to be saved as safetensors."""
        return {part.name: getattr(self, part.name) for part in dataclasses.fields(self)}


@dataclass(frozen=True)
class NoveltyModel:
    """What is normal, and for which features."""

    features: FeatureSpec
    statistics: Statistics
    forecaster: TemporalModel
    """From coordinates (N, L, Z) to the change to the next step, as frame logits."""
    cut: CutSpec | None = None
    """Which feature tells where a shot begins, and the forecast with it."""
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
        """Join distances (T, 3), NaN where one is not known, to novelty (T,)."""
        statistics = self.statistics
        standardized = (parts - statistics.part_means) / statistics.part_stds
        return (standardized.nanmean(1) - statistics.total[0]) / statistics.total[1]


class NoveltyReader:
    """
    Scores the frames of one video in order, chunk by chunk, in constant memory.

    A frame that was encoded together with one of another shot is not scored: NaN.
    """

    def __init__(self, model: NoveltyModel) -> None:
        self.model = model
        self._state: State | None = None
        self._forecast: Tensor | None = None
        """Coordinates that the next frame of the shot should have, (1, Z)."""

    def score(self, rows: Rows) -> Rows:
        """Give the novelty (T,) of the frames that follow, from their features (T, D)."""
        return self.model.combine(self.distances(rows)).numpy()

    @torch.inference_mode()
    def distances(self, rows: Rows) -> Tensor:
        """Give the distances (T, 3) of the frames that follow, NaN where one is not known."""
        begins = self._begins(rows)
        edges = [0, *(int(n) for n in np.flatnonzero(begins[1:]) + 1), len(rows)]
        parts = [torch.zeros(0, len(PARTS))]
        for start, stop in pairwise(edges):
            if stop > start:
                parts.append(self._shot(rows[start:stop], begins=bool(begins[start])))
        return torch.cat(parts)

    def _begins(self, rows: Rows) -> NDArray[np.bool_]:
        return shot_begins(rows, self.model.cut, first=self._state is None)

    def _shot(self, rows: Rows, *, begins: bool) -> Tensor:
        """Score frames of one shot."""
        if begins:
            self._state, self._forecast = self.model.forecaster.initial_state(1), None
        skipped = 1 if begins and self.model.features.context else 0
        parts = torch.full((len(rows), len(PARTS)), torch.nan)
        if len(rows) > skipped:
            parts[skipped:] = self._known(rows[skipped:])
        return parts

    def _known(self, rows: Rows) -> Tensor:
        statistics = self.model.statistics
        whitened, outside = statistics.project(rows)
        within = whitened.square().mean(1)
        return torch.stack(
            [
                _log(within),
                _log(outside / statistics.outside.clamp(min=SMALLEST)),
                self._forecast_errors(whitened),
            ],
            dim=1,
        )

    def _forecast_errors(self, whitened: Tensor) -> Tensor:
        """Compare coordinates (T, Z) with what was forecast; NaN for the first of a shot."""
        assert self._state is not None
        made_from = int(self._state.steps) + torch.arange(len(whitened))
        usual = self.model.statistics.errors[(made_from - 1).clamp(0, WARM_UP - 1)]
        inputs = whitened.clamp(-FARTHEST, FARTHEST)
        logits, self._state = self.model.forecaster.stream(inputs.unsqueeze(0), self._state)
        forecasts = inputs + logits.frames[0]  # (T, Z), of the steps after
        nothing = torch.full_like(whitened[:1], torch.nan)
        before = nothing if self._forecast is None else self._forecast
        expected = torch.cat([before, forecasts[:-1]])
        self._forecast = forecasts[-1:]
        return _log(((whitened - expected).square() / usual).mean(1))


def shot_begins(rows: Rows, cut: CutSpec | None, *, first: bool) -> NDArray[np.bool_]:
    """Tell at which frames a shot begins, (T,); `first`: these are the first of their video."""
    begins = np.zeros(len(rows), np.bool_) if cut is None else rows[:, cut.feature] > cut.threshold
    if first and len(rows):
        begins[0] = True
    return np.asarray(begins)


def _log(values: Tensor) -> Tensor:
    return torch.log(values.clamp(min=SMALLEST))  # NaN stays NaN


class NoveltyWatch:
    """Scores the frames of a video on their way to the recognizer, and keeps the scores."""

    def __init__(self, model: NoveltyModel) -> None:
        self._reader = NoveltyReader(model)
        self._sampling = model.features.sampling
        self._scores: list[Rows] = []
        self._seconds: list[NDArray[np.float64]] = []

    def __call__(self, chunks: Iterable[FrameFeatures]) -> Iterator[FrameFeatures]:
        """Hand on the features of a video, scored."""
        for features in chunks:
            if len(features.values):
                self._scores.append(self._reader.score(features.values.astype(np.float32)))
                self._seconds.append(sample_times(features, self._sampling))
            yield features

    def add_to(self, recognition: Recognition) -> None:
        """Write the scores to what was recognized in the same video."""
        if not self._scores:
            return
        scores, seconds = np.concatenate(self._scores), np.concatenate(self._seconds)
        recognition.novelty.extend(self._scores)
        for number, clip in enumerate(recognition.clips):
            first = int(np.searchsorted(seconds, clip.start_seconds - EPSILON_SECONDS))
            held = scores[first : first + clip.num_frames]
            recognition.clips[number] = dataclasses.replace(clip, novelty=clip_novelty(held))


def recognize_watched(
    recognizer: Recognizer,
    videos: Sequence[tuple[str, Iterable[FrameFeatures], float]],
    windows: ClipWindows,
    model: NoveltyModel | None,
) -> list[Recognition]:
    """Recognize videos as `recognize` does, and tell their novelty where there is a model."""
    if model is None:
        return recognize(recognizer, videos, windows)
    watches = [NoveltyWatch(model) for _ in videos]
    watched = [
        (video_id, watch(chunks), seconds)
        for watch, (video_id, chunks, seconds) in zip(watches, videos, strict=True)
    ]
    found = recognize(recognizer, watched, windows)
    for watch, recognition in zip(watches, found, strict=True):
        watch.add_to(recognition)
    return found


def clip_novelty(frames: Rows) -> float | None:
    """Give the novelty of a clip from that of its frames; None where none is known."""
    known = frames[np.isfinite(frames)]
    return float(np.quantile(known, CLIP_QUANTILE)) if len(known) else None
