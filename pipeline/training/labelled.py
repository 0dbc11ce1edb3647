"""Build the dataset of labels of either kind: clips, or time lines of whole videos."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.config import Sampling
from pipeline.records import Video
from pipeline.run.session import Session
from pipeline.training.annotations import Annotation, Annotations
from pipeline.training.build_dataset import LabelledDataset, build_dataset, find_labelled_videos
from pipeline.training.clip_times import check_times
from pipeline.training.feature_files import open_feature_files
from pipeline.training.feature_source import FeatureSource
from pipeline.training.options import ExternalFeatures, LabelOptions
from pipeline.training.sequence_dataset import (
    LabelNames,
    SequenceDataset,
    build_sequences,
    find_line_videos,
)
from pipeline.training.time_lines import TimeLines

Labelled = Annotations | TimeLines
Dataset = LabelledDataset | SequenceDataset


def find_videos_of(labelled: Labelled, image_fps: float | None = None) -> list[Video]:
    """
    Find the labelled videos; copies of a video are found once.

    Raises:
        SourceError: copies of a video have different labels, groups or splits.
    """
    if isinstance(labelled, TimeLines):
        return find_line_videos(labelled, image_fps)
    return find_labelled_videos(labelled, image_fps)


def check_labels(labelled: Labelled, session: Session, videos: Sequence[Video]) -> Labelled:
    """
    Check the times of labelled parts, and cut those that end a little after their video.

    Raises:
        SourceError: see `check_times`.
    """
    if isinstance(labelled, Annotations):
        return check_times(labelled, session, videos)
    rows = tuple(row for line in labelled.items for row in line.rows)
    checked = check_times(
        Annotations(rows, labelled.labels, path=labelled.path), session, videos
    ).clips
    by_video: dict[str, list[Annotation]] = defaultdict(list)
    for row in checked:
        by_video[row.video].append(row)
    items = [replace(line, rows=tuple(by_video[line.video])) for line in labelled.items]
    return replace(labelled, items=tuple(items))


def build(
    labelled: Labelled,
    source: FeatureSource,
    videos: Sequence[Video],
    options: LabelOptions,
    known: LabelNames | None = None,
) -> Dataset:
    """
    Build examples of clips, or sequences of time lines.

    Args:
        labelled: from `read_labels`.
        source: of the features.
        videos: from `find_videos_of`.
        options: how labels were read.
        known: labels of a recognizer, for sequences.

    Raises:
        SourceError: see `build_dataset` and `build_sequences`.
    """
    if isinstance(labelled, TimeLines):
        background = options.background if options.unlabelled == "background" else None
        return build_sequences(labelled, source, videos, background=background, known=known)
    return build_dataset(labelled, source, videos)


def external_source(options: ExternalFeatures, sampling: Sampling | None) -> FeatureSource:
    """
    Open features made elsewhere.

    Args:
        options: which name a folder.
        sampling: which rows are used; None uses all.

    Raises:
        OptionError: the rate is missing, or lower than that of the sampling.
        SourceError: the folder has no features.
    """
    assert options.features_from is not None
    folder = Path(options.features_from)
    return FeatureSource.of_files(open_feature_files(folder, options.features_fps, sampling))
