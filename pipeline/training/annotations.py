"""
Read annotations of videos: a table of labelled clips, or a folder with a sub-folder per label.

    video,label[,start_seconds,end_seconds][,group][,split]

All checks that need no decoding are done here; one message names the rows of all mistakes.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import SourceError
from pipeline.sources.image_sequence import source_exists
from pipeline.sources.table_problems import Problems, format_lines
from pipeline.sources.table_values import file_path, parse_seconds, split_labels
from pipeline.sources.tables import Row, Table, read_table
from pipeline.storage import printable
from pipeline.training.label_folders import SPLITS, read_label_folder, split_name

REQUIRED = ("video", "label")
TIMES = ("start_seconds", "end_seconds")
COLUMNS = (*REQUIRED, *TIMES, "group", "split")
MAX_LISTED = 5
"""Values that a message lists."""
Part = tuple[str, float | None, float | None]
"""What a clip shows: its video, and the times of the part of it."""


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
    notes: tuple[str, ...] = ()
    """What the user should know of the table or folder, a sentence each."""
    path: Path = Path("LABELS")
    """The table or folder."""

    def __post_init__(self) -> None:
        unknown = {clip.label for clip in self.clips} - set(self.labels)
        if unknown:
            raise ValueError(f"clips have labels that are not listed: {sorted(unknown)}")


@dataclass(frozen=True, slots=True)
class _Rules:
    """How a table is read."""

    folder: Path
    """To which paths are relative."""
    multi_label: bool
    """Whether a clip may have several labels."""
    suffixes: Sequence[str]
    """That the names of videos may lack."""


def read_annotations(
    path: Path,
    videos: Path | None = None,
    *,
    multi_label: bool = False,
    suffixes: Sequence[str] = (),
) -> Annotations:
    """
    Read annotations, without duplicates.

    Args:
        path: a table, or a folder with a sub-folder of videos per label, or per split and label.
        videos: folder to which paths in the table are relative; by default that of the table.
        multi_label: whether a clip may have several labels, each an annotation: `hug | wave` in one
            cell, or several rows with equal times.
        suffixes: of files; the names of videos in the table may lack them or have others.

    Raises:
        SourceError: the table or folder is invalid; the message names the rows and the reason.
    """
    path = path.expanduser()
    if path.is_dir():
        clips, notes = _read_folder(path)
    else:
        table = read_table(path, COLUMNS)
        folder = videos.expanduser() if videos else path.resolve().parent
        clips = _read_clips(table, _Rules(folder, multi_label, suffixes))
        notes = [table.note]
    clips = _without_duplicates(clips, multi_label=multi_label)
    labels = tuple(sorted({clip.label for clip in clips}))
    notes += _similar_labels(labels)
    return Annotations(tuple(clips), labels, tuple(filter(None, notes)), path)


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
    """List the rows of clips: `rows 2, 4 to 9, 12`."""
    return format_lines(clip.row for clip in clips)


def _read_folder(folder: Path) -> tuple[list[Annotation], list[str]]:
    found, notes = read_label_folder(folder)
    clips = [
        Annotation(one.video, one.label, None, None, one.video, one.split, row)
        for row, one in enumerate(found, start=1)
    ]
    return clips, notes


def _read_clips(table: Table, rules: _Rules) -> list[Annotation]:
    """Convert the rows of a table, and report all mistakes in it."""
    problems = table.problems
    _check_columns(table)
    found = [(row, _clips(row, table, rules)) for row in table.rows]
    clips = [clip for _, clips in found for clip in clips]
    if not table.rows:
        problems.add("the table has no rows")
    problems.add_all("the row has no video", [row.line for row, clips in found if not clips])
    _check_values(clips, problems)
    _check_agreement(
        clips, ("group", "split") if rules.multi_label else ("label", "group", "split"), problems
    )
    _check_splits(clips, problems)
    if table.note and not all(os.path.exists(clip.video) for clip in clips):
        problems.add(table.note)
    problems.raise_if_any()
    return clips


def _check_columns(table: Table) -> None:
    """
    Require the columns of annotations.

    Raises:
        SourceError: the video or the label is missing, so that no row can be checked.
    """
    columns = table.columns
    missing = [name for name in REQUIRED if name not in columns]
    unknown = [name for name in columns if name not in COLUMNS]
    alone = [name for name in TIMES if name in columns]
    if missing or unknown or len(alone) == 1:
        table.problems.add(
            f"the first line names the columns {', '.join(columns)}; expected are "
            "video,label[,start_seconds,end_seconds][,group][,split]"
            + f"; missing: {', '.join(missing)}" * bool(missing)
            + f"; unknown: {', '.join(unknown)}" * bool(unknown)
        )
    if missing:
        table.problems.raise_if_any()


def _clips(row: Row, table: Table, rules: _Rules) -> list[Annotation]:
    """Convert a row, one clip a label, and note what is wrong; empty if it names no video."""
    name = table.file_name(row, "video", rules.folder)
    if not name:
        return []
    video = _with_suffix(file_path(name, rules.folder), rules.suffixes)
    labels = split_labels(row["label"])
    if len(labels) > 1 and not rules.multi_label:
        table.problems.add(
            f"there are several labels, {', '.join(labels)}: keep one, or add --multi-label",
            [row.line],
        )
    start, end = (_seconds(row, column, table.problems) for column in TIMES)
    first = Annotation(
        video=video,
        label=labels[0] if labels else "",
        start_seconds=start,
        end_seconds=end,
        group=row["group"] or video,
        split=split_name(row["split"]) or None,
        row=row.line,
    )
    others = labels[1:] if rules.multi_label else ()
    return [first, *(replace(first, label=label) for label in others)]


def _with_suffix(path: str, suffixes: Sequence[str]) -> str:
    """Return the first file of this name with one of the suffixes; the path itself if none is."""
    if not suffixes or Path(path).suffix.lower() in suffixes:
        return path
    stems = (path, os.path.splitext(path)[0])
    found = (stem + suffix for stem in stems for suffix in suffixes)
    return next((name for name in found if os.path.exists(name)), path)


def _seconds(row: Row, column: str, problems: Problems) -> float | None:
    text = row[column]
    if not text:
        return None
    try:
        return parse_seconds(text)
    except ValueError as error:
        problems.add(f"{column}: {error}", [row.line])
        return None


def _check_values(clips: Sequence[Annotation], problems: Problems) -> None:
    """Check the values of each row by itself."""

    def require(valid: Callable[[Annotation], bool], message: str) -> None:
        problems.add_all(message, [clip.row for clip in clips if not valid(clip)])

    wrong = problems.lines
    require(lambda clip: bool(clip.label), "the label is empty")
    require(
        lambda clip: (
            clip.row in wrong or (clip.start_seconds is None) == (clip.end_seconds is None)
        ),
        "start_seconds and end_seconds must be given both, or neither",
    )
    require(_is_range, "start_seconds must be at least 0 and less than end_seconds")
    require(lambda clip: clip.split in (None, *SPLITS), f"split must be one of {', '.join(SPLITS)}")
    if any(clip.split for clip in clips):
        require(lambda clip: bool(clip.split), "split is empty, but other rows have one")
    lost = [clip for clip in clips if not source_exists(clip.video)]
    names = sorted({printable(clip.video) for clip in lost})
    more = f" and {len(names) - MAX_LISTED} more" * (len(names) > MAX_LISTED)
    hint = "; --videos names the folder to which they are relative" * (len(lost) == len(clips))
    problems.add_all(
        f"no such file: {', '.join(names[:MAX_LISTED])}{more}{hint}", [clip.row for clip in lost]
    )


def _is_range(clip: Annotation) -> bool:
    if clip.start_seconds is None or clip.end_seconds is None:
        return True
    return 0 <= clip.start_seconds < clip.end_seconds < float("inf")


def _part(clip: Annotation) -> Part:
    return clip.video, clip.start_seconds, clip.end_seconds


def _check_agreement(clips: Sequence[Annotation], names: Sequence[str], problems: Problems) -> None:
    """Require that duplicates of a clip have the same label, group and split, or some of these."""
    parts: dict[Part, list[Annotation]] = defaultdict(list)
    for clip in clips:
        parts[_part(clip)].append(clip)
    for same in parts.values():
        for name in names:
            values = sorted({str(getattr(clip, name)) for clip in same})
            if len(values) > 1:
                problems.add(
                    f"the same clip has different {name}s: {', '.join(values)}",
                    [clip.row for clip in same],
                )


def _check_splits(clips: Sequence[Annotation], problems: Problems) -> None:
    """Require that all clips of a group or video have the same split."""
    for name in ("group", "video"):
        clips_by: dict[str, list[Annotation]] = defaultdict(list)
        for clip in clips:
            if clip.split in SPLITS and (name == "video" or clip.group != clip.video):
                clips_by[getattr(clip, name)].append(clip)
        for value, same in clips_by.items():
            splits = sorted({str(clip.split) for clip in same})
            if len(splits) > 1:
                problems.add(
                    f"clips of one {name}, {printable(value)}, are in different splits, "
                    f"{', '.join(splits)}: that would test on what was trained on",
                    [clip.row for clip in same],
                )


def _similar_labels(labels: Sequence[str]) -> list[str]:
    """Warn of labels that differ in upper case, blanks, hyphens or underscores only."""
    spellings: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        spellings[re.sub(r"[\s_\-]+", "", label).casefold()].append(label)
    return [
        f"the labels {' and '.join(same)} differ in spelling only: are they one label?"
        for same in spellings.values()
        if len(same) > 1
    ]


def _without_duplicates(clips: Sequence[Annotation], *, multi_label: bool) -> list[Annotation]:
    """Keep the first row of each clip, with multi-label that of each label of each clip."""
    first: dict[tuple[Part, str], Annotation] = {}
    for clip in clips:
        first.setdefault((_part(clip), clip.label if multi_label else ""), clip)
    return list(first.values())
