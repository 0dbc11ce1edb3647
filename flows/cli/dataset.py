"""Read labels, and build the dataset of labelled videos, for the commands that need them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pipeline.training.options import ExternalFeatures, LabelOptions

if TYPE_CHECKING:
    from pipeline.config import RunOptions, Sampling
    from pipeline.run.session import Session
    from pipeline.training.annotations import Annotations
    from pipeline.training.build_dataset import LabelledDataset
    from pipeline.training.feature_source import FeatureReader
    from pipeline.training.labelled import Dataset, Labelled
    from pipeline.training.sequence_dataset import LabelNames


def read_labels(
    path: Path,
    videos: Path | None,
    options: LabelOptions,
    external: ExternalFeatures,
    *,
    quiet: bool,
) -> Labelled:
    """
    Read labels; print the task, the labels with their numbers, and notes to standard error.

    Args:
        path: table or folder.
        videos: folder to which paths in the table are relative.
        options: how labels are read.
        external: features made elsewhere, in place of videos.
        quiet: print nothing.

    Raises:
        SourceError: the table or folder is invalid.
        OptionError: the task does not fit the labels.
    """
    from flows.cli.console import print_error
    from pipeline.training.label_counts import describe_labels
    from pipeline.training.read_labels import read_labels as read

    features = Path(external.features_from) if external.features_from else None
    labelled = read(path, videos, options, features)
    if not quiet:
        for line in describe_labels(labelled):
            print_error(line)
        for note in labelled.notes:
            print_error(f"warning: {note}")
    return labelled


def read_clips(path: Path, videos: Path | None, *, quiet: bool) -> Annotations:
    """
    Read labels of clips, and print them as `read_labels` does.

    Raises:
        SourceError: the table or folder is invalid.
    """
    clips = read_labels(path, videos, LabelOptions(task="clips"), ExternalFeatures(), quiet=quiet)
    return cast("Annotations", clips)


def gather(
    labelled: Labelled,
    options: RunOptions,
    labels: LabelOptions,
    *,
    quiet: bool,
    known: LabelNames | None = None,
) -> tuple[Dataset, FeatureReader]:
    """
    Build the dataset of labelled videos; features that are missing are computed and stored.

    Args:
        labelled: clips, or time lines.
        options: how videos are decoded and encoded.
        labels: how labels were read.
        quiet: print nothing.
        known: labels of a recognizer, for time lines.

    Returns:
        The dataset, and the store of the features.
    """
    from flows.cli.console import watch
    from flows.server.launch import open_with_features
    from pipeline.training.feature_source import FeatureSource
    from pipeline.training.labelled import build, check_labels, find_videos_of

    videos = find_videos_of(labelled, options.image_fps)
    show = partial(watch, quiet=quiet)
    checked = labelled

    def check(session: Session) -> None:
        nonlocal checked
        checked = check_labels(labelled, session, videos)

    with open_with_features(options, videos, show, check) as (session, not_stored):
        source = FeatureSource.of_session(session, not_stored)
        return build(checked, source, videos, labels, known), source.store


def gather_external(
    labelled: Labelled,
    external: ExternalFeatures,
    sampling: Sampling,
    labels: LabelOptions,
    known: LabelNames | None = None,
) -> tuple[Dataset, FeatureReader]:
    """Build the dataset of features made elsewhere; see `gather`."""
    from pipeline.training.labelled import build, external_source, find_videos_of

    source = external_source(external, sampling)
    return build(labelled, source, find_videos_of(labelled), labels, known), source.store


def gather_clips(
    labelled: Annotations, options: RunOptions, *, quiet: bool
) -> tuple[LabelledDataset, FeatureReader]:
    """Build the dataset of labelled clips; see `gather`."""
    dataset, store = gather(labelled, options, LabelOptions(task="clips"), quiet=quiet)
    return cast("LabelledDataset", dataset), store
