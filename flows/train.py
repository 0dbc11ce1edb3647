"""
The flow of a training: features, clips, training; each a task that is retried.

To fine-tune the backbone as well, the frames of the clips are decoded and kept before.

An interrupted training continues from its last epoch. Prefect reads the parameters' types:
annotations must not be postponed here.
"""

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.utilities.annotations import quote

from flows.features import ensure_features_as_tasks
from flows.signals import on_stop
from flows.tasks import STAGE
from pipeline.progress import RunProgress
from pipeline.records import DecodeReport, Video
from pipeline.run.features import ensure_features
from pipeline.run.load import open_session
from pipeline.run.session import Session
from pipeline.temporal.training_loop import OnEpoch
from pipeline.training.annotations import Annotations
from pipeline.training.build_dataset import LabelledDataset, add_frame_cache
from pipeline.training.feature_source import FeatureSource
from pipeline.training.finetune.finetune import load_tunable
from pipeline.training.label_counts import require_trainable
from pipeline.training.labelled import (
    Dataset,
    Labelled,
    build,
    check_labels,
    external_source,
    find_videos_of,
)
from pipeline.training.options import LearningOptions
from pipeline.training.read_labels import read_labels
from pipeline.training.sequence_dataset import SequenceDataset
from pipeline.training.train_frames import train_frame_recognizer
from pipeline.training.train_recognizer import train_recognizer


@dataclass(frozen=True)
class Callbacks:
    """Called while a training runs."""

    on_features: Callable[[RunProgress], None] = lambda progress: None
    """When features begin to be computed, with their counters."""
    on_epoch: OnEpoch = lambda epoch: None
    on_finetune_epoch: OnEpoch = lambda epoch: None
    """After each epoch of fine-tuning."""


NO_CALLBACKS = Callbacks()
CALLBACKS: ContextVar[Callbacks] = ContextVar("callbacks", default=NO_CALLBACKS)
"""Of the command that runs the flow in its own process."""


@task(name="cache-frames", **STAGE)
def cache_frames_task(
    dataset: LabelledDataset, session: Session, videos: Sequence[Video]
) -> LabelledDataset:
    """Decode the frames for fine-tuning; another attempt decodes only the missing videos."""
    return add_frame_cache(dataset, session, videos)


@task(name="train-recognizer", **STAGE)
def train_task(
    dataset: Dataset, out: Path, options: LearningOptions, callbacks: Callbacks
) -> dict[str, Any]:
    """Train and save; another attempt continues from the last epoch."""
    return _train(dataset, out, options, callbacks)


def _train(
    dataset: Dataset, out: Path, options: LearningOptions, callbacks: Callbacks
) -> dict[str, Any]:
    if isinstance(dataset, SequenceDataset):
        return train_frame_recognizer(dataset, out, options, on_epoch=callbacks.on_epoch)
    return train_recognizer(
        dataset,
        out,
        options,
        on_epoch=callbacks.on_epoch,
        on_finetune_epoch=callbacks.on_finetune_epoch,
    )


def _quoted(step: Any) -> Any:
    return lambda *arguments: step(*map(quote, arguments))


@dataclass(frozen=True)
class Steps:
    """The steps of a training, as plain functions or as tasks of the current flow run."""

    ensure_features: Callable[..., Mapping[str, DecodeReport]] = ensure_features
    add_frame_cache: Callable[..., LabelledDataset] = add_frame_cache
    train: Callable[..., dict[str, Any]] = _train


PLAIN = Steps()
TASKS = Steps(ensure_features_as_tasks, _quoted(cache_frames_task), _quoted(train_task))


def run_training(
    labelled: Labelled,
    out: Path,
    options: LearningOptions,
    callbacks: Callbacks,
    steps: Steps,
) -> dict[str, Any]:
    """
    Compute features, cut clips or sequences, train, and save the recognizer.

    Args:
        labelled: labels of clips, or time lines.
        out: folder of the recognizer.
        options: of the training.
        callbacks: called on the way.
        steps: `PLAIN`, or `TASKS` within a flow run.

    Returns:
        The content of `metrics.json`.
    """
    run, blocks = options.run, options.tuning.blocks
    if blocks:
        load_tunable(run, blocks)  # raises before any work
    if isinstance(labelled, Annotations):
        require_trainable(labelled)
    videos = find_videos_of(labelled, run.image_fps)
    if options.external.features_from is not None:
        source = external_source(options.external, run.sampling)
        return steps.train(build(labelled, source, videos, options.labels), out, options, callbacks)
    progress = RunProgress()
    with open_session(None, run, videos=videos, progress=progress) as session:
        with on_stop(session.stop):
            labelled = check_labels(labelled, session, videos)
            callbacks.on_features(progress)
            not_stored = steps.ensure_features(session, videos, progress)
            source = FeatureSource.of_session(session, not_stored)
            dataset = build(labelled, source, videos, options.labels)
            if blocks and isinstance(dataset, LabelledDataset):
                dataset = steps.add_frame_cache(dataset, session, videos)
    return steps.train(dataset, out, options, callbacks)


def _read(labels: str, videos: str | None, options: LearningOptions) -> Labelled:
    features = options.external.features_from
    return read_labels(
        Path(labels),
        Path(videos) if videos else None,
        options.labels,
        Path(features) if features else None,
    )


@flow(name="train", flow_run_name="{out}", persist_result=False)
def train(labels: str, videos: str | None, out: str, options: dict[str, Any]) -> dict[str, Any]:
    """
    Train a recognizer.

    Args:
        labels: a table, or a folder: see `read_labels`.
        videos: folder to which relative paths in the table refer.
        out: folder of the recognizer.
        options: `LearningOptions` as plain values.

    Returns:
        The content of `metrics.json`.
    """
    chosen = LearningOptions.from_json(options)
    return run_training(_read(labels, videos, chosen), Path(out), chosen, CALLBACKS.get(), TASKS)


def train_without_api(
    labels: str, videos: str | None, out: str, options: dict[str, Any]
) -> dict[str, Any]:
    """Train as the flow does, without a Prefect API."""
    chosen = LearningOptions.from_json(options)
    return run_training(_read(labels, videos, chosen), Path(out), chosen, CALLBACKS.get(), PLAIN)
