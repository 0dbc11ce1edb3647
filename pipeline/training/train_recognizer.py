"""
Train a recognizer on labelled clips, fine-tune its backbone if requested, and save it.

    options = LearningOptions(RunOptions(recognizer=None, backbone="resnet18", ...))
    annotations = read_annotations(Path("labels.csv"))
    videos = find_labelled_videos(annotations)
    with open_session(None, options.run, videos=videos) as session:
        source = FeatureSource.of_session(session, ensure_features(session, videos))
        dataset = build_dataset(annotations, source, videos)
    train_recognizer(dataset, Path("my-recognizer"), options)
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.encode.backbone import require_same_weights
from pipeline.encode.custom_backbone import copy_weights, describe_network
from pipeline.errors import OptionError, SourceError
from pipeline.recognition.recognizer import Recognizer, save_recognizer
from pipeline.results.plots import plot_training
from pipeline.storage import file_lock, write_json
from pipeline.temporal.batching import Example, hash_examples
from pipeline.temporal.options import TemporalOptions, TrainingOptions
from pipeline.temporal.schedule import train_validation_split
from pipeline.temporal.trainer import TrainingResult, fit
from pipeline.temporal.training_loop import Epoch, OnEpoch
from pipeline.training.build_dataset import LabelledDataset
from pipeline.training.finetune.finetune import FinetuneOutcome, fine_tune, load_tunable
from pipeline.training.finetune.trainer import FinetuneTask
from pipeline.training.options import LearningOptions
from pipeline.training.sequence_dataset import SequenceDataset

CHECKPOINT = "checkpoint.safetensors"
FINETUNE_CHECKPOINT = "checkpoint-tuning.safetensors"
CHECKPOINTS = "checkpoint*.safetensors"
METRICS = "metrics.json"
CURVES = "learning.png"
FINETUNE_CURVES = "fine-tuning.png"
SIDES = frozenset(
    {
        *("left", "leftward", "leftwards", "lefthand", "l", "west"),
        *("right", "rightward", "rightwards", "righthand", "r", "east"),
        *("clockwise", "counterclockwise", "anticlockwise", "cw", "ccw"),
    }
)
"""Words in labels that are wrong for mirrored clips."""
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+")
"""A word of a label, also in camel case: TurnLeft and moveL have two."""


@dataclass(frozen=True)
class DatasetSplit:
    """Training and validation set."""

    train: Sequence[Example]
    validation: Sequence[Example]


def train_recognizer(
    dataset: LabelledDataset,
    out: Path,
    options: LearningOptions,
    *,
    on_epoch: OnEpoch | None = None,
    on_finetune_epoch: OnEpoch | None = None,
) -> dict[str, Any]:
    """
    Train a recognizer and save it in a folder.

    Examples of the split `validation` are used for early stopping and calibration, or without that
    split a share of the groups. Those of the split `test` are not used.

    Args:
        dataset: labelled clips, with a frame cache if the backbone is fine-tuned.
        out: folder of the recognizer; an interrupted training in it is resumed.
        options: of the training.
        on_epoch: called after each epoch.
        on_finetune_epoch: called after each epoch of fine-tuning.

    Returns:
        The content of `metrics.json`.

    Raises:
        OptionError: the options do not fit the features, or training diverged.
        SourceError: a label has no training example.
    """
    options = replace(
        options,
        temporal=with_compensation(dataset, options),
        training=with_mirror(dataset, options),
    )
    parts = split(dataset, options.training)
    with file_lock(out / ".lock", f"recognizer {out}"):
        num_labels = len(dataset.examples.labels)
        result = _fit(parts, num_labels, options, on_epoch, out / CHECKPOINT)
        metrics = training_metrics(dataset, result, parts, options.training)
        plot_curves(result.history, result.best.number, out / CURVES)
        finetuned = None
        if options.tuning.blocks:
            task = _finetune_task(dataset, result, parts, options)
            finetuned = _fine_tune(task, result, out, on_finetune_epoch)
            metrics["fine_tuning"] = finetuned.metrics
        notes = _notes(dataset, metrics, parts, options)
        _save(as_recognizer(out.resolve().name, dataset, result, notes), finetuned, out)
        write_json(metrics, out / METRICS)
        remove_checkpoints(out)
    return metrics


def remove_checkpoints(out: Path) -> None:
    """Remove the files from which a training would be resumed."""
    for path in out.glob(CHECKPOINTS):
        path.unlink()


def _fit(
    parts: DatasetSplit,
    num_labels: int,
    options: LearningOptions,
    on_epoch: OnEpoch | None,
    checkpoint: Path,
) -> TrainingResult:
    return fit(
        parts.train,
        num_labels,
        options.temporal,
        options.training,
        validation=parts.validation,
        on_epoch=on_epoch,
        checkpoint=checkpoint,
    )


def _fine_tune(
    task: FinetuneTask, result: TrainingResult, out: Path, on_epoch: OnEpoch | None
) -> FinetuneOutcome:
    path = out / FINETUNE_CHECKPOINT
    finetuned = fine_tune(task, result, on_epoch=on_epoch, checkpoint=path)
    plot_curves(finetuned.history, finetuned.metrics["best_epoch"], out / FINETUNE_CURVES)
    return finetuned


def with_mirror(
    dataset: LabelledDataset | SequenceDataset, options: LearningOptions
) -> TrainingOptions:
    """
    Set the grid of the features in the training options if clips are mirrored.

    Raises:
        OptionError: mirroring is requested, but features have no grid.
    """
    grid = dataset.backbone.grid or 1
    if options.mirror and grid == 1:
        raise OptionError("features without a grid cannot be mirrored: add --grid, or --no-mirror")
    mirror = may_mirror(dataset, options)
    return replace(options.training, mirror_grid=grid if mirror and grid > 1 else 0)


def with_compensation(
    dataset: LabelledDataset | SequenceDataset, options: LearningOptions
) -> TemporalOptions:
    """
    Set the grid of the features in the model options if motion is compensated.

    Raises:
        OptionError: features have no grid.
    """
    grid = dataset.backbone.grid or 1
    if options.compensation and grid == 1:
        raise OptionError("--compensation needs features with a grid: add --grid, or remove it")
    return replace(options.temporal, motion_grid=grid if options.compensation else 0)


def may_mirror(dataset: LabelledDataset | SequenceDataset, options: LearningOptions) -> bool:
    """Whether clips may be mirrored: by the options, or else by the labels."""
    if options.mirror is not None:
        return options.mirror
    return is_mirror_invariant(dataset.labels)


def is_mirror_invariant(labels: Sequence[str]) -> bool:
    """Whether no label contains a word for a side or a direction of rotation."""
    words = {word.lower() for label in labels for word in WORD.findall(label)}
    return not words & SIDES


def split(dataset: LabelledDataset, options: TrainingOptions) -> DatasetSplit:
    """
    Split the examples into training and validation set.

    Raises:
        SourceError: a label has no training example.
    """
    validation = dataset.of("validation")
    train = dataset.of("train", None)
    if not validation:
        train, validation = train_validation_split(train, options.validation, options.seed)
    labels = dataset.examples.labels
    missing = set(range(len(labels))) - {example.label for example in train}
    if missing:
        names = ", ".join(labels[index] for index in sorted(missing))
        raise SourceError(f"no clip of the split `train` has the label {names}")
    return DatasetSplit(train, validation)


def training_metrics(
    dataset: LabelledDataset,
    result: TrainingResult,
    parts: DatasetSplit,
    options: TrainingOptions,
) -> dict[str, Any]:
    """Make the content of `metrics.json`."""
    labels = dataset.examples.labels
    best = result.best
    return {
        "epochs": len(result.history),
        "best_epoch": best.number,
        "validation": {
            "clips": len(parts.validation),
            "accuracy": best.validation_accuracy,
            "loss": best.validation_loss,
            "learned_afterwards": bool(parts.validation) and options.refit,
        },
        "mirrored": options.mirror_grid > 0,
        "temperature": result.temperature,
        "learned_from": {
            "clips": len(parts.train),
            "frames": sum(int(example.mask.sum()) for example in parts.train),
            "groups": len({example.group for example in parts.train}),
            "labels": dict(Counter(labels[example.label] for example in parts.train)),
        },
        "left_out": [dataclasses.asdict(clip) for clip in dataset.skipped],
        "history": [dataclasses.asdict(epoch) for epoch in result.history],
    }


def _notes(
    dataset: LabelledDataset, metrics: dict[str, Any], parts: DatasetSplit, options: LearningOptions
) -> dict[str, Any]:
    """Make the metadata of a recognizer: licence, training data, options and metrics."""
    videos = {example.video_id for example in (*parts.train, *parts.validation)}
    return {
        "licence": licence_note(dataset),
        "training_data": hash_examples(parts.train, parts.validation),
        "training_videos": sorted(videos),
        "training": dataclasses.asdict(options.training),
        "tuning": dataclasses.asdict(options.tuning),
        "metrics": without_history(metrics),
    }


def licence_note(dataset: LabelledDataset | SequenceDataset) -> str:
    """Say which licences apply to a recognizer."""
    return (
        f"weights of the backbone: {dataset.licence or 'unknown'}; those of the "
        "temporal model belong to whoever trained it, within the licence of the videos"
    )


def without_history(metrics: dict[str, Any]) -> dict[str, Any]:
    """Leave the metrics of the epochs out."""
    kept = {name: value for name, value in metrics.items() if name != "history"}
    if "fine_tuning" in kept:
        kept["fine_tuning"] = without_history(kept["fine_tuning"])
    return kept


def _finetune_task(
    dataset: LabelledDataset, result: TrainingResult, parts: DatasetSplit, options: LearningOptions
) -> FinetuneTask:
    """Start from the original backbone, and a model not trained on the validation set."""
    if dataset.frame_cache is None:
        raise ValueError("fine-tuning needs decoded frames: call add_frame_cache first")
    backbone = load_tunable(options.run, options.tuning.blocks)
    require_same_weights(dataset.backbone.weights_hash, backbone.weights_hash, backbone.name)
    return FinetuneTask(
        parts.train,
        parts.validation,
        backbone=backbone,
        model=result.validation_model or result.model,
        cache=dataset.frame_cache,
        tuning=options.tuning,
        training=options.training,
        mirror=may_mirror(dataset, options),
    )


def _save(recognizer: Recognizer, finetuned: FinetuneOutcome | None, out: Path) -> None:
    """Save a recognizer, with its own backbone if fine-tuning lowered the validation loss."""
    if finetuned is None or finetuned.backbone is None:
        save_recognizer(recognizer, out)
        return
    backbone = finetuned.backbone
    recognizer = replace(
        recognizer,
        backbone=replace(recognizer.backbone, weights_hash=backbone.weights_hash),
        model=finetuned.trained.model,
        temperature=finetuned.trained.temperature,
        network=describe_network(backbone),
    )
    save_recognizer(recognizer, out, copy_weights(backbone))


def plot_curves(history: Sequence[Epoch], best: int, path: Path) -> None:
    """Plot loss, accuracy and clipped gradients of each epoch."""
    plot_training(
        [
            ("loss", [e.loss for e in history], [e.validation_loss for e in history]),
            ("accuracy", [e.accuracy for e in history], [e.validation_accuracy for e in history]),
            ("share of steps with clipped gradient", [e.clipped for e in history], []),
        ],
        best,
        path,
    )


def as_recognizer(
    name: str, dataset: LabelledDataset, result: TrainingResult, notes: dict[str, Any]
) -> Recognizer:
    """Make a recognizer from a trained model."""
    return Recognizer(
        name=name,
        labels=dataset.examples.labels,
        sampling=dataset.sampling,
        clips=dataset.windows,
        backbone=dataset.backbone,
        temporal=result.model.options,
        model=result.model,
        temperature=result.temperature,
        notes=notes,
    )
