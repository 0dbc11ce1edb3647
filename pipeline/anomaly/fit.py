"""
Fit a novelty model to the features of normal videos.

    model = fit_to_videos(videos, store, feature_spec)
    save_novelty(model, Path("normal-model"))

Statistics are accumulated in float64, chunk by chunk, for videos of any length. A fifth of the
frames is held out to standardize the scores.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.anomaly.model import (
    CLIP_SIGMA,
    DISTANCES,
    FORECASTER,
    WARM_UP,
    FeatureSpec,
    NoveltyModel,
    NoveltyScorer,
    Rows,
    Statistics,
    shot_starts,
)
from pipeline.encode.feature_store import FeatureStore
from pipeline.errors import SourceError
from pipeline.recognition.recognizer import CutSpec, Recognizer
from pipeline.recognition.windows import split_at
from pipeline.records import FrameFeatures, Video, merge_reports
from pipeline.temporal.models import TemporalModel

logger = logging.getLogger(__name__)

MAX_FEATURE_SIZE = 8192
"""The covariance of larger features would take over 512 MB."""
MIN_FRAMES = 64
MIN_VIDEOS_TO_SPLIT = 5
"""With fewer videos, the last fifth of each is held out instead of every fifth video."""
EXPLAINED_VARIANCE = 0.95
"""Share of the variance within the subspace."""
MAX_SUBSPACE = 64
WINDOW_STEPS = 32
"""Length of the sequences that the forecaster is trained on."""
MAX_WINDOWS = 4096
BATCH_SIZE = 32
TRAINING_STEPS = 400
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-2


@dataclass(frozen=True, slots=True)
class TrainingVideo:
    """The features of one normal video."""

    video_id: str
    frames: int
    read: Callable[[], Iterable[FrameFeatures]]
    """Reads the features from the start; called several times."""


class RunningCovariance:
    """Mean and covariance of rows that are added in chunks, in float64."""

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


def fit_to_videos(
    videos: Sequence[Video],
    store: FeatureStore,
    features: FeatureSpec,
    *,
    recognizer: Recognizer | None = None,
    seed: int = 0,
) -> NoveltyModel:
    """
    Fit a novelty model to videos whose features are in the store.

    Args:
        videos: normal videos; those without features are ignored, with a warning.
        store: their features.
        features: describes the features of the store.
        recognizer: its cut feature is used, and its name is noted.
        seed: of the initial weights and the order of training.

    Raises:
        SourceError: as for `fit_novelty`, or no video has a frame.
    """
    usable = [
        TrainingVideo(video.video_id, frames, partial(store.stream, video.video_id))
        for video in videos
        if (frames := _stored_frames(store, video))
    ]
    ignored = len(videos) - len(usable)
    if ignored:
        logger.warning("%d of %d videos have no frames and are ignored", ignored, len(videos))
    if not usable:
        raise SourceError(f"none of {len(videos)} normal videos has a frame: see clipline doctor")
    model = fit_novelty(usable, features, recognizer.cut if recognizer else None, seed)
    name = recognizer.name if recognizer else None
    return replace(model, notes={**model.notes, "recognizer": name})


def _stored_frames(store: FeatureStore, video: Video) -> int:
    if not store.has(video.video_id):
        return 0
    return merge_reports(store.reports(video.video_id)).frames_sampled


def fit_novelty(
    videos: Sequence[TrainingVideo], features: FeatureSpec, cut: CutSpec | None, seed: int = 0
) -> NoveltyModel:
    """
    Fit a novelty model to normal videos.

    Args:
        videos: normal videos.
        features: describes their features.
        cut: the feature that detects cuts, if there is one.
        seed: of the initial weights and the order of training.

    Raises:
        SourceError: too few frames, too many features, or features that are not finite.
    """
    _check(videos, features)
    split = _Split(videos, features, cut)
    covariance = RunningCovariance(features.feature_size)
    for shot in split.training():
        covariance.add(shot)
    statistics = _subspace(covariance)
    rng = np.random.default_rng(seed)
    windows = _sample_windows((statistics.project(shot)[0] for shot in split.training()), rng)
    forecaster, errors = _train(windows, len(statistics.axes), rng)
    notes = {"videos": len(videos), "frames": covariance.count, "subspace": len(statistics.axes)}
    model = NoveltyModel(features, replace(statistics, errors=errors), forecaster, cut, notes)
    distances = [torch.zeros(0, len(DISTANCES)), *split.held_out_distances(model)]
    return _standardize(model, torch.cat(distances))


def _check(videos: Sequence[TrainingVideo], features: FeatureSpec) -> None:
    if features.feature_size > MAX_FEATURE_SIZE:
        raise SourceError(
            f"novelty models support at most {MAX_FEATURE_SIZE} features per frame, "
            f"{features.backbone} has {features.feature_size}: use a smaller --grid"
        )
    frames = sum(video.frames for video in videos)
    if frames < MIN_FRAMES:
        raise SourceError(
            f"{len(videos)} normal videos have {frames} sampled frames, at least {MIN_FRAMES} are "
            "needed: use more videos, or a higher --sample-fps"
        )


@dataclass(frozen=True)
class _Split:
    """Splits frames for training from held-out ones: every fifth video, or the end of each."""

    videos: Sequence[TrainingVideo]
    features: FeatureSpec
    cut: CutSpec | None

    def _training_frames(self, number: int) -> int:
        """Give the number of frames, from the start of a video, that are trained on."""
        frames = self.videos[number].frames
        if len(self.videos) < MIN_VIDEOS_TO_SPLIT:
            return frames - max(1, frames // 5)
        return 0 if number % 5 == 4 else frames

    def training(self) -> Iterator[Rows]:
        """Yield features for training, (T, D), each of one shot."""
        for number, video in enumerate(self.videos):
            left, is_first = self._training_frames(number), True
            for rows in _read_rows(video) if left else ():
                used = rows[:left]
                yield from self._shots(used, is_first=is_first)
                left, is_first = left - len(used), False

    def _shots(self, rows: Rows, *, is_first: bool) -> Iterator[Rows]:
        starts = shot_starts(rows, self.cut, is_first=is_first)
        for start, stop in split_at(starts):
            skipped = 1 if starts[start] and self.features.context else 0
            yield rows[start + skipped : stop]

    def held_out_distances(self, model: NoveltyModel) -> Iterator[Tensor]:
        """Yield the log distances (T, 3) of held-out frames."""
        for number, video in enumerate(self.videos):
            skipped = self._training_frames(number)
            if skipped == video.frames:
                continue
            scorer = NoveltyScorer(model)
            yield torch.cat([scorer.distances(rows) for rows in _read_rows(video)])[skipped:]


def _read_rows(video: TrainingVideo) -> Iterator[Rows]:
    for chunk in video.read():
        rows = chunk.values.astype(np.float32)
        if not np.isfinite(rows).all():
            first = int(chunk.sample_index[~np.isfinite(rows).all(1)][0])
            raise SourceError(
                f"features of video {video.video_id} are not finite, first in sample {first}: "
                "the backbone overflows, use --precision float32"
            )
        if len(rows):
            yield rows


def _subspace(covariance: RunningCovariance) -> Statistics:
    """Compute the principal axes of normal features."""
    variances, directions = np.linalg.eigh(covariance.covariance())
    variances = np.maximum(variances[::-1], 0)
    share = np.cumsum(variances) / max(variances.sum(), 1e-12)
    wanted = int(np.searchsorted(share, EXPLAINED_VARIANCE)) + 1
    size = max(1, min(wanted, MAX_SUBSPACE, int((variances > 1e-9 * variances[0]).sum())))
    axes = directions[:, ::-1][:, :size] / np.sqrt(np.maximum(variances[:size], 1e-12))
    return Statistics(
        mean=_float32(covariance.mean),
        axes=_float32(axes.T),
        outside=_float32(variances[size:].sum()),
        errors=torch.ones(WARM_UP, size),
        part_means=torch.zeros(len(DISTANCES)),
        part_stds=torch.ones(len(DISTANCES)),
        total=torch.tensor([0.0, 1.0]),
    )


def _float32(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))


def _sample_windows(shots: Iterator[Tensor], rng: np.random.Generator) -> list[Tensor]:
    """Sample windows (WINDOW_STEPS or fewer, Z) uniformly (reservoir sampling)."""
    kept: list[Tensor] = []
    seen = 0
    for shot in shots:
        for window in torch.split(shot.clamp(-CLIP_SIGMA, CLIP_SIGMA), WINDOW_STEPS):
            if len(window) < 2:
                continue
            seen += 1
            if len(kept) < MAX_WINDOWS:
                kept.append(window)
            elif (place := int(rng.integers(seen))) < MAX_WINDOWS:
                kept[place] = window
    return kept


def _train(
    windows: list[Tensor], size: int, rng: np.random.Generator
) -> tuple[TemporalModel, Tensor]:
    """Train the forecaster. Returns it and its expected squared errors, (WARM_UP, Z)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))
        model = TemporalModel(size, size, FORECASTER)
    torch.nn.init.zeros_(model.head.weight)  # the initial prediction is no change
    torch.nn.init.zeros_(model.head.bias)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, TRAINING_STEPS)
    for _ in range(TRAINING_STEPS if windows else 0):
        chosen = rng.integers(len(windows), size=BATCH_SIZE)
        errors, mask = _squared_errors(model, [windows[number] for number in chosen])
        optimizer.zero_grad()
        errors[mask].mean().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval().requires_grad_(False)
    return model, _expected_errors(model, windows)


def _expected_errors(model: TemporalModel, windows: list[Tensor]) -> Tensor:
    """Average squared errors by the number of frames before, the last row for more."""
    total, count = torch.zeros(WARM_UP, model.num_labels), torch.zeros(WARM_UP)
    for start in range(0, len(windows), BATCH_SIZE):
        errors, mask = _squared_errors(model, windows[start : start + BATCH_SIZE])
        row = torch.arange(errors.shape[1]).clamp(max=WARM_UP - 1)
        total.index_add_(0, row, (errors * mask.unsqueeze(2)).sum(0))
        count.index_add_(0, row, mask.sum(0).float())
    overall = total.sum(0) / count.sum() if windows else torch.ones(model.num_labels)
    expected = torch.where(count.unsqueeze(1) > 0, total / count.clamp(min=1).unsqueeze(1), overall)
    return expected.clamp(min=1e-6)


def _squared_errors(model: TemporalModel, windows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Give the squared prediction errors (N, L - 1, Z), and their mask (N, L - 1)."""
    x = torch.nn.utils.rnn.pad_sequence(windows, batch_first=True)  # (N, L, Z)
    lengths = torch.tensor([len(window) for window in windows])
    mask = torch.arange(x.shape[1]) < lengths.unsqueeze(1)
    predicted = x[:, :-1] + model(x, mask).frames[:, :-1]
    return (x[:, 1:] - predicted).square(), mask[:, 1:]


def _standardize(model: NoveltyModel, held_out: Tensor) -> NoveltyModel:
    """Set the statistics of the log distances (T, 3) of held-out frames."""
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
