"""
Evaluate a recognizer on labelled clips: its saved weights, or its architecture in cross-validation.

    evaluation = evaluate_saved(recognizer, dataset, read_stored(session.store))
    write_evaluation(evaluation, out)
    write_report(evaluation, out)

In both cases, the baselines predict the same clips.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.errors import OptionError
from pipeline.evaluation.cross_validation import Fold, empty_warnings, group_folds, leak_warnings
from pipeline.evaluation.predictions import (
    FoldResult,
    Predictions,
    cross_validate,
    predict_baselines,
    predict_model,
)
from pipeline.evaluation.scores import (
    MethodScores,
    SequenceScores,
    score_methods,
    score_sequences,
)
from pipeline.evaluation.segmentation import (
    LabelledFrames,
    ReadVideo,
    StoredFeatures,
    find_sequences,
    held_out_parts,
    predict_most_frequent,
    predict_sequences,
)
from pipeline.recognition.recognizer import Recognizer, require_labels
from pipeline.records import merge_reports
from pipeline.storage import printable
from pipeline.temporal.batching import Example, Examples
from pipeline.temporal.options import TrainingOptions
from pipeline.temporal.trainer import TrainingResult
from pipeline.training.build_dataset import LabelledDataset
from pipeline.training.feature_source import FeatureReader
from pipeline.training.train_recognizer import is_mirror_invariant

SAVED_SEED = 0
"""Seed in the results of a saved recognizer, whose training seed does not matter."""
MAX_SINGLE_GROUPS = 10
"""Groups up to which the baselines of a saved recognizer leave one group out per fold; more are
split into as many folds."""


@dataclass(frozen=True)
class Evaluation:
    """Predictions and metrics of a recognizer and the baselines."""

    examples: Examples
    predictions: tuple[Predictions, ...]
    methods: tuple[MethodScores, ...]
    """Of the model first."""
    sequences: tuple[LabelledFrames, ...] = ()
    """Predictions of the model on videos with several labelled parts."""
    sequence_methods: tuple[SequenceScores, ...] = ()
    """Empty without sequences."""
    warnings: tuple[str, ...] = ()
    """Reasons why the metrics may be unreliable."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Recognizer, folds and options, as plain JSON."""


def read_stored(store: FeatureReader) -> ReadVideo:
    """Make a function that reads the stored features of a video."""

    def read(video_id: str) -> StoredFeatures:
        duration = merge_reports(store.reports(video_id)).duration_seconds
        return list(store.stream(video_id)), duration or 0.0

    return read


def require_known_labels(recognizer: Recognizer, labels: Collection[str]) -> None:
    """
    Require that a recognizer has all of these labels.

    Raises:
        OptionError: it lacks one.
    """
    require_labels(recognizer, labels, "use --folds to train its architecture on the new labels")


def training_options(recognizer: Recognizer) -> TrainingOptions:
    """
    Give the options with which a recognizer was trained.

    Raises:
        OptionError: its metadata lacks them, or this version does not support them.
    """
    try:
        return TrainingOptions(**recognizer.notes["training"])
    except (KeyError, TypeError, OptionError) as error:
        raise OptionError(
            f"{recognizer.name} has no valid training options ({error!r}), so it cannot be "
            "trained again: only recognizers made by `clipline train` have them"
        ) from error


def retraining_options(recognizer: Recognizer, labels: Sequence[str]) -> TrainingOptions:
    """
    Give the options for training the architecture of a recognizer on other labels.

    Mirroring is disabled if the labels depend on left and right, unless those of the recognizer do
    as well: then the user enabled it explicitly.

    Raises:
        OptionError: as for `training_options`.
    """
    options = training_options(recognizer)
    if is_mirror_invariant(labels) or not is_mirror_invariant(recognizer.labels):
        return options
    return replace(options, mirror_grid=0)


def make_folds(examples: Examples, count: int) -> list[Fold]:
    """Split examples by their groups, see `group_folds`."""
    groups = [item.group for item in examples.items]
    return group_folds(groups, [examples.labels[item.label] for item in examples.items], count)


def evaluate_saved(
    recognizer: Recognizer, dataset: LabelledDataset, read_video: ReadVideo
) -> Evaluation:
    """
    Evaluate a recognizer with its saved weights, on the split `test` if the labels have one.

    The baselines are trained on the other splits, or else by cross-validation over the groups.

    Args:
        recognizer: to evaluate.
        dataset: labelled clips.
        read_video: reads the stored features of a video.

    Raises:
        OptionError: the recognizer lacks a label.
    """
    labels = dataset.examples.labels
    items = dataset.of("test") or dataset.examples.items
    others = dataset.of("train", "validation") if dataset.of("test") else []
    test = relabel(Examples(tuple(items), labels), recognizer)
    train = relabel(Examples(tuple(others), labels), recognizer)
    everything = Fold("", (), np.zeros(0, np.int64), np.arange(len(items)))
    trained = TrainingResult(recognizer.model, recognizer.temperature, ())
    predictions = predict_model(test, everything, trained, SAVED_SEED)
    baselines, warnings = _baselines(test, train)
    sequences = predict_sequences(
        recognizer, find_sequences(test.items), read_video, seed=SAVED_SEED
    )
    return _evaluation(
        test,
        [*predictions, *baselines],
        sequences,
        [
            *_skipped_warnings(dataset),
            *warnings,
            *_split_warnings(dataset),
            *_overlap_warnings(items, recognizer),
        ],
        {**recognizer_metadata(recognizer), "folds": []},
    )


def relabel(examples: Examples, recognizer: Recognizer) -> Examples:
    """
    Change label indices to those of a recognizer.

    Raises:
        OptionError: it lacks a label.
    """
    labels = recognizer.labels
    require_known_labels(recognizer, {examples.labels[item.label] for item in examples.items})
    index = {label: number for number, label in enumerate(labels)}
    items = [replace(item, label=index[examples.labels[item.label]]) for item in examples.items]
    return Examples(tuple(items), tuple(labels))


def _baselines(test: Examples, train: Examples) -> tuple[list[Predictions], list[str]]:
    """Predict test clips by baselines that are trained on others. Also gives warnings."""
    if train.items:
        count = len(test.items)
        both = Examples(test.items + train.items, test.labels)
        index = np.arange(len(both.items))
        return predict_baselines(both, [Fold("", (), index[count:], index[:count])]), []
    groups = len({item.group for item in test.items})
    try:
        folds = make_folds(test, 0 if groups <= MAX_SINGLE_GROUPS else MAX_SINGLE_GROUPS)
    except OptionError as error:
        return [], [f"no baselines, as there are no clips to train them on: {error}"]
    return predict_baselines(test, folds), []


@dataclass(frozen=True)
class CrossValidation:
    """Folds, training options and number of seeds of a cross-validation."""

    folds: tuple[Fold, ...]
    options: TrainingOptions
    """Of all trainings; `seed` is the first seed."""
    seeds: int = 1
    """Trainings per fold."""

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise OptionError(f"--seeds must be 1 or more, got {self.seeds}")


OnFold = Callable[[FoldResult], None]


def evaluate_folds(
    recognizer: Recognizer,
    dataset: LabelledDataset,
    plan: CrossValidation,
    read_video: ReadVideo,
    on_fold: OnFold | None = None,
) -> Evaluation:
    """
    Evaluate the architecture of a recognizer: train it from scratch in every fold.

    A video with labelled parts in several folds is predicted in each of them, where only the parts
    held out in that fold have targets.

    Args:
        recognizer: gives architecture, sampling and windows; its weights are not used.
        dataset: labelled clips.
        plan: folds and seeds.
        read_video: reads the stored features of a video.
        on_fold: called after each training.
    """
    examples = dataset.examples
    predictions = predict_baselines(examples, plan.folds)
    frames: list[LabelledFrames] = []
    sequences = find_sequences(examples.items)
    temporal = recognizer.temporal
    for result in cross_validate(examples, plan.folds, temporal, plan.options, seeds=plan.seeds):
        predictions += result.predictions
        frames += predict_sequences(
            _retrained(recognizer, examples, result.trained),
            held_out_parts(sequences, result.fold.groups),
            read_video,
            seed=result.seed,
            fold=result.fold.name,
        )
        if on_fold is not None:
            on_fold(result)
    labels = [examples.labels[item.label] for item in examples.items]
    warnings = [
        *_skipped_warnings(dataset),
        *_finetune_warnings(recognizer),
        *_group_warnings(examples),
        *empty_warnings(labels, plan.folds),
        *leak_warnings(examples.items),
    ]
    metadata = {**recognizer_metadata(recognizer), **fold_metadata(plan)}
    return _evaluation(examples, predictions, frames, warnings, metadata)


def _retrained(recognizer: Recognizer, examples: Examples, trained: TrainingResult) -> Recognizer:
    return replace(
        recognizer,
        labels=examples.labels,
        model=trained.model,
        temperature=trained.temperature,
    )


def recognizer_metadata(recognizer: Recognizer) -> dict[str, Any]:
    """Describe a recognizer as plain JSON."""
    return {
        "recognizer": recognizer.name,
        "recognizer_id": recognizer.identity,
        "temporal": dataclasses.asdict(recognizer.temporal),
        "backbone": dataclasses.asdict(recognizer.backbone),
        "sampling": dataclasses.asdict(recognizer.sampling),
    }


def fold_metadata(plan: CrossValidation) -> dict[str, Any]:
    """Describe the folds and options of a cross-validation as plain JSON."""
    folds = [
        {
            "name": fold.name,
            "groups": list(fold.groups),
            "clips_learned": len(fold.train),
            "clips_judged": len(fold.test),
        }
        for fold in plan.folds
    ]
    return {"folds": folds, "seeds": plan.seeds, "training": dataclasses.asdict(plan.options)}


def _skipped_warnings(dataset: LabelledDataset) -> list[str]:
    return [f"row {clip.row} is skipped: {clip.video}: {clip.reason}" for clip in dataset.skipped]


def _split_warnings(dataset: LabelledDataset) -> list[str]:
    """Warn if the labels have splits, but no usable clip of the split `test`."""
    splits = {split for split in dataset.splits if split is not None}
    if not splits or "test" in splits:
        return []
    skipped = len(dataset.skipped)
    return [
        "the split test has no usable clip"
        + f" ({skipped} row{'s' * (skipped != 1)} skipped)" * bool(skipped)
        + ", so the recognizer is evaluated on all clips, of the "
        + f"split{'s' * (len(splits) != 1)} {', '.join(sorted(splits))}"
    ]


def trained_on(recognizer: Recognizer) -> set[str]:
    """Give the ids of the videos on which a recognizer was trained; empty if unknown."""
    return set(recognizer.notes.get("training_videos", ()))


def _overlap_warnings(items: Sequence[Example], recognizer: Recognizer) -> list[str]:
    """Warn about test clips of videos on which the recognizer was trained."""
    known = trained_on(recognizer)
    names = [item.name for item in items if item.video_id in known]
    if not names:
        return []
    first = ", ".join(names[:3]) + ", …" * (len(names) > 3)
    part = "it" if recognizer.network is None else "its temporal model (not the backbone)"
    return [
        f"{len(names)} of {len(items)} clips are of videos on which the recognizer was trained "
        f"({first}), so its metrics are too optimistic; --folds trains {part} without them"
    ]


def _finetune_warnings(recognizer: Recognizer) -> list[str]:
    """Warn that a fine-tuned backbone is not trained again in the folds."""
    if recognizer.network is None:
        return []
    return [
        "the backbone was fine-tuned and stays as it is: in each fold, only the temporal model is "
        "trained again. If the backbone was fine-tuned on these clips, all metrics are too "
        "optimistic, those of the baselines as well: evaluate on other clips (split test), or "
        "train without --fine-tune"
    ]


def _group_warnings(examples: Examples) -> list[str]:
    """Warn if every video is a group, so that related clips may be in different groups."""
    if any(printable(item.group) != item.video for item in examples.items):
        return []
    return [
        "the labels have no column group, so each video is a group: clips of the same scene or "
        "person may be in training and test set at once, and metrics too optimistic"
    ]


def _evaluation(
    examples: Examples,
    predictions: Sequence[Predictions],
    sequences: Sequence[LabelledFrames],
    warnings: Sequence[str],
    metadata: dict[str, Any],
) -> Evaluation:
    first = [one for one in sequences if one.seed == sequences[0].seed]
    return Evaluation(
        examples,
        tuple(predictions),
        tuple(score_methods(examples, predictions)),
        tuple(sequences),
        tuple(score_sequences([*sequences, *predict_most_frequent(first)])),
        tuple(warnings),
        metadata,
    )
