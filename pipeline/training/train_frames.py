"""
Train a recognizer on sequences with a label for each frame, and save it.

    lines = lines_of_rows(read_annotations(Path("labels.csv")))
    videos = find_line_videos(lines)
    with open_session(None, options.run, videos=videos) as session:
        source = FeatureSource.of_session(session, ensure_features(session, videos))
        dataset = build_sequences(lines, source, videos, background="background")
    train_frame_recognizer(dataset, Path("my-recognizer"), options)
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.errors import SourceError
from pipeline.recognition.recognizer import Recognizer, save_recognizer
from pipeline.recognition.segment_model import SegmentModel
from pipeline.storage import file_lock, write_json
from pipeline.temporal.options import TrainingOptions
from pipeline.temporal.schedule import train_validation_split
from pipeline.temporal.sequence_trainer import fit_sequences
from pipeline.temporal.sequences import LabelledSequence, hash_sequences
from pipeline.temporal.trainer import TrainingResult
from pipeline.temporal.training_loop import OnEpoch
from pipeline.training.options import LearningOptions
from pipeline.training.sequence_dataset import SequenceDataset
from pipeline.training.train_recognizer import (
    CHECKPOINT,
    CURVES,
    METRICS,
    licence_note,
    plot_curves,
    remove_checkpoints,
    with_compensation,
    with_mirror,
    without_history,
)


@dataclass(frozen=True)
class SequenceSplit:
    """Training and validation set."""

    train: Sequence[LabelledSequence]
    validation: Sequence[LabelledSequence]

    @property
    def all(self) -> list[LabelledSequence]:
        """Both."""
        return [*self.train, *self.validation]


def train_frame_recognizer(
    dataset: SequenceDataset,
    out: Path,
    options: LearningOptions,
    *,
    on_epoch: OnEpoch | None = None,
) -> dict[str, Any]:
    """
    Train a recognizer on sequences and save it in a folder.

    Sequences of the split `validation` are used for early stopping and calibration, or without that
    split a share of the groups. Those of the split `test` are not used.

    Args:
        dataset: labelled sequences.
        out: folder of the recognizer; an interrupted training in it is resumed.
        options: of the training.
        on_epoch: called after each epoch.

    Returns:
        The content of `metrics.json`.

    Raises:
        OptionError: the options do not fit the features, or training diverged.
        SourceError: there is no sequence to train on, or a label has none.
    """
    options = replace(
        options,
        temporal=with_compensation(dataset, options),
        training=with_mirror(dataset, options),
    )
    parts = split_sequences(dataset, options.training)
    with file_lock(out / ".lock", f"recognizer {out}"):
        result = fit_sequences(
            parts.train,
            len(dataset.labels),
            options.temporal,
            options.training,
            validation=parts.validation,
            on_epoch=on_epoch,
            checkpoint=out / CHECKPOINT,
        )
        metrics = frame_metrics(dataset, result, parts, options.training)
        plot_curves(result.history, result.best.number, out / CURVES)
        notes = _notes(dataset, metrics, parts, options)
        name = out.resolve().name
        save_recognizer(as_frame_recognizer(name, dataset, result, parts.all, notes), out)
        write_json(metrics, out / METRICS)
        remove_checkpoints(out)
    return metrics


def split_sequences(dataset: SequenceDataset, options: TrainingOptions) -> SequenceSplit:
    """
    Split the sequences into training and validation set.

    Raises:
        SourceError: there is no training sequence, or none of a label.
    """
    validation = dataset.of("validation")
    train = dataset.of("train", None)
    if not train:
        raise SourceError("no video of the split `train` can be used")
    if not validation:
        train, validation = train_validation_split(train, options.validation, options.seed)
    missing = _count(validation).keys() - _count(train).keys()
    if missing:
        names = ", ".join(dataset.labels[index] for index in sorted(missing))
        raise SourceError(f"no video of the split `train` has the label {names}")
    return SequenceSplit(train, validation)


def frame_metrics(
    dataset: SequenceDataset,
    result: TrainingResult,
    parts: SequenceSplit,
    options: TrainingOptions,
) -> dict[str, Any]:
    """Make the content of `metrics.json`."""
    best, labels = result.best, dataset.labels
    return {
        "task": "frames",
        "epochs": len(result.history),
        "best_epoch": best.number,
        "validation": {
            "videos": len(parts.validation),
            "accuracy": best.validation_accuracy,
            "loss": best.validation_loss,
            "learned_afterwards": bool(parts.validation) and options.refit,
        },
        "mirrored": options.mirror_grid > 0,
        "temperature": result.temperature,
        "thresholds": list(result.thresholds) if result.thresholds else None,
        "learned_from": {
            "videos": len(parts.train),
            "frames": sum(int(item.mask.sum()) for item in parts.train),
            "groups": len({item.group for item in parts.train}),
            "frames_of_labels": {
                labels[index]: count for index, count in sorted(_count(parts.train).items())
            },
        },
        "left_out": [dataclasses.asdict(clip) for clip in dataset.skipped],
        "history": [dataclasses.asdict(epoch) for epoch in result.history],
    }


def as_frame_recognizer(
    name: str,
    dataset: SequenceDataset,
    result: TrainingResult,
    training: Sequence[LabelledSequence],
    notes: dict[str, Any],
) -> Recognizer:
    """
    Make a recognizer from a trained model.

    Args:
        name: of the recognizer.
        dataset: gives labels, sampling and backbone.
        result: the model.
        training: sequences from which durations and transitions of labels are counted.
        notes: metadata.
    """
    sequences = dataset.sequences
    return Recognizer(
        name=name,
        labels=dataset.labels,
        sampling=dataset.sampling,
        clips=dataset.windows,
        backbone=dataset.backbone,
        temporal=result.model.options,
        model=result.model,
        temperature=result.temperature,
        notes=notes,
        task="frames",
        multi_label=sequences.multi_label,
        thresholds=result.thresholds,
        background=sequences.background,
        segments=SegmentModel.of(training, len(dataset.labels)),
    )


def _count(sequences: Sequence[LabelledSequence]) -> Counter[int]:
    """Count the frames of each label."""
    return sum((item.label_counts() for item in sequences), Counter[int]())


def _notes(
    dataset: SequenceDataset,
    metrics: dict[str, Any],
    parts: SequenceSplit,
    options: LearningOptions,
) -> dict[str, Any]:
    """Make the metadata of a recognizer: licence, training data, options and metrics."""
    return {
        "licence": licence_note(dataset),
        "training_data": hash_sequences(parts.train, parts.validation),
        "training_videos": sorted({item.video_id for item in parts.all}),
        "training": dataclasses.asdict(options.training),
        "labels": dataclasses.asdict(options.labels),
        "features_fps": options.external.features_fps,
        "metrics": without_history(metrics),
    }
