"""
Read splits that were published with a data set, and apply them to labels.

    split,video,part
    1,S1_Cheese_C1,test
    1,S2_Cheese_C1,train

Videos are named as in LABELS, with or without folder and suffix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePath

from pipeline.errors import SourceError
from pipeline.sources.tables import read_table
from pipeline.storage import printable
from pipeline.training.annotations import Annotations
from pipeline.training.label_folders import SPLITS, split_name
from pipeline.training.time_lines import TimeLines

COLUMNS = ("split", "video", "part")
MAX_LISTED = 5
MAX_FOLDERS = 8
"""Folders before the name of a video that are compared with the name in a split."""

FindPart = Callable[[str], str | None]
"""Gives the part of a video by its path: `train`, `validation` or `test`; None if it has none."""


def read_split(path: Path, split: str | None) -> dict[str, str]:
    """
    Read one split.

    Args:
        path: a table with the columns split, video, part.
        split: its name in the column split; None if there is only one.

    Returns:
        By name of the video: `train`, `validation` or `test`.

    Raises:
        SourceError: the table is invalid, or lacks the split.
    """
    table = read_table(path.expanduser(), COLUMNS)
    problems = table.problems
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        problems.add(
            f"expected are the columns {', '.join(COLUMNS)}; missing: {', '.join(missing)}"
        )
    problems.raise_if_any()
    known = list(dict.fromkeys(row["split"] for row in table.rows))
    chosen = split if split is not None or len(known) != 1 else known[0]
    if chosen not in known:
        problems.add(f"choose one of the splits {', '.join(known)} with --split, got {split}")
    rows = [row for row in table.rows if row["split"] == chosen]
    problems.add_all(
        f"part must be one of {', '.join(SPLITS)}",
        [row.line for row in rows if split_name(row["part"]) not in SPLITS],
    )
    parts: dict[str, set[str]] = {}
    for row in rows:
        parts.setdefault(row["video"], set()).add(split_name(row["part"]))
    twice = {video for video, found in parts.items() if len(found) > 1}
    problems.add_all(
        "a video is in two parts of a split: that would test on what was trained on",
        [row.line for row in rows if row["video"] in twice],
    )
    problems.raise_if_any()
    return {video: found.pop() for video, found in parts.items()}


def split_annotations(annotations: Annotations, parts: Mapping[str, str]) -> Annotations:
    """
    Replace the splits of clips; clips of videos that are not in the split are left out.

    Raises:
        SourceError: the split names videos that have no clip.
    """
    find = _finder(parts, {clip.video for clip in annotations.clips})
    clips = tuple(
        replace(clip, split=part) for clip in annotations.clips if (part := find(clip.video))
    )
    return replace(annotations, clips=clips, labels=tuple(sorted({clip.label for clip in clips})))


def split_lines(lines: TimeLines, parts: Mapping[str, str]) -> TimeLines:
    """
    Replace the splits of time lines; videos that are not in the split are left out.

    Raises:
        SourceError: the split names videos that have no time line.
    """
    find = _finder(parts, {line.video for line in lines.items})
    items = tuple(replace(line, split=part) for line in lines.items if (part := find(line.video)))
    return replace(lines, items=items)


def _finder(parts: Mapping[str, str], videos: Iterable[str]) -> FindPart:
    """
    Match the names of a split with the ends of paths.

    Raises:
        SourceError: a name has no path.
    """
    exact = {PurePath(name).parts: name for name in parts}
    stems = {_without_suffix(PurePath(name).parts): name for name in parts}
    by_path: dict[str, str] = {}
    unknown = set(parts)
    for video in videos:
        tails = [PurePath(video).parts[-length:] for length in range(MAX_FOLDERS + 1, 0, -1)]
        short = [_without_suffix(tail) for tail in tails]
        found = [exact.get(tail) for tail in (*tails, *short)] + [stems.get(tail) for tail in short]
        name = next(filter(None, found), None)
        if name is not None:
            by_path[video] = parts[name]
            unknown.discard(name)
    if unknown:
        raise SourceError(
            f"{len(unknown)} videos of the split are not in LABELS: "
            f"{', '.join(map(printable, sorted(unknown)[:MAX_LISTED]))}"
        )
    return by_path.get


def _without_suffix(parts: tuple[str, ...]) -> tuple[str, ...]:
    return (*parts[:-1], PurePath(parts[-1]).stem) if parts else parts
