"""
Read what a person says of their videos: a table of labelled clips, or a folder a label.

    video,label[,start_seconds,end_seconds][,group][,split]

Everything that can be known without decoding is checked here, and told with the rows it is about.
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
MOST_TOLD = 5
"""Rows that a message names before it says how many more there are."""


@dataclass(frozen=True, slots=True)
class LabelledClip:
    """One row: a video, or a part of it, and its label."""

    video: str
    """Absolute path."""
    label: str
    start_seconds: float | None
    """None is the start of the video."""
    end_seconds: float | None
    """None is the end of the video."""
    group: str
    """What must not be on both sides of a split; the video where nothing else was said."""
    split: str | None
    """`train`, `validation` or `test`, where the table says so."""
    row: int
    """Line of the table, its header being line 1; of a folder, the number of the video from 1."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """All rows, and the labels in alphabetical order."""

    clips: tuple[LabelledClip, ...]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        unknown = {clip.label for clip in self.clips} - set(self.labels)
        if unknown:
            raise ValueError(f"clips have labels that are not listed: {sorted(unknown)}")


def read_labels(path: Path, videos: Path | None = None) -> Labelled:
    """
    Read labelled clips.

    Args:
        path: a CSV table, or a folder with one sub-folder of videos a label.
        videos: folder that relative paths of the table count from; by default that of the table.

    Raises:
        SourceError: the table or the folder cannot be used; says which rows are wrong and why.
    """
    path = path.expanduser()
    if path.is_dir():
        clips = _read_folder(path)
    else:
        folder = videos.expanduser() if videos else path.resolve().parent
        clips = _read_table(path, folder)
    _check_clips(clips, path)
    clips = _without_repeats(clips)
    return Labelled(tuple(clips), tuple(sorted({clip.label for clip in clips})))


def require_groups(labelled: Labelled, least: int = 2) -> None:
    """
    Require that every label occurs in several groups, so that it can be held out and still learned.

    Raises:
        SourceError: a label has fewer than `least` groups.
    """
    rows: dict[str, list[LabelledClip]] = defaultdict(list)
    for clip in labelled.clips:
        rows[clip.label].append(clip)
    for label, clips in rows.items():
        groups = {clip.group for clip in clips}
        if len(groups) < least:
            raise SourceError(
                f"label {label} occurs in {len(groups)} group{'s' * (len(groups) != 1)} only "
                f"({name_rows(clips)}), {least} are needed to test on one what was learned on "
                "another: add clips of other groups, or correct the column group"
            )


def name_rows(clips: Iterable[LabelledClip]) -> str:
    """Name rows for a message: `rows 2, 3, 9`, the first few and how many more."""
    rows = sorted({clip.row for clip in clips})
    told = ", ".join(map(str, rows[:MOST_TOLD]))
    more = f" and {len(rows) - MOST_TOLD} more" if len(rows) > MOST_TOLD else ""
    return f"row{'s' * (len(rows) != 1)} {told}{more}"


def _read_folder(folder: Path) -> list[LabelledClip]:
    parts = sorted(part for part in folder.iterdir() if part.is_dir() and part.name[0] != ".")
    found = [(part.name, item.location) for part in parts for item in in_folder(part)]
    if not found:
        raise SourceError(f"{printable(folder)} has no sub-folders with videos, one a label")
    return [
        LabelledClip(video, label, None, None, video, None, row)
        for row, (label, video) in enumerate(found, start=1)
    ]


def _read_table(path: Path, folder: Path) -> list[LabelledClip]:
    try:
        # as text: 0007 is a name, not 7
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skip_blank_lines=False)
    except (OSError, ValueError) as error:
        raise SourceError(f"the labels {printable(path)} cannot be read: {error}") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes what is too much for names
        raise SourceError(
            f"the rows of {printable(path)} have more values than its header has columns: name "
            "every column, and end no row with a comma"
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
            f"{printable(path)} has the columns {', '.join(columns)}; wanted are "
            "video,label[,start_seconds,end_seconds][,group][,split]"
            + f"; missing: {', '.join(missing)}" * bool(missing)
            + f"; unknown: {', '.join(unknown)}" * bool(unknown)
        )


def _clip(row: int, values: dict[str, str], folder: Path, path: Path) -> LabelledClip:
    name = values["video"].strip()
    if not name:
        raise SourceError(f"row {row} of {printable(path)} names no video")
    video = os.path.abspath(folder / os.path.expanduser(name))
    start, end = (_seconds(row, column, values.get(column, "")) for column in TIMES)
    if (start is None) != (end is None):
        raise SourceError(f"row {row} has one of start_seconds and end_seconds: give both or none")
    return LabelledClip(
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


def _check_clips(clips: Sequence[LabelledClip], path: Path) -> None:
    def refuse(wrong: Sequence[LabelledClip], why: str) -> None:
        if wrong:
            raise SourceError(f"{name_rows(wrong)} of {printable(path)}: {why}")

    refuse([clip for clip in clips if not clip.label], "the label is empty")
    spaced = [clip for clip in clips if clip.label.split() != [clip.label]]
    refuse(spaced, f"labels must have no spaces, got {_quoted(spaced)}: write shake_hands")
    refuse(
        [clip for clip in clips if not _is_range(clip)],
        "start_seconds must be 0 or more, and end_seconds greater",
    )
    strange = [clip for clip in clips if clip.split not in (None, *SPLITS)]
    refuse(strange, f"split must be one of {', '.join(SPLITS)}")
    half = [clip for clip in clips if clip.split is None]
    refuse(half if len(half) < len(clips) else [], "split is empty, but other rows have one")
    lost = [clip for clip in clips if not os.path.exists(clip.video)]
    refuse(lost, f"no such file: {', '.join(sorted({clip.video for clip in lost})[:MOST_TOLD])}")
    _check_labels_agree(clips, path)
    _check_sides(clips, path)


def _quoted(clips: Sequence[LabelledClip]) -> str:
    return ", ".join(sorted({repr(clip.label) for clip in clips})[:MOST_TOLD])


def _is_range(clip: LabelledClip) -> bool:
    if clip.start_seconds is None or clip.end_seconds is None:
        return True
    return 0 <= clip.start_seconds < clip.end_seconds < float("inf")


def _place(clip: LabelledClip) -> tuple[str, float | None, float | None]:
    return clip.video, clip.start_seconds, clip.end_seconds


def _check_labels_agree(clips: Sequence[LabelledClip], path: Path) -> None:
    """Require that rows do not say different things of one clip."""
    places: dict[tuple[str, float | None, float | None], list[LabelledClip]] = defaultdict(list)
    for clip in clips:
        places[_place(clip)].append(clip)
    for same in places.values():
        for name in ("label", "group", "split"):
            said = sorted({str(getattr(clip, name)) for clip in same})
            if len(said) > 1:
                raise SourceError(
                    f"{name_rows(same)} of {printable(path)} are the same clip with different "
                    f"{name}s: {', '.join(said)}"
                )


def _check_sides(clips: Sequence[LabelledClip], path: Path) -> None:
    """Require that no group or video is on two sides of a split."""
    for name in ("group", "video"):
        together: dict[str, list[LabelledClip]] = defaultdict(list)
        for clip in clips:
            together[getattr(clip, name)].append(clip)
        for place, same in together.items():
            sides = sorted({str(clip.split) for clip in same})
            if len(sides) > 1:
                raise SourceError(
                    f"{name_rows(same)} of {printable(path)} are of one {name}, {printable(place)}"
                    f", on different sides of the split: {', '.join(sides)}; what is learned from "
                    "one would be tested on the other"
                )


def _without_repeats(clips: Sequence[LabelledClip]) -> list[LabelledClip]:
    """Keep the first of rows that say the same."""
    first: dict[tuple[str, float | None, float | None], LabelledClip] = {}
    for clip in clips:
        first.setdefault(_place(clip), clip)
    return list(first.values())
