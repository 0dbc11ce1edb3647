"""
Read a label for every frame of videos, in the layouts in which data sets are published.

    LABELS/NAME.txt              one label a line, a line a frame (or LABELS/groundTruth/NAME.txt)
    LABELS/mapping.txt           optional: a number and a label a line, `0 background`

    LABELS/NAME.npz              `labels` (T,), as numbers or as text
    LABELS/mapping.txt           optional: without it, 0 is the background

Frames of the background are frames without a label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import SourceError
from pipeline.records import Integers
from pipeline.sources.tables import read_text
from pipeline.storage import printable
from pipeline.training.feature_files import read_label_array

MAPPING = "mapping.txt"
TEXT_FOLDER = "groundTruth"
NOT_LABELLED = -1
MAX_LISTED = 5


@dataclass(frozen=True)
class FrameLabels:
    """A label for every frame of videos."""

    videos: Mapping[str, Integers]
    """By name of the video, indices of the labels of its frames (F,); -1 for the background."""
    labels: tuple[str, ...]
    """In the order of the mapping, or else sorted; without the background."""


def has_frame_labels(path: Path) -> bool:
    """Whether a path is a folder with a file of labels for each video."""
    return path.is_dir() and bool(_label_files(path))


def read_frame_labels(folder: Path, background: str) -> FrameLabels:
    """
    Read the labels of a folder.

    Args:
        folder: see above.
        background: name of the label of frames without an action.

    Raises:
        SourceError: files cannot be read, or have labels that are not in the mapping.
    """
    mapping = _read_mapping(folder)
    read = {path: _read_labels(path, mapping, background) for path in _label_files(folder)}
    found = {path.stem: labels for path, labels in read.items() if labels is not None}
    if len(found) < len(read):
        without = [path.name for path, labels in read.items() if labels is None]
        raise SourceError(
            f"{len(without)} files in {printable(folder)} have no array `labels`: "
            f"{', '.join(without[:MAX_LISTED])}. Add the labels, or give LABELS as a table"
        )
    names = sorted({label for labels in found.values() for label in labels}, key=_natural)
    if mapping:
        _require_mapped(found, set(mapping.values()) | {background}, folder)
        names = [name for name in mapping.values() if name in set(names)]
    names = [name for name in names if name != background]
    if not names:
        raise SourceError(f"all labels in {printable(folder)} are {background}")
    index = {name: number for number, name in enumerate(names)}
    return FrameLabels(
        {
            video: np.array([index.get(label, NOT_LABELLED) for label in labels], np.int64)
            for video, labels in found.items()
        },
        tuple(names),
    )


def _label_files(folder: Path) -> list[Path]:
    inside = folder / TEXT_FOLDER
    texts = sorted((inside if inside.is_dir() else folder).glob("*.txt"))
    return [path for path in texts if path.name != MAPPING] or sorted(folder.glob("*.npz"))


def _read_mapping(folder: Path) -> dict[str, str]:
    """Read the labels by their numbers; empty if there is no mapping in the folder or beside it."""
    path = next((p for p in (folder / MAPPING, folder.parent / MAPPING) if p.is_file()), None)
    if path is None:
        return {}
    rows = [line.split(maxsplit=1) for line in _read_lines(path)]
    wrong = [number for number, row in enumerate(rows, 1) if len(row) != 2 or not row[0].isdigit()]
    if wrong:
        raise SourceError(
            f"line {wrong[0]} of {printable(path)} must have a number and a label: 0 background"
        )
    return {str(int(number)): label for number, label in rows}


def _read_labels(path: Path, mapping: Mapping[str, str], background: str) -> list[str] | None:
    """Read the label of each frame; None if the file has none."""
    if path.suffix == ".txt":
        return _read_lines(path)
    values = read_label_array(path)
    if values is None:
        return None
    if values.ndim != 1 or values.dtype.kind not in "iuUS":
        raise SourceError(
            f"labels in {printable(path)} must be numbers or text of shape (T,), got "
            f"{values.dtype} of shape {values.shape}"
        )
    texts = [
        value.decode() if isinstance(value, bytes) else str(value) for value in values.tolist()
    ]
    if values.dtype.kind in "US":
        return texts
    return (
        [mapping.get(text, text) for text in texts]
        if mapping
        else [background if text == "0" else text for text in texts]
    )


def _read_lines(path: Path) -> list[str]:
    text, _ = read_text(path)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def _require_mapped(found: Mapping[str, list[str]], known: set[str], folder: Path) -> None:
    unknown = {
        label: video for video, labels in found.items() for label in labels if label not in known
    }
    if unknown:
        listed = [f"{label} ({video})" for label, video in sorted(unknown.items())[:MAX_LISTED]]
        raise SourceError(
            f"{MAPPING} of {printable(folder)} lacks {len(unknown)} labels: {', '.join(listed)}"
        )


def _natural(label: str) -> tuple[int, int, str]:
    return (0, int(label), "") if label.isdigit() else (1, 0, label)
