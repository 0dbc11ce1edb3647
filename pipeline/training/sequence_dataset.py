"""Build sequences with a label for each sampled frame, from time lines and stored features."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.config import ClipWindows, Sampling
from pipeline.errors import SourceError
from pipeline.recognition.recognize import sample_times
from pipeline.recognition.recognizer import BackboneSpec
from pipeline.recognition.windows import EPSILON_SECONDS
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
class _Frames:
    """Consecutive sampled frames of a video."""

    video_id: str
    features: NDArray[np.float32]
    """(T, D)."""
    mask: NDArray[np.bool_]
    """(T,)."""
    seconds: Seconds
    """(T,)."""
    frame_index: Integers
    """(T,)."""
    frame_rate: float

    def __getitem__(self, part: slice) -> _Frames:
        return replace(
            self,
            features=self.features[part],
            mask=self.mask[part],
            seconds=self.seconds[part],
            frame_index=self.frame_index[part],
        )


@dataclass(frozen=True)
class _Sampled:
    """The sampled frames of a time line, and their labels."""

    line: TimeLine
    frames: _Frames
    labels: NDArray[np.bool_]
    """(T, K)."""


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
    for video, found in _lines_by_video(lines, videos):
        problem = feature_problem(video, source)
        if problem:
            rows = [row.row for line in found for row in line.rows] or [0]
            skipped += [SkippedClip(row, found[0].video, problem) for row in rows]
        else:
            whole = _read(found, video, source)
            sampled += [_cut(whole, line, lines.labels) for line in found]
    if not sampled:
        first = f": {skipped[0].video}: {skipped[0].reason}" if skipped else ""
        raise SourceError(f"no video of LABELS can be used{first}")
    chosen = known or _label_names(lines, sampled, background)
    items = [_labelled(one, lines, chosen) for one in sampled]
    durations = [second for one in sampled for second in one.line.durations(one.frames.frame_rate)]
    return SequenceDataset(
        LabelledSequences(tuple(items), chosen.names, chosen.background, lines.multi_label),
        splits=tuple(one.line.split for one in sampled),
        backbone=source.backbone,
        licence=source.licence,
        sampling=source.sampling,
        windows=clip_windows(durations),
        skipped=tuple(skipped),
    )


def _lines_by_video(
    lines: TimeLines, videos: Sequence[Video]
) -> list[tuple[Video, list[TimeLine]]]:
    """Give the time lines of each video: one, or one for each of its labelled parts."""
    by_path: dict[str, list[TimeLine]] = defaultdict(list)
    for line in lines.items:
        by_path[line.video].append(line)
    found = []
    for video in videos:
        paths = [video.location, *(location for _, location in video.copies)]
        parts: dict[tuple[float, float], list[TimeLine]] = defaultdict(list)
        for line in (line for path in paths for line in by_path.get(path, ())):
            parts[line.part].append(line)
        if parts:
            merged = [merge_copies(p, multi_label=lines.multi_label) for p in parts.values()]
            found.append((video, merged))
    return found


def _read(lines: Sequence[TimeLine], video: Video, source: FeatureSource) -> _Frames:
    """
    Read all sampled frames of a video.

    Raises:
        SourceError: features are not finite, or the labels do not fit the video.
    """
    parts = list(source.store.stream(video.video_id))
    seconds = np.concatenate([sample_times(part, source.sampling) for part in parts])
    frame_index = np.concatenate([part.frame_index for part in parts])
    features = np.concatenate([part.values for part in parts]).astype(np.float32)
    if not np.isfinite(features).all():
        raise SourceError(
            f"features of {printable(lines[0].video)} are not finite: the weights of the backbone "
            "are damaged, or its precision is too low"
        )
    report = merge_reports(source.store.reports(video.video_id))
    duration = report.duration_seconds or float(seconds[-1])
    for line in lines:
        for row in line.rows:
            require_inside(row, duration, source.sampling)
        _require_frames(line, report.frames_decoded, report.status)
    mask = np.ones(len(features), np.bool_)
    # a frame encoded with the one before it has no features if it is the first
    mask[0] = not (source.backbone.context and len(mask) > 1)
    rate = report.frame_rate or 1.0
    return _Frames(video.video_id, features, mask, seconds, frame_index, rate)


def _cut(frames: _Frames, line: TimeLine, labels: Sequence[str]) -> _Sampled:
    """
    Cut the part of a time line out of its video, and give its frames their labels.

    Raises:
        SourceError: the part has no frame.
    """
    first, stop = np.searchsorted(frames.seconds, np.array(line.part) - EPSILON_SECONDS)
    if first >= stop:
        raise SourceError(f"no frame was sampled in {line.name}: increase --sample-fps")
    part = frames[slice(int(first), int(stop))]
    return _Sampled(line, part, line.labels_at(part.seconds, part.frame_index, labels))


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
        name=one.line.name,
        video_id=one.frames.video_id,
        group=one.line.group,
        features=one.frames.features,
        targets=_targets(one.labels, lines, chosen),
        mask=one.frames.mask,
        seconds=one.frames.seconds.astype(np.float64),
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
