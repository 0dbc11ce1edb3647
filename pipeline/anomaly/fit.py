"""
Learn what is normal: fit a novelty model to the features of normal videos.

Statistics are gathered in float64, chunk by chunk, so the material may be of any length. A fifth of
it is held out and only sets the scale on which novelty is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.anomaly.model import (
    FARTHEST,
    FORECASTER,
    PARTS,
    WARM_UP,
    FeatureSpec,
    NoveltyModel,
    NoveltyReader,
    Rows,
    Statistics,
    shot_begins,
)
from pipeline.errors import SourceError
from pipeline.recognition.recognizer import CutSpec
from pipeline.records import FrameFeatures
from pipeline.temporal.models import TemporalModel

LARGEST_FEATURES = 8192
"""Features a frame whose covariance is still kept: 512 MB."""
FEWEST_FRAMES = 64
FEWEST_VIDEOS = 5
"""Of fewer, the last fifth of each is held out instead of every fifth video."""
EXPLAINED = 0.95
"""Share of the variance that the subspace holds."""
LARGEST_SUBSPACE = 64
WINDOW = 32
"""Steps of a sequence that the forecaster is trained on."""
WINDOWS_KEPT = 4096
BATCH = 32
STEPS = 400
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-2


@dataclass(frozen=True, slots=True)
class Material:
    """The features of one normal video, which can be read again and again."""

    video_id: str
    frames: int
    read: Callable[[], Iterable[FrameFeatures]]


class Moments:
    """Count, mean and scatter of rows that come in chunks, in float64."""

    def __init__(self, size: int) -> None:
        self.count = 0
        self.mean = np.zeros(size)
        self._scatter = np.zeros((size, size))

    def add(self, rows: Rows) -> None:
        """Add rows (T, D)."""
        if not len(rows):
            return
        values = rows.astype(np.float64)
        mean = values.mean(0)
        centred, shift = values - mean, mean - self.mean
        total = self.count + len(rows)
        self._scatter += centred.T @ centred
        self._scatter += np.outer(shift, shift) * (self.count * len(rows) / total)
        self.mean += shift * (len(rows) / total)
        self.count = total

    def covariance(self) -> NDArray[np.float64]:
        """Give the covariance of all rows so far, (D, D)."""
        return self._scatter / max(1, self.count - 1)


def fit_novelty(
    videos: Sequence[Material], features: FeatureSpec, cut: CutSpec | None, seed: int = 0
) -> NoveltyModel:
    """
    Fit a novelty model to normal videos.

    Args:
        videos: what is normal.
        features: which features they are.
        cut: which feature tells where a shot begins, if one does.
        seed: of what is left to chance: starting weights, and the order of training.

    Raises:
        SourceError: too little material, or features that are not finite.
    """
    _check(videos, features)
    split = _Split(videos, features, cut)
    moments = Moments(features.feature_size)
    for shot in split.training():
        moments.add(shot)
    statistics = _subspace(moments)
    chance = np.random.default_rng(seed)
    windows = _windows((statistics.project(shot)[0] for shot in split.training()), chance)
    forecaster, errors = _train(windows, len(statistics.axes), chance)
    notes = {"videos": len(videos), "frames": moments.count, "subspace": len(statistics.axes)}
    raw = NoveltyModel(features, replace(statistics, errors=errors), forecaster, cut, notes)
    return _standardize(raw, torch.cat([torch.zeros(0, len(PARTS)), *split.held_out(raw)]))


def _check(videos: Sequence[Material], features: FeatureSpec) -> None:
    if features.feature_size > LARGEST_FEATURES:
        raise SourceError(
            f"novelty can be fitted to {LARGEST_FEATURES} features a frame at most, "
            f"{features.backbone} gives {features.feature_size}: use a smaller --grid"
        )
    frames = sum(video.frames for video in videos)
    if frames < FEWEST_FRAMES:
        raise SourceError(
            f"{len(videos)} normal videos hold {frames} sampled frames, wanted {FEWEST_FRAMES} or "
            "more: give more footage, or a higher --sample-fps"
        )


@dataclass(frozen=True)
class _Split:
    """Material for training, and material held out: every fifth video, or the end of each."""

    videos: Sequence[Material]
    features: FeatureSpec
    cut: CutSpec | None

    def _trained_frames(self, number: int) -> int:
        """Count the first frames of a video that are trained on."""
        frames = self.videos[number].frames
        if len(self.videos) < FEWEST_VIDEOS:
            return frames - max(1, frames // 5)
        return 0 if number % 5 == 4 else frames

    def training(self) -> Iterator[Rows]:
        """Give what is trained on in pieces of one shot each, (T, D)."""
        for number, video in enumerate(self.videos):
            left, first = self._trained_frames(number), True
            for rows in _rows(video) if left else ():
                kept = rows[:left]
                yield from self._pieces(kept, first=first)
                left, first = left - len(kept), False

    def _pieces(self, rows: Rows, *, first: bool) -> Iterator[Rows]:
        begins = shot_begins(rows, self.cut, first=first)
        for start, stop in _runs(begins):
            skipped = 1 if begins[start] and self.features.context else 0
            yield rows[start + skipped : stop]

    def held_out(self, model: NoveltyModel) -> Iterator[Tensor]:
        """Give the distances (T, 3) of what is held out."""
        for number, video in enumerate(self.videos):
            skipped = self._trained_frames(number)
            if skipped == video.frames:
                continue
            reader = NoveltyReader(model)
            yield torch.cat([reader.distances(rows) for rows in _rows(video)])[skipped:]


def _rows(video: Material) -> Iterator[Rows]:
    for chunk in video.read():
        rows = chunk.values.astype(np.float32)
        if not np.isfinite(rows).all():
            bad = int(chunk.sample_index[~np.isfinite(rows).all(1)][0])
            raise SourceError(
                f"features of video {video.video_id} are not finite, first in sample {bad}: "
                "the backbone overflows; encode with --precision float32"
            )
        if len(rows):
            yield rows


def _runs(begins: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    edges = [0, *(int(n) for n in np.flatnonzero(begins[1:]) + 1), len(begins)]
    return ((start, stop) for start, stop in pairwise(edges) if stop > start)


def _subspace(moments: Moments) -> Statistics:
    """Find the axes along which normal features vary most."""
    variances, directions = np.linalg.eigh(moments.covariance())
    variances = np.maximum(variances[::-1], 0)
    share = np.cumsum(variances) / max(variances.sum(), 1e-12)
    wanted = int(np.searchsorted(share, EXPLAINED)) + 1
    size = max(1, min(wanted, LARGEST_SUBSPACE, int((variances > 1e-9 * variances[0]).sum())))
    axes = directions[:, ::-1][:, :size] / np.sqrt(np.maximum(variances[:size], 1e-12))
    return Statistics(
        mean=_float32(moments.mean),
        axes=_float32(axes.T),
        outside=_float32(variances[size:].sum()),
        errors=torch.ones(WARM_UP, size),
        part_means=torch.zeros(len(PARTS)),
        part_stds=torch.ones(len(PARTS)),
        total=torch.tensor([0.0, 1.0]),
    )


def _float32(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))


def _windows(shots: Iterator[Tensor], chance: np.random.Generator) -> list[Tensor]:
    """Draw windows (WINDOW or fewer steps, Z), each of the material as likely as any other."""
    kept: list[Tensor] = []
    seen = 0
    for shot in shots:
        for window in torch.split(shot.clamp(-FARTHEST, FARTHEST), WINDOW):
            if len(window) < 2:
                continue
            seen += 1
            if len(kept) < WINDOWS_KEPT:
                kept.append(window)
            elif (place := int(chance.integers(seen))) < WINDOWS_KEPT:
                kept[place] = window
    return kept


def _train(
    windows: list[Tensor], size: int, chance: np.random.Generator
) -> tuple[TemporalModel, Tensor]:
    """Train the forecaster; give it with its mean squared errors, (WARM_UP, Z)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(chance.integers(2**31)))
        model = TemporalModel(size, size, FORECASTER)
    torch.nn.init.zeros_(model.head.weight)  # the first forecast: nothing changes
    torch.nn.init.zeros_(model.head.bias)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS if windows else 0):
        picked = chance.integers(len(windows), size=BATCH)
        errors, known = _squared_errors(model, [windows[number] for number in picked])
        optimizer.zero_grad()
        errors[known].mean().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval().requires_grad_(False)
    return model, _usual_errors(model, windows)


def _usual_errors(model: TemporalModel, windows: list[Tensor]) -> Tensor:
    """Average squared errors by frames that a forecast was made from, the last row: or more."""
    total, count = torch.zeros(WARM_UP, model.num_labels), torch.zeros(WARM_UP)
    for start in range(0, len(windows), BATCH):
        errors, known = _squared_errors(model, windows[start : start + BATCH])
        row = torch.arange(errors.shape[1]).clamp(max=WARM_UP - 1)
        total.index_add_(0, row, (errors * known.unsqueeze(2)).sum(0))
        count.index_add_(0, row, known.sum(0).float())
    everywhere = total.sum(0) / count.sum() if windows else torch.ones(model.num_labels)
    usual = torch.where(count.unsqueeze(1) > 0, total / count.clamp(min=1).unsqueeze(1), everywhere)
    return usual.clamp(min=1e-6)


def _squared_errors(model: TemporalModel, windows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Give the squared errors of forecasts (N, L - 1, Z), and which of them are real (N, L - 1)."""
    x = torch.nn.utils.rnn.pad_sequence(windows, batch_first=True)  # (N, L, Z)
    lengths = torch.tensor([len(window) for window in windows])
    mask = torch.arange(x.shape[1]) < lengths.unsqueeze(1)
    forecast = x[:, :-1] + model(x, mask).frames[:, :-1]
    return (x[:, 1:] - forecast).square(), mask[:, 1:]


def _standardize(model: NoveltyModel, held_out: Tensor) -> NoveltyModel:
    """Set the scale of a model: 0 is the mean of what was held out, 1 a standard deviation."""
    means, stds = zip(*(_mean_and_std(column) for column in held_out.T), strict=True)
    statistics = replace(
        model.statistics, part_means=torch.stack(means), part_stds=torch.stack(stds)
    )
    scaled = replace(model, statistics=statistics)
    total = torch.stack(_mean_and_std(scaled.combine(held_out)))
    return replace(scaled, statistics=replace(statistics, total=total))


def _mean_and_std(values: Tensor) -> tuple[Tensor, Tensor]:
    known = values[values.isfinite()].double()
    if len(known) < 2:
        return torch.tensor(0.0), torch.tensor(1.0)
    return known.mean().float(), known.std().clamp(min=1e-3).float()
