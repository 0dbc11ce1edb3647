"""
Predictions of the labels of frames: by a recognizer, with shuffled frames, and in cross-validation.

With shuffled frames, the same model reads the frames in random order, and its probabilities are put
back in order before they are decoded: what it gets from single frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.cross_validation import Fold
from pipeline.evaluation.frame_baselines import labelled_frames, predict_frame_baselines
from pipeline.evaluation.predictions import MODEL, SHUFFLED_FRAMES, FoldTask, fold_tasks
from pipeline.evaluation.segmentation import LabelledFrames
from pipeline.evaluation.side_by_side import parallel_trainings, run_trainings
from pipeline.recognition.frame_labels import decode_labels, median_gap_seconds
from pipeline.recognition.frame_probabilities import predict_frames
from pipeline.recognition.recognizer import Recognizer
from pipeline.temporal.options import TemporalOptions, TrainingOptions
from pipeline.temporal.schedule import train_validation_split
from pipeline.temporal.sequence_trainer import fit_sequences
from pipeline.temporal.sequences import LabelledSequence
from pipeline.training.sequence_dataset import SequenceDataset
from pipeline.training.train_frames import as_frame_recognizer


def predict_sequences(
    recognizer: Recognizer, items: Sequence[LabelledSequence], *, seed: int = 0, fold: str = ""
) -> list[LabelledFrames]:
    """Predict the labels of the frames of sequences by a recognizer, in order and shuffled."""
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(item.features)) for item in items]
    found = []
    for method in (MODEL, SHUFFLED_FRAMES):
        shuffled = method == SHUFFLED_FRAMES
        pairs = zip(items, orders, strict=True)
        inputs = [item.features[order] if shuffled else item.features for item, order in pairs]
        predictions = predict_frames(recognizer, inputs)
        for item, order, probabilities in zip(items, orders, predictions, strict=True):
            given = _restore(probabilities, order) if shuffled else probabilities
            labels = decode_labels(recognizer, given, median_gap_seconds(item.seconds))
            one = labelled_frames(item, labels, given)
            found.append(replace(one, method=method, seed=seed, fold=fold))
    return found


def _restore(values: NDArray[np.float32], order: NDArray[np.int64]) -> NDArray[np.float32]:
    """Undo a permutation of rows."""
    restored = np.empty_like(values)
    restored[order] = values
    return restored


def predict_baselines(dataset: SequenceDataset, folds: Sequence[Fold]) -> list[LabelledFrames]:
    """Fit the baselines on the training set of each fold, and predict its test sequences."""
    by_method: dict[str, list[LabelledFrames]] = {}
    for fold in folds:
        train, test = _sides(dataset, fold)
        for method, frames in predict_frame_baselines(train, test, len(dataset.labels)).items():
            named = [replace(one, method=method, fold=fold.name) for one in frames]
            by_method.setdefault(method, []).extend(named)
    return [one for frames in by_method.values() for one in frames]


def _sides(
    dataset: SequenceDataset, fold: Fold
) -> tuple[list[LabelledSequence], list[LabelledSequence]]:
    """Give training and test set of a fold."""
    items = dataset.sequences.items
    return [items[n] for n in fold.train.tolist()], [items[n] for n in fold.test.tolist()]


@dataclass(frozen=True)
class FrameFoldResult:
    """Predictions of the model that was trained on one fold with one seed."""

    fold: Fold
    seed: int
    accuracy: float
    """Of the model on labelled frames of the test sequences; with several labels, of each."""
    predictions: tuple[LabelledFrames, ...]


def cross_validate(
    dataset: SequenceDataset,
    folds: Sequence[Fold],
    temporal: TemporalOptions,
    options: TrainingOptions,
    *,
    seeds: int = 1,
) -> Iterator[FrameFoldResult]:
    """
    Train a model on every fold with every seed, and predict the test sequences.

    Trainings run side by side, see `run_trainings`.

    Args:
        dataset: labelled sequences.
        folds: training and test sets.
        temporal: the architecture.
        options: of the trainings; `seed` is the first seed.
        seeds: trainings per fold.

    Yields:
        The result of each training when it and those before it are done.
    """
    tasks = fold_tasks(folds, temporal, options, seeds)
    yield from run_trainings(_run_fold, dataset, tasks, parallel_trainings(options))


def _run_fold(dataset: SequenceDataset, task: FoldTask) -> FrameFoldResult:
    """Train a model on a fold as `clipline train` would, and predict its test sequences."""
    items, test = _sides(dataset, task.fold)
    options = task.options
    train, validation = train_validation_split(items, options.validation, options.seed)
    result = fit_sequences(
        train, len(dataset.labels), task.temporal, options, validation=validation
    )
    recognizer = as_frame_recognizer("fold", dataset, result, items, {})
    predictions = predict_sequences(recognizer, test, seed=options.seed, fold=task.fold.name)
    return FrameFoldResult(task.fold, options.seed, _accuracy(predictions), tuple(predictions))


def _accuracy(predictions: Sequence[LabelledFrames]) -> float:
    model = [one for one in predictions if one.method == MODEL]
    known = np.concatenate([one.target >= 0 for one in model])
    correct = np.concatenate([one.target == one.predicted for one in model])
    return float(correct[known].mean()) if known.any() else 0.0
