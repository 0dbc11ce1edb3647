"""
Time lines: the labels of whole videos over time, from rows with times or from labels of frames.

`decide_task` says whether labels are those of clips, one each, or of time lines.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SourceError
from pipeline.recognition.recognizer import Task
from pipeline.recognition.windows import EPSILON_SECONDS, run_length_encode
from pipeline.records import Integers, Seconds
from pipeline.storage import printable
from pipeline.training.annotations import Annotation, Annotations, format_rows
from pipeline.training.frame_labels import NOT_LABELLED, FrameLabels

MAX_OVERLAP_SECONDS = 1e-3
"""Overlap of rows that is taken as rounding."""
MAX_LISTED = 5


@dataclass(frozen=True, slots=True)
class TimeLine:
    """The labels of one video over time: either rows with times, or a label a frame."""

    video: str
    """Absolute path of the video, or of its features."""
    group: str
    """Videos of a group are on the same side of a split; the path by default."""
    split: str | None
    """`train`, `validation`, `test`, or None."""
    rows: tuple[Annotation, ...] = ()
    frames: Integers | None = None
    """Indices of the labels of all frames, (F,); -1 for none."""
    part: tuple[float, float] = (0.0, float("inf"))
    """The part of the video that is labelled, [start, end) in seconds."""

    @property
    def name(self) -> str:
        """The video, and the times of the part."""
        start, end = self.part
        if end == float("inf"):
            return printable(self.video)
        return f"{printable(self.video)} [{start:g}, {end:g})"

    def labels_at(
        self, seconds: Seconds, frame_index: Integers, labels: Sequence[str]
    ) -> NDArray[np.bool_]:
        """
        Give the labels of sampled frames, (T, K).

        Args:
            seconds: times of the frames, (T,).
            frame_index: indices of the frames in the video, (T,).
            labels: K names, those of the time lines.
        """
        found = np.zeros((len(seconds), len(labels)), np.bool_)
        if self.frames is not None:
            index = self.frames[np.minimum(frame_index, len(self.frames) - 1)]
            (labelled,) = np.nonzero(index != NOT_LABELLED)
            found[labelled, index[labelled]] = True
        for row in self.rows:
            start, end = _range(row)
            first, stop = np.searchsorted(seconds, np.array([start, end]) - EPSILON_SECONDS)
            found[first:stop, labels.index(row.label)] = True
        return found

    def count_parts(self, labels: Sequence[str]) -> Counter[str]:
        """Count the labelled parts by label; `labels` are those of the time lines."""
        counts = Counter(row.label for row in self.rows)
        if self.frames is not None:
            runs = run_length_encode(self.frames)
            counts.update(labels[label] for *_, label in runs if label != NOT_LABELLED)
        return counts

    def durations(self, frame_rate: float = 1.0) -> list[float]:
        """Give the durations of the labelled parts, in seconds; those of rows without end miss."""
        ranges = [_range(row) for row in self.rows]
        found = [end - start for start, end in ranges if end < np.inf]
        if self.frames is not None:
            found += [
                (stop - start) / frame_rate
                for start, stop, label in run_length_encode(self.frames)
                if label != NOT_LABELLED
            ]
        return found


@dataclass(frozen=True, slots=True)
class TimeLines:
    """The time lines of all videos."""

    items: tuple[TimeLine, ...]
    labels: tuple[str, ...]
    """Without the background, unless rows name it."""
    multi_label: bool = False
    """Whether labels are independent of each other."""
    notes: tuple[str, ...] = ()
    """What the user should know of the labels, a sentence each."""
    path: Path = Path("LABELS")
    """The table or folder."""

    @property
    def are_clips(self) -> bool:
        """Whether they are parts of videos."""
        return any(line.part != (0.0, float("inf")) for line in self.items)


def decide_task(annotations: Annotations) -> Task:
    """Choose `frames` if all rows have times and videos have several, all of one group each."""
    videos = _by_video(annotations.clips)
    timed = all(clip.end_seconds is not None for clip in annotations.clips)
    several = any(len({_range(clip) for clip in clips}) > 1 for clips in videos.values())
    grouped = all(len({clip.group for clip in clips}) == 1 for clips in videos.values())
    return "frames" if timed and several and grouped else "clips"


def lines_of_rows(annotations: Annotations, *, multi_label: bool = False) -> TimeLines:
    """
    Make the time lines of videos from rows.

    Raises:
        SourceError: rows of different labels overlap, or rows of a video have different groups; the
            message names the rows.
    """
    videos = _by_video(annotations.clips)
    _check(list(videos.values()), multi_label=multi_label)
    lines = [
        TimeLine(video, clips[0].group, clips[0].split, tuple(clips))
        for video, clips in videos.items()
    ]
    return TimeLines(
        tuple(lines), annotations.labels, multi_label, annotations.notes, annotations.path
    )


def lines_of_clips(annotations: Annotations) -> TimeLines:
    """
    Make a time line of each clip: all its frames have its labels, other frames are not used.

    Clips that are annotated several times have all these labels (multi-label).
    """
    parts: dict[tuple[str, float, float], list[Annotation]] = defaultdict(list)
    for clip in annotations.clips:
        parts[(clip.video, *_range(clip))].append(clip)
    lines = [
        TimeLine(video, clips[0].group, clips[0].split, tuple(clips), part=(start, end))
        for (video, start, end), clips in parts.items()
    ]
    return TimeLines(tuple(lines), annotations.labels, True, annotations.notes, annotations.path)


def merge_copies(lines: Sequence[TimeLine], *, multi_label: bool = False) -> TimeLine:
    """
    Make one time line of those of files with the same content.

    Raises:
        SourceError: they have different groups, splits or labels.
    """
    first = lines[0]
    groups = sorted({line.group for line in lines if line.group != line.video})
    splits = {line.split for line in lines}
    frames = [line.frames for line in lines if line.frames is not None]
    if (
        len(groups) > 1
        or len(splits) > 1
        or any(not np.array_equal(one, frames[0]) for one in frames)
    ):
        raise SourceError(
            f"{', '.join(printable(line.video) for line in lines[:MAX_LISTED])} have the same "
            "content, but different groups, splits or labels: keep one of them"
        )
    group = groups[0] if groups else first.group
    rows = {(*_range(row), row.label): row for line in reversed(lines) for row in line.rows}
    merged = [replace(rows[key], video=first.video, group=group) for key in sorted(rows)]
    _check([merged], multi_label=multi_label)
    return replace(first, group=group, rows=tuple(merged))


def lines_of_frames(found: FrameLabels, find: Callable[[str], str | None]) -> TimeLines:
    """
    Make the time lines of videos from labels of frames.

    Args:
        found: labels by name of the video.
        find: gives the absolute path of a video by its name; None if there is none.

    Raises:
        SourceError: there is no video for some labels.
    """
    paths = {name: find(name) for name in found.videos}
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        raise SourceError(
            f"{len(missing)} of {len(paths)} names in LABELS have no video or features: "
            f"{', '.join(missing[:MAX_LISTED])}"
        )
    lines = [
        TimeLine(path, path, None, frames=found.videos[name])
        for name, path in paths.items()
        if path is not None
    ]
    return TimeLines(tuple(lines), found.labels)


def _by_video(clips: Iterable[Annotation]) -> Mapping[str, list[Annotation]]:
    videos: dict[str, list[Annotation]] = defaultdict(list)
    for clip in sorted(clips, key=lambda clip: clip.row):
        videos[clip.video].append(clip)
    return videos


def _check(videos: Sequence[Sequence[Annotation]], *, multi_label: bool) -> None:
    groups = [problem for clips in videos for problem in _group_problems(clips)]
    overlaps = [] if multi_label else [p for clips in videos for p in _overlaps(clips)]
    _raise_if_any(groups, overlaps)


def _range(clip: Annotation) -> tuple[float, float]:
    end = float("inf") if clip.end_seconds is None else clip.end_seconds
    return clip.start_seconds or 0.0, end


def _group_problems(clips: Sequence[Annotation]) -> list[str]:
    groups = sorted({clip.group for clip in clips})
    if len(groups) < 2:
        return []
    return [
        f"{format_rows(clips)} are of one video, {printable(clips[0].video)}, but in different "
        f"groups: {', '.join(groups[:MAX_LISTED])}. Give them one group, or use --task clips"
    ]


def _overlaps(clips: Sequence[Annotation]) -> list[str]:
    """Find rows of different labels that overlap."""
    found = []
    ordered = sorted(clips, key=_range)
    for number, a in enumerate(ordered):
        for b in ordered[number + 1 :]:
            if _range(b)[0] >= _range(a)[1] - MAX_OVERLAP_SECONDS:
                break
            if a.label != b.label and _overlap_seconds(a, b) > MAX_OVERLAP_SECONDS:
                found.append((a, b))
    return [
        f"{format_rows((a, b))} overlap: {a.label} from {_format_range(a)} and {b.label} from "
        f"{_format_range(b)} of {printable(a.video)}"
        for a, b in found
    ]


def _overlap_seconds(a: Annotation, b: Annotation) -> float:
    (start_a, end_a), (start_b, end_b) = _range(a), _range(b)
    return min(end_a, end_b) - max(start_a, start_b)


def _format_range(clip: Annotation) -> str:
    start, end = _range(clip)
    return f"{start:g} to {end:g} s" if end < np.inf else f"{start:g} s to the end"


def _raise_if_any(groups: Sequence[str], overlaps: Sequence[str]) -> None:
    problems = [*groups, *overlaps]
    if not problems:
        return
    more = f"\n  and {len(problems) - MAX_LISTED} more" * (len(problems) > MAX_LISTED)
    listed = "".join(f"\n  {problem}" for problem in problems[:MAX_LISTED])
    advice = "; use --multi-label if several labels may hold at the same time" * bool(overlaps)
    raise SourceError(f"LABELS cannot be used as time lines of videos{advice}:{listed}{more}")
