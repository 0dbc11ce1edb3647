"""Read the labels of a training or an evaluation: clips with a label each, or time lines."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pipeline.errors import OptionError
from pipeline.sources.discovery import in_folder
from pipeline.training.annotations import Annotations, read_annotations
from pipeline.training.feature_files import SUFFIXES, feature_files
from pipeline.training.frame_labels import has_frame_labels, read_frame_labels
from pipeline.training.options import LabelOptions
from pipeline.training.splits import read_split, split_annotations, split_lines
from pipeline.training.time_lines import (
    TimeLines,
    decide_task,
    lines_of_clips,
    lines_of_frames,
    lines_of_rows,
)


def read_labels(
    path: Path, videos: Path | None, options: LabelOptions, features: Path | None = None
) -> Annotations | TimeLines:
    """
    Read labels, and decide what they are labels of.

    Args:
        path: a table, a folder with a sub-folder of videos per label, or a folder with a file of
            frame labels for each video.
        videos: folder of the videos; by default that of the labels.
        options: how labels are read.
        features: folder of features made elsewhere, in place of videos.

    Returns:
        Clips, or time lines for the task `frames` and for clips with several labels.

    Raises:
        SourceError: labels are invalid.
        OptionError: the task does not fit the labels.
    """
    path = path.expanduser()
    parts = read_split(Path(options.splits), options.split) if options.splits else None
    if has_frame_labels(path):
        if options.task == "clips":
            raise OptionError(
                "LABELS has a label for each frame: remove --task clips, or give a table of clips"
            )
        found = read_frame_labels(path, options.background)
        lines = lines_of_frames(found, _finder(features, videos or path))
        lines = replace(lines, multi_label=options.multi_label)
        return lines if parts is None else split_lines(lines, parts)
    annotations = read_annotations(
        path,
        features.expanduser() if features else videos,
        multi_label=options.multi_label,
        suffixes=SUFFIXES if features else (),
    )
    if parts is not None:
        annotations = split_annotations(annotations, parts)
    task = decide_task(annotations) if options.task == "auto" else options.task
    if task == "clips":
        return lines_of_clips(annotations) if options.multi_label else annotations
    return lines_of_rows(annotations, multi_label=options.multi_label)


def _finder(features: Path | None, videos: Path) -> Callable[[str], str | None]:
    """Give the absolute path of a video or its features by name."""
    if features is not None:
        found = feature_files(features.expanduser())
        return {name: os.path.abspath(path) for name, path in found.items()}.get
    sources = in_folder(videos.expanduser())
    return {Path(source.location).stem: source.location for source in sources}.get
