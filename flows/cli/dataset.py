"""Read labels, and build the dataset of labelled videos, for the commands that need them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from flows.cli.derive import Given
from pipeline.errors import OptionError
from pipeline.training.options import ExternalFeatures, LabelOptions

if TYPE_CHECKING:
    from pipeline.config import RunOptions
    from pipeline.recognition.recognizer import Recognizer
    from pipeline.run.session import Session
    from pipeline.training.annotations import Annotations
    from pipeline.training.build_dataset import LabelledDataset
    from pipeline.training.feature_source import FeatureReader
    from pipeline.training.labelled import Dataset, Labelled
    from pipeline.training.sequence_dataset import LabelNames


@dataclass(frozen=True, slots=True)
class Reading:
    """How labels are read, and where the features of the labelled videos are."""

    labels: LabelOptions
    external: ExternalFeatures = field(default_factory=ExternalFeatures)


def reading_of(saved: Recognizer, given: Given) -> Reading:
    """
    Read labels for a recognizer as in its training; splits and features are those of the user.

    Raises:
        OptionError: features made elsewhere are given or missing, but the recognizer was trained
            otherwise.
    """
    from pipeline.recognition.recognizer import EXTERNAL_FEATURES

    external = {"features_fps": saved.notes.get("features_fps"), **given[ExternalFeatures]}
    made_elsewhere = saved.backbone.name == EXTERNAL_FEATURES
    if made_elsewhere and "features_from" not in external:
        raise OptionError(
            f"{saved.name} was trained on features made elsewhere: add --features-from"
        )
    if not made_elsewhere and given[ExternalFeatures]:
        raise OptionError(f"{saved.name} was trained on videos: remove --features-from")
    trained = {**saved.notes.get("labels", {}), "splits": None, "split": None}
    task = {"task": saved.task, "multi_label": saved.multi_label}
    return Reading(
        LabelOptions(**{**task, **trained, **given[LabelOptions]}),
        ExternalFeatures(**external) if made_elsewhere else ExternalFeatures(),
    )


def read_labels(path: Path, videos: Path | None, reading: Reading, *, quiet: bool) -> Labelled:
    """
    Read labels; print the task, the labels with their numbers, and notes to standard error.

    Args:
        path: table or folder.
        videos: folder to which paths in the table are relative.
        reading: how they are read.
        quiet: print nothing.

    Raises:
        SourceError: the table or folder is invalid.
        OptionError: the task does not fit the labels.
    """
    from flows.cli.console import print_error
    from pipeline.training.label_counts import describe_labels
    from pipeline.training.read_labels import read_labels as read

    folder = reading.external.features_from
    labelled = read(path, videos, reading.labels, Path(folder) if folder else None)
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
    clips = read_labels(path, videos, Reading(LabelOptions(task="clips")), quiet=quiet)
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


def gather_for(
    saved: Recognizer,
    labelled: Labelled,
    reading: Reading,
    options: RunOptions,
    *,
    quiet: bool,
    known: bool,
) -> tuple[Dataset, FeatureReader]:
    """
    Build the dataset for a recognizer from the frames that it samples.

    Args:
        saved: the recognizer.
        labelled: clips, or time lines.
        reading: how they were read.
        options: how videos are decoded and encoded; not used for features made elsewhere.
        quiet: print nothing.
        known: for the task `frames`, sequences have the labels of the recognizer in its order,
            not those of the time lines.

    Raises:
        OptionError: features made elsewhere have another size than those of the training.
    """
    from pipeline.training.labelled import build, external_source, find_videos_of
    from pipeline.training.sequence_dataset import LabelNames

    known = known and saved.task == "frames"
    names = LabelNames(saved.labels, saved.background) if known else None
    if reading.external.features_from is None:
        return gather(labelled, options, reading.labels, quiet=quiet, known=names)
    source = external_source(reading.external, saved.sampling)
    size, wanted = source.backbone.feature_size, saved.backbone.feature_size
    if size != wanted:
        raise OptionError(
            f"{saved.name} was trained on {wanted} features a frame, those of "
            f"{reading.external.features_from} are {size}"
        )
    return build(labelled, source, find_videos_of(labelled), reading.labels, names), source.store


def gather_clips(
    labelled: Annotations, options: RunOptions, *, quiet: bool
) -> tuple[LabelledDataset, FeatureReader]:
    """Build the dataset of labelled clips; see `gather`."""
    dataset, store = gather(labelled, options, LabelOptions(task="clips"), quiet=quiet)
    return cast("LabelledDataset", dataset), store
