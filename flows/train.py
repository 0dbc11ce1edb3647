"""
The training flow: encode what is labelled, cut the clips, train, save; each a task that is retried.
To fine-tune the backbone as well, the pictures of the clips are kept before.

A training that was interrupted goes on from its last epoch. Prefect reads the parameters' types:
annotations must not be postponed here.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.utilities.annotations import quote

from flows.process_folder import run_shards
from flows.tasks import STAGE, run_key, workshop
from pipeline.records import Video
from pipeline.run.process import run
from pipeline.run.session import Session
from pipeline.temporal.training_loop import OnEpoch
from pipeline.training.annotations import Annotations, read_annotations
from pipeline.training.build_dataset import (
    LabelledDataset,
    add_frame_cache,
    build_dataset,
    find_labelled_videos,
)
from pipeline.training.finetune.finetune import load_tunable
from pipeline.training.options import LearningOptions
from pipeline.training.train_recognizer import train_recognizer

Told = Callable[[Any], None]


@dataclass
class Listeners:
    """Who is told how a training of this process goes on: set by the command line."""

    on_pipeline: Told = lambda session: None
    on_epoch: OnEpoch = lambda epoch: None
    on_finetune_epoch: OnEpoch = lambda epoch: None


listeners = Listeners()


def gather(labelled: Annotations, chosen: LearningOptions, *, as_tasks: bool) -> LabelledDataset:
    """
    Gather examples; what has to be decoded and encoded for that is cut into shards.

    Args:
        labelled: the clips.
        chosen: of the training; the run has no recognizer, but a folder for features.
        as_tasks: run shards as tasks of the current flow run, instead of in threads.
    """
    options, blocks = chosen.run, chosen.tuning.blocks
    if blocks:
        load_tunable(options, blocks)  # what cannot be is told before any work
    videos = find_labelled_videos(labelled, options.image_fps)
    encode = encode_as_tasks if as_tasks else run
    with tempfile.TemporaryDirectory(prefix="clipline-") as out:  # rows say nothing here
        key = run_key(out, options.to_json())
        with workshop.opened(key, Path(out), options, videos) as session:
            listeners.on_pipeline(session)
            dataset = build_dataset(labelled, session, encode=encode, videos=videos)
            if not blocks:
                return dataset
            return (cache_frames if as_tasks else add_frame_cache)(dataset, session, videos)


def cache_frames(
    dataset: LabelledDataset, session: Session, videos: Sequence[Video]
) -> LabelledDataset:
    """Decode the pictures that the backbone learns from, as a task of the current flow run."""
    given: Any = quote(dataset), quote(session), quote(videos)
    kept: LabelledDataset = cache_frames_as_task(*given)
    return kept


@task(name="keep-pictures", **STAGE)
def cache_frames_as_task(
    dataset: LabelledDataset, session: Session, videos: Sequence[Video]
) -> LabelledDataset:
    """Decode pictures; another attempt decodes only the videos that are not kept."""
    return add_frame_cache(dataset, session, videos)


def encode_as_tasks(session: Session, videos: Sequence[Video]) -> list[Exception]:
    """Fill the feature store, each shard a task of the current flow run."""
    return run_shards(session, videos, session.options.to_json())


@task(name="learn", **STAGE)
def train_as_task(dataset: LabelledDataset, out: Path, options: LearningOptions) -> dict[str, Any]:
    """Train and save; another attempt goes on from the last epoch."""
    return learn_and_tell(dataset, out, options)


def learn_and_tell(dataset: LabelledDataset, out: Path, options: LearningOptions) -> dict[str, Any]:
    """Train and save, telling whoever listens."""
    return train_recognizer(
        dataset,
        out,
        options,
        on_epoch=listeners.on_epoch,
        on_finetune_epoch=listeners.on_finetune_epoch,
    )


@flow(name="train", flow_run_name="{out}", persist_result=False)
def train(labels: str, videos: str | None, out: str, options: dict[str, Any]) -> dict[str, Any]:
    """
    Train a recognizer.

    Args:
        labels: a CSV table, or a folder with a sub-folder of videos a label.
        videos: folder that relative paths of the table count from.
        out: folder of the recognizer.
        options: `LearningOptions` as plain values.

    Returns:
        What `metrics.json` says.
    """
    chosen = LearningOptions.from_json(options)
    labelled = read_annotations(Path(labels), Path(videos) if videos else None)
    dataset = gather(labelled, chosen, as_tasks=True)
    given: Any = quote(dataset), quote(Path(out)), quote(chosen)
    metrics: dict[str, Any] = train_as_task(*given)
    return metrics


def train_plainly(
    labels: str, videos: str | None, out: str, options: dict[str, Any]
) -> dict[str, Any]:
    """Train as `train` does, without a server."""
    chosen = LearningOptions.from_json(options)
    labelled = read_annotations(Path(labels), Path(videos) if videos else None)
    dataset = gather(labelled, chosen, as_tasks=False)
    return learn_and_tell(dataset, Path(out), chosen)
