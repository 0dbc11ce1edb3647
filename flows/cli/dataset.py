"""Read labels, and build the dataset of labelled videos, for the commands that need them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.config import RunOptions
    from pipeline.encode.feature_store import FeatureStore
    from pipeline.run.session import Session
    from pipeline.training.annotations import Annotations
    from pipeline.training.build_dataset import LabelledDataset


def read_labels(path: Path, videos: Path | None, *, quiet: bool) -> Annotations:
    """
    Read annotations; print labels, their numbers of clips, and notes to standard error.

    Args:
        path: table or folder.
        videos: folder to which paths in the table are relative.
        quiet: print nothing.

    Raises:
        SourceError: the table or folder is invalid.
    """
    from flows.cli.console import print_error
    from pipeline.training.annotations import read_annotations
    from pipeline.training.label_counts import describe_labels

    annotations = read_annotations(path, videos)
    if not quiet:
        for line in describe_labels(annotations):
            print_error(line)
        for note in annotations.notes:
            print_error(f"warning: {note}")
    return annotations


def gather_clips(
    labelled: Annotations, options: RunOptions, *, quiet: bool
) -> tuple[LabelledDataset, FeatureStore]:
    """Build the dataset of labelled clips; features that are missing are computed and stored."""
    from flows.cli.console import watch
    from flows.server.launch import open_with_features
    from pipeline.training.build_dataset import build_dataset, find_labelled_videos
    from pipeline.training.clip_times import check_times
    from pipeline.training.feature_source import FeatureSource

    videos = find_labelled_videos(labelled, options.image_fps)
    show = partial(watch, quiet=quiet)
    checked = labelled

    def check(session: Session) -> None:
        nonlocal checked
        checked = check_times(labelled, session, videos)

    with open_with_features(options, videos, show, check) as (session, not_stored):
        source = FeatureSource.of_session(session, not_stored)
        return build_dataset(checked, source, videos), session.store
