"""
Find labelled videos in folders.

    FOLDER/LABEL/…               a sub-folder for each label
    FOLDER/SPLIT/LABEL/…         the same for each of train, validation and test

Folders inside a label folder are walked.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import SourceError
from pipeline.sources.discovery import Search, directly_in_folder, in_folder
from pipeline.sources.file_kinds import describe_others
from pipeline.sources.sequences import natural_key
from pipeline.sources.table_problems import Problems
from pipeline.storage import printable

SPLITS = ("train", "validation", "test")
OTHER_SPLIT_NAMES = {
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "testing": "test",
}
MAX_LISTED = 5
"""Names that a message lists."""


@dataclass(frozen=True, slots=True)
class LabelledVideo:
    """A video, named by the folders above it."""

    video: str
    """Absolute path."""
    label: str
    split: str | None


def split_name(text: str) -> str:
    """Return the name of a split as it is in `SPLITS`; other text in lower case."""
    name = text.casefold()
    return OTHER_SPLIT_NAMES.get(name, name)


def read_label_folder(folder: Path) -> tuple[list[LabelledVideo], list[str]]:
    """
    Find the videos of each label.

    Returns:
        The videos by split, label and name; and what the user should know, a sentence each.

    Raises:
        SourceError: the folder has another layout; the message names the folders.
    """
    parts = sub_folders(folder)
    splits = [part for part in parts if split_name(part.name) in SPLITS]
    if parts and len(splits) == len(parts):
        found, notes = _read_splits(folder, splits)
    else:
        _refuse_splits(folder, parts, splits)
        found, notes = _read_labels(folder, parts, None)
        _refuse_one_level(folder, parts)
        notes += _similar_levels(parts)
    if not found:
        raise SourceError(f"{printable(folder)} must have a sub-folder with videos for each label")
    return found, notes


def sub_folders(folder: Path) -> list[Path]:
    """List the folders in a folder in natural order, without hidden ones."""
    parts = [part for part in folder.iterdir() if part.is_dir() and part.name[0] != "."]
    return sorted(parts, key=lambda part: natural_key(part.name))


def _read_splits(folder: Path, splits: Sequence[Path]) -> tuple[list[LabelledVideo], list[str]]:
    problems = Problems(folder)
    found: list[LabelledVideo] = []
    notes: list[str] = []
    for split in splits:
        labels = sub_folders(split)
        deeper = [part for part in labels if split_name(part.name) in SPLITS]
        if not labels:
            problems.add(
                f"{split.name} is the name of a split, and has no sub-folder for each label: "
                "expected is SPLIT/LABEL/VIDEO"
            )
        elif deeper:
            problems.add(f"{split.name} has the sub-folders {_names(deeper)}: both are splits")
        more, told = _read_labels(split, labels, split_name(split.name))
        found += more
        notes += told
    problems.raise_if_any()
    return found, notes


def _read_labels(
    folder: Path, labels: Sequence[Path], split: str | None
) -> tuple[list[LabelledVideo], list[str]]:
    notes = []
    search = Search()
    found: list[LabelledVideo] = []
    for part in labels:
        label = " ".join(unicodedata.normalize("NFC", printable(part.name)).split())
        videos = [LabelledVideo(item.location, label, split) for item in in_folder(part, search)]
        found += videos
        if not videos:
            notes.append(f"{printable(part)} has no videos: the label {label} is left out")
    if search.left_out:
        notes.append(f"{printable(folder)}: {describe_others(search.left_out)}")
    outside = len(directly_in_folder(folder))
    if outside:
        notes.append(f"{outside} videos directly in {printable(folder)} have no label: left out")
    return found, notes


def _refuse_splits(folder: Path, parts: Sequence[Path], splits: Sequence[Path]) -> None:
    """Refuse splits beside labels, and splits inside labels."""
    problems = Problems(folder)
    nested = [split for split in splits if sub_folders(split)]
    if nested:
        others = [part for part in parts if part not in splits]
        problems.add(
            f"{_names(nested)} are names of splits, beside {_names(others)}: move other folders "
            "away, or give a table of labels"
        )
    for part in parts:
        below = sub_folders(part)
        inside = [one for one in below if split_name(one.name) in SPLITS]
        if part not in splits and inside and len(inside) == len(below):
            problems.add(
                f"{printable(part.name)} has the sub-folders {_names(inside)}, which are names of "
                f"splits: give {printable(part)}, or arrange the videos as SPLIT/LABEL/VIDEO"
            )
    problems.raise_if_any()


def _refuse_one_level(folder: Path, parts: Sequence[Path]) -> None:
    """Refuse a folder whose only sub-folder has several: the labels are one level below."""
    if len(parts) != 1:
        return
    below = sub_folders(parts[0])
    if len(below) > 1 and not directly_in_folder(parts[0]):
        raise SourceError(
            f"{printable(folder)} has one sub-folder, {printable(parts[0].name)}, which has the "
            f"sub-folders {_names(below)}: if these are the labels, give {printable(parts[0])}"
        )


def _similar_levels(parts: Sequence[Path]) -> list[str]:
    """Tell if all label folders have the same sub-folders: they may be the labels."""
    below = {tuple(part.name for part in sub_folders(part)) for part in parts}
    if len(parts) < 2 or len(below) != 1 or len(next(iter(below))) < 2:
        return []
    (names,) = below
    return [
        f"the label folders {_names(parts)} have the same sub-folders, {_names(names)}: if these "
        "are the labels, give a table of labels"
    ]


def _names(folders: Sequence[Path | str]) -> str:
    names = [printable(Path(folder).name) for folder in folders]
    return ", ".join(names[:MAX_LISTED]) + ", …" * (len(names) > MAX_LISTED)
