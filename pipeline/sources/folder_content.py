"""Arrange the files of one folder: videos, image sequences, and still pictures left out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.sources.fingerprint import Source
from pipeline.sources.image_sequence import IMAGE_SUFFIXES, drop_duplicates
from pipeline.sources.pictures import is_stack
from pipeline.sources.sequences import group_images
from pipeline.sources.stills import MAYBE_STILL_SUFFIXES, is_still
from pipeline.storage import printable


@dataclass(frozen=True, slots=True)
class FolderContent:
    """What the files of one folder are."""

    sources: dict[Path, Source] = field(default_factory=dict)
    """Videos and image sequences, by their file or first image."""
    stills: list[Path] = field(default_factory=list)
    """Still pictures beside them."""


def file_source(path: Path) -> Source:
    """Return one file as a source: a TIFF stack is an image sequence."""
    return Source(printable(path), os.path.abspath(path), "images" if is_stack(path) else "file")


def arrange(folder: Path, files: Sequence[Path]) -> FolderContent:
    """
    Arrange the files of a folder that may be videos.

    * Numbered images are sequences, also beside videos; several kinds of names are several ones.
    * A folder of nothing else than two or more images is one sequence, whatever their names.
    * Other images are still pictures. They are left out beside videos and sequences.
    * Images named like the videos of the folder are thumbnails.
    """
    images = drop_duplicates([path for path in files if path.suffix.lower() in IMAGE_SUFFIXES])
    others = [path for path in files if path.suffix.lower() not in IMAGE_SUFFIXES]
    stills = [p for p in others if p.suffix.lower() in MAYBE_STILL_SUFFIXES and is_still(p)]
    videos = [path for path in others if path not in set(stills)]
    sequences, singles = _split(group_images(images), videos)
    animations = [path for path in singles if not is_still(path) and not is_stack(path)]
    if len(images) > 1 and not (videos or sequences or animations):
        sequences, singles = {"": images}, []
    stacks = [path for path in singles if is_stack(path)]
    stills += [path for path in singles if path not in {*animations, *stacks}]
    found = {path: file_source(path) for path in (*videos, *animations, *stacks)}
    for name, group in sequences.items():
        whole = len(group) == len(images)
        found[group[0]] = _sequence(folder, "" if whole else name, beside_videos=bool(videos))
    if not found:
        return FolderContent({path: file_source(path) for path in stills})
    return FolderContent(found, stills)


def complete_sequences(folder: Path, paths: Iterable[Path]) -> dict[Path, Source]:
    """Return the sequences of a folder all whose images are among some paths, for each image."""
    given = set(paths)
    try:
        files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError:
        return {}
    images = drop_duplicates([path for path in files if path.suffix.lower() in IMAGE_SUFFIXES])
    groups, _ = _split(group_images(images), [])
    return {
        path: _sequence(folder, "" if len(group) == len(images) else name)
        for name, group in groups.items()
        if given.issuperset(group)
        for path in group
    }


def _sequence(folder: Path, name: str, *, beside_videos: bool = False) -> Source:
    """Return all images of a folder, or those of one of its sequences, as a source."""
    place = folder / name if name else folder
    return Source(printable(place), os.path.abspath(place), "images", beside_videos)


def _split(
    groups: dict[str, list[Path]], videos: Sequence[Path]
) -> tuple[dict[str, list[Path]], list[Path]]:
    """Split groups of images into sequences by name, and images that are none."""
    stems = {path.stem.lower() for path in videos}
    sequences, singles = {}, []
    for name, group in groups.items():
        if len(group) > 1 and not _are_thumbnails(group, stems) and not _is_animation(group[0]):
            sequences[name] = group
        else:
            singles += group
    return sequences, singles


def _is_animation(path: Path) -> bool:
    return not is_still(path) and not is_stack(path)


def _are_thumbnails(group: Sequence[Path], video_stems: set[str]) -> bool:
    """Whether most images are named like a video of their own: `clip1_small.jpg`, `clip1.mp4`."""
    found = {
        next((stem[:end] for end in range(len(stem), 0, -1) if stem[:end] in video_stems), None)
        for stem in (path.stem.lower() for path in group)
    }
    return 2 * len(found - {None}) > len(group)
