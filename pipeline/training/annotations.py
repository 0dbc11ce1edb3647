"""
Read annotations of videos: a CSV table of labelled clips, or a folder with a sub-folder per label.

    video,label[,start_seconds,end_seconds][,group][,split]

All checks that need no decoding are done here; messages name the rows.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipeline.errors import SourceError
from pipeline.sources.discovery import in_folder
from pipeline.storage import printable

REQUIRED = ("video", "label")
TIMES = ("start_seconds", "end_seconds")
COLUMNS = (*REQUIRED, *TIMES, "group", "split")
SPLITS = ("train", "validation", "test")
MAX_LISTED = 5
"""Rows or values that a message lists."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """One row: a video, or a part of it, and its label."""

    video: str
    """Absolute path."""
    label: str
    start_seconds: float | None
    """None for the start of the video."""
    end_seconds: float | None
    """None for the end of the video."""
    group: str
    """Clips of a group are on the same side of a split; the path of the video by default."""
    split: str | None
    """`train`, `validation` or `test`; None if the table has no splits."""
    row: int
    """Line of the table, with the header as line 1; for folders, number of the video from 1."""


@dataclass(frozen=True, slots=True)
class Annotations:
    """All labelled clips, and the labels in alphabetical order."""

    clips: tuple[Annotation, ...]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        unknown = {clip.label for clip in self.clips} - set(self.labels)
        if unknown:
            raise ValueError(f"clips have labels that are not listed: {sorted(unknown)}")


def read_annotations(path: Path, videos: Path | None = None) -> Annotations:
    """
    Read annotations, without duplicates.

    Args:
        path: a CSV table, or a folder with a sub-folder of videos per label.
        videos: folder to which paths in the table are relative; by default that of the table.

    Raises:
        SourceError: the table or folder is invalid; the message names the rows and the reason.
    """
    path = path.expanduser()
    if path.is_dir():
        clips = _read_folder(path)
    else:
        folder = videos.expanduser() if videos else path.resolve().parent
        clips = _read_table(path, folder)
    _check_clips(clips, path)
    clips = _without_duplicates(clips)
    return Annotations(tuple(clips), tuple(sorted({clip.label for clip in clips})))


def require_groups(annotations: Annotations, minimum: int = 2) -> None:
    """
    Require several groups per label, so that some can be held out.

    Raises:
        SourceError: a label has fewer than `minimum` groups.
    """
    rows: dict[str, list[Annotation]] = defaultdict(list)
    for clip in annotations.clips:
        rows[clip.label].append(clip)
    for label, clips in rows.items():
        groups = {clip.group for clip in clips}
        if len(groups) < minimum:
            raise SourceError(
                f"label {label} occurs in {len(groups)} group{'s' * (len(groups) != 1)} only "
                f"({format_rows(clips)}), but cross-validation needs {minimum}: add clips of other "
                "groups, or correct the column group"
            )


def format_rows(clips: Iterable[Annotation]) -> str:
    """List the rows of clips: `rows 2, 3, 9`, or the first ones and the number of the others."""
    rows = sorted({clip.row for clip in clips})
    listed = ", ".join(map(str, rows[:MAX_LISTED]))
    more = f" and {len(rows) - MAX_LISTED} more" if len(rows) > MAX_LISTED else ""
    return f"row{'s' * (len(rows) != 1)} {listed}{more}"


def _read_folder(folder: Path) -> list[Annotation]:
    parts = sorted(part for part in folder.iterdir() if part.is_dir() and part.name[0] != ".")
    found = [(part.name, item.location) for part in parts for item in in_folder(part)]
    if not found:
        raise SourceError(f"{printable(folder)} must have a sub-folder with videos for each label")
    return [
        Annotation(video, label, None, None, video, None, row)
        for row, (label, video) in enumerate(found, start=1)
    ]


def _read_table(path: Path, folder: Path) -> list[Annotation]:
    try:
        # as text: 0007 is not 7
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skip_blank_lines=False)
    except (OSError, ValueError) as error:
        raise SourceError(f"{printable(path)} cannot be read: {error}") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas uses surplus values as index
        raise SourceError(
            f"the rows of {printable(path)} have more values than the header has columns: add the "
            "missing columns, or remove commas at the end of rows"
        )
    table.columns = table.columns.str.strip()
    _check_columns(list(table.columns), path)
    rows = [(row, values) for row, values in enumerate(table.to_dict("records"), start=2)]
    clips = [_clip(row, values, folder, path) for row, values in rows if any(values.values())]
    if not clips:
        raise SourceError(f"{printable(path)} has no rows")
    return clips


def _check_columns(columns: Sequence[str], path: Path) -> None:
    missing = [name for name in REQUIRED if name not in columns]
    unknown = [name for name in columns if name not in COLUMNS]
    alone = [name for name in TIMES if name in columns]
    if missing or unknown or len(alone) == 1 or len(set(columns)) < len(columns):
        raise SourceError(
            f"{printable(path)} has the columns {', '.join(columns)}; expected are "
            "video,label[,start_seconds,end_seconds][,group][,split]"
            + f"; missing: {', '.join(missing)}" * bool(missing)
            + f"; unknown: {', '.join(unknown)}" * bool(unknown)
        )


def _clip(row: int, values: dict[str, str], folder: Path, path: Path) -> Annotation:
    name = values["video"].strip()
    if not name:
        raise SourceError(f"row {row} of {printable(path)} has no video")
    video = os.path.abspath(folder / os.path.expanduser(name))
    start, end = (_seconds(row, column, values.get(column, "")) for column in TIMES)
    if (start is None) != (end is None):
        raise SourceError(f"row {row} must have both start_seconds and end_seconds, or neither")
    return Annotation(
        video=video,
        label=values["label"],
        start_seconds=start,
        end_seconds=end,
        group=values.get("group", "").strip() or video,
        split=values.get("split", "").strip() or None,
        row=row,
    )


def _seconds(row: int, column: str, text: str) -> float | None:
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError as error:
        raise SourceError(f"row {row}: {column} must be seconds, got {text!r}") from error


def _check_clips(clips: Sequence[Annotation], path: Path) -> None:
    def require_none(invalid: Sequence[Annotation], message: str) -> None:
        if invalid:
            raise SourceError(f"{format_rows(invalid)} of {printable(path)}: {message}")

    require_none([clip for clip in clips if not clip.label], "the label is empty")
    spaced = [clip for clip in clips if clip.label.split() != [clip.label]]
    require_none(spaced, f"labels must not contain spaces, got {_quoted(spaced)}: use shake_hands")
    require_none(
        [clip for clip in clips if not _is_range(clip)],
        "start_seconds must be at least 0 and less than end_seconds",
    )
    invalid = [clip for clip in clips if clip.split not in (None, *SPLITS)]
    require_none(invalid, f"split must be one of {', '.join(SPLITS)}")
    unsplit = [clip for clip in clips if clip.split is None]
    mixed = unsplit if len(unsplit) < len(clips) else []
    require_none(mixed, "split is empty, but other rows have one")
    missing = [clip for clip in clips if not os.path.exists(clip.video)]
    paths = sorted({clip.video for clip in missing})[:MAX_LISTED]
    require_none(missing, f"no such file: {', '.join(paths)}")
    _check_labels_agree(clips, path)
    _check_splits(clips, path)


def _quoted(clips: Sequence[Annotation]) -> str:
    return ", ".join(sorted({repr(clip.label) for clip in clips})[:MAX_LISTED])


def _is_range(clip: Annotation) -> bool:
    if clip.start_seconds is None or clip.end_seconds is None:
        return True
    return 0 <= clip.start_seconds < clip.end_seconds < float("inf")


def _part(clip: Annotation) -> tuple[str, float | None, float | None]:
    return clip.video, clip.start_seconds, clip.end_seconds


def _check_labels_agree(clips: Sequence[Annotation], path: Path) -> None:
    """Require that duplicates of a clip have the same label, group and split."""
    parts: dict[tuple[str, float | None, float | None], list[Annotation]] = defaultdict(list)
    for clip in clips:
        parts[_part(clip)].append(clip)
    for same in parts.values():
        for name in ("label", "group", "split"):
            values = sorted({str(getattr(clip, name)) for clip in same})
            if len(values) > 1:
                raise SourceError(
                    f"{format_rows(same)} of {printable(path)} are the same clip with different "
                    f"{name}s: {', '.join(values)}"
                )


def _check_splits(clips: Sequence[Annotation], path: Path) -> None:
    """Require that all clips of a group or video have the same split."""
    for name in ("group", "video"):
        clips_by: dict[str, list[Annotation]] = defaultdict(list)
        for clip in clips:
            clips_by[getattr(clip, name)].append(clip)
        for value, same in clips_by.items():
            splits = sorted({str(clip.split) for clip in same})
            if len(splits) > 1:
                raise SourceError(
                    f"{format_rows(same)} of {printable(path)} are of one {name}, "
                    f"{printable(value)}, but in different splits: {', '.join(splits)}. That would "
                    "test on what was trained on"
                )


def _without_duplicates(clips: Sequence[Annotation]) -> list[Annotation]:
    """Keep the first row of each clip."""
    first: dict[tuple[str, float | None, float | None], Annotation] = {}
    for clip in clips:
        first.setdefault(_part(clip), clip)
    return list(first.values())
