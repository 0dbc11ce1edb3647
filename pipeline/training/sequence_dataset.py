"""Build sequences with a label for each sampled frame, from time lines and stored features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.config import ClipWindows, Sampling
from pipeline.errors import SourceError
from pipeline.recognition.recognize import sample_times
from pipeline.recognition.recognizer import BackboneSpec
from pipeline.records import Integers, Seconds, Video, merge_reports
from pipeline.sources.discovery import find_videos
from pipeline.storage import printable
from pipeline.temporal.sequences import IGNORED, LabelledSequence, LabelledSequences
from pipeline.training.build_dataset import clip_windows
from pipeline.training.clip_dataset import SkippedClip, feature_problem, require_inside
from pipeline.training.feature_source import FeatureSource
from pipeline.training.time_lines import TimeLine, TimeLines, merge_copies

MAX_MISSING_SHARE = 0.01
"""Of the frames of a video, that labels and features may differ."""


@dataclass(frozen=True)
class LabelNames:
    """The labels of a model: K names, and which of them is the background."""

    names: tuple[str, ...]
    background: str | None


@dataclass(frozen=True)
class SequenceDataset:
    """Labelled sequences, and how their features were made."""

    sequences: LabelledSequences
    splits: tuple[str | None, ...]
    """Split of each sequence: `train`, `validation`, `test`, or None."""
    backbone: BackboneSpec
    licence: str | None
    """Of the weights of the backbone."""
    sampling: Sampling
    windows: ClipWindows
    """As long as the labelled parts."""
    skipped: tuple[SkippedClip, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels, with the background."""
        return self.sequences.labels

    def of(self, *splits: str | None) -> list[LabelledSequence]:
        """Give the sequences of some splits."""
        pairs = zip(self.sequences.items, self.splits, strict=True)
        return [item for item, split in pairs if split in splits]


@dataclass(frozen=True)
class _Sampled:
    """The sampled frames of a video, and their labels."""

    line: TimeLine
    video_id: str
    features: NDArray[np.float32]
    """(T, D)."""
    mask: NDArray[np.bool_]
    """(T,)."""
    seconds: Seconds
    """(T,)."""
    labels: NDArray[np.bool_]
    """(T, K)."""
    frame_rate: float


def find_line_videos(lines: TimeLines, image_fps: float | None = None) -> list[Video]:
    """Find the videos of time lines; copies of a video are found once."""
    return find_videos(sorted({line.video for line in lines.items}), image_fps=image_fps)


def build_sequences(
    lines: TimeLines,
    source: FeatureSource,
    videos: Sequence[Video],
    *,
    background: str | None,
    known: LabelNames | None = None,
) -> SequenceDataset:
    """
    Build the sequences of videos from their stored features.

    Args:
        lines: labels of the videos over time.
        source: of the features.
        videos: from `find_line_videos`.
        background: name of the label of frames without one; None ignores these frames.
        known: labels of a recognizer, in its order, in place of those of the time lines.

    Raises:
        SourceError: times are outside of a video, labels and features of a video have different
            numbers of frames, features are not finite, or no video can be used.
    """
    sampled: list[_Sampled] = []
    skipped: list[SkippedClip] = []
    for video, line in _lines_by_video(lines, videos):
        problem = feature_problem(video, source)
        if problem:
            rows = [row.row for row in line.rows] or [0]
            skipped += [SkippedClip(row, line.video, problem) for row in rows]
        else:
            sampled.append(_sample(line, video, source, lines.labels))
    if not sampled:
        first = f": {skipped[0].video}: {skipped[0].reason}" if skipped else ""
        raise SourceError(f"no video of LABELS can be used{first}")
    chosen = known or _label_names(lines, sampled, background)
    items = [_labelled(one, lines, chosen) for one in sampled]
    durations = [second for one in sampled for second in one.line.durations(one.frame_rate)]
    return SequenceDataset(
        LabelledSequences(tuple(items), chosen.names, chosen.background, lines.multi_label),
        splits=tuple(one.line.split for one in sampled),
        backbone=source.backbone,
        licence=source.licence,
        sampling=source.sampling,
        windows=clip_windows(durations),
        skipped=tuple(skipped),
    )


def _lines_by_video(lines: TimeLines, videos: Sequence[Video]) -> list[tuple[Video, TimeLine]]:
    by_path = {line.video: line for line in lines.items}
    found = []
    for video in videos:
        paths = [video.location, *(location for _, location in video.copies)]
        copies = [by_path[path] for path in paths if path in by_path]
        if copies:
            found.append((video, merge_copies(copies, multi_label=lines.multi_label)))
    return found


def _sample(line: TimeLine, video: Video, source: FeatureSource, labels: Sequence[str]) -> _Sampled:
    parts = list(source.store.stream(video.video_id))
    seconds = np.concatenate([sample_times(part, source.sampling) for part in parts])
    frame_index = np.concatenate([part.frame_index for part in parts])
    features = np.concatenate([part.values for part in parts]).astype(np.float32)
    if not np.isfinite(features).all():
        raise SourceError(
            f"features of {printable(line.video)} are not finite: the weights of the backbone are "
            "damaged, or its precision is too low"
        )
    report = merge_reports(source.store.reports(video.video_id))
    duration = report.duration_seconds or float(seconds[-1])
    for row in line.rows:
        require_inside(row, duration, source.sampling)
    _require_frames(line, report.frames_decoded, report.status)
    mask = np.ones(len(features), np.bool_)
    # a frame encoded with the one before it has no features if it is the first
    mask[0] = not (source.backbone.context and len(mask) > 1)
    return _Sampled(
        line,
        video.video_id,
        features,
        mask,
        seconds,
        line.labels_at(seconds, frame_index, labels),
        report.frame_rate or 1.0,
    )


def _require_frames(line: TimeLine, frames: int, status: str) -> None:
    """Require about as many labels as frames."""
    if line.frames is None or status != "ok":
        return
    if abs(len(line.frames) - frames) > max(1, MAX_MISSING_SHARE * frames):
        raise SourceError(
            f"{printable(line.video)} has {frames} frames, but {len(line.frames)} labels: labels "
            "must have one line a frame"
        )


def _label_names(
    lines: TimeLines, sampled: Sequence[_Sampled], background: str | None
) -> LabelNames:
    """Give the labels, and the background among them if some frame has no label."""
    if lines.multi_label or background is None:
        return LabelNames(lines.labels, None)
    if background in lines.labels:
        return LabelNames(lines.labels, background)
    if all(one.labels.any(axis=1).all() for one in sampled):
        return LabelNames(lines.labels, None)
    return LabelNames((background, *lines.labels), background)


def _labelled(one: _Sampled, lines: TimeLines, chosen: LabelNames) -> LabelledSequence:
    return LabelledSequence(
        name=printable(one.line.video),
        video_id=one.video_id,
        group=one.line.group,
        features=one.features,
        targets=_targets(one.labels, lines, chosen),
        mask=one.mask,
        seconds=one.seconds.astype(np.float64),
        video=printable(one.line.video),
    )


def _targets(
    labels: NDArray[np.bool_], lines: TimeLines, chosen: LabelNames
) -> NDArray[np.bool_] | Integers:
    """Convert labels (T, K) to targets for the labels of a model: (T,), or (T, K)."""
    columns = np.array([chosen.names.index(name) for name in lines.labels])
    if lines.multi_label:
        targets = np.zeros((len(labels), len(chosen.names)), np.bool_)
        targets[:, columns] = labels
        return targets
    missing = IGNORED if chosen.background is None else chosen.names.index(chosen.background)
    return np.where(labels.any(axis=1), columns[labels.argmax(axis=1)], missing).astype(np.int64)
