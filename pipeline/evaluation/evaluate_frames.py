"""
Evaluate a recognizer of frames on labelled sequences: its saved weights, or in cross-validation.

    evaluation = evaluate_saved_frames(recognizer, dataset)
    write_frame_evaluation(evaluation, out)
    write_frame_report(evaluation, out)

In both cases, the baselines predict the same sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.errors import OptionError
from pipeline.evaluation.cross_validation import Fold, group_folds
from pipeline.evaluation.evaluate import (
    MAX_SINGLE_GROUPS,
    SAVED_SEED,
    CrossValidation,
    fold_metadata,
    recognizer_metadata,
    trained_on,
)
from pipeline.evaluation.frame_predictions import (
    FrameFoldResult,
    cross_validate,
    predict_baselines,
    predict_sequences,
)
from pipeline.evaluation.predictions import MODEL
from pipeline.evaluation.scores import FoldScores, SequenceScores, score_folds, score_sequences
from pipeline.evaluation.segment_metrics import LabelMetrics, label_metrics
from pipeline.evaluation.segmentation import LabelledFrames
from pipeline.recognition.recognizer import Recognizer
from pipeline.storage import printable
from pipeline.temporal.sequences import LabelledSequence
from pipeline.training.sequence_dataset import SequenceDataset


@dataclass(frozen=True)
class FrameEvaluation:
    """Predictions and metrics of a recognizer of frames and the baselines."""

    labels: tuple[str, ...]
    background: str | None
    """Label that is left out of the metrics of segments."""
    frames: tuple[LabelledFrames, ...]
    """Of all methods and seeds."""
    methods: tuple[SequenceScores, ...]
    """Of the model first."""
    folds: tuple[FoldScores, ...]
    """Of the model in each fold and with each seed; empty for a saved recognizer."""
    classes: tuple[LabelMetrics, ...]
    """Of the model, for each label over all seeds, (K,)."""
    groups: int
    warnings: tuple[str, ...] = ()
    """Reasons why the metrics may be unreliable."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Recognizer, folds and options, as plain JSON."""


def make_sequence_folds(dataset: SequenceDataset, count: int) -> list[Fold]:
    """Split sequences by their groups into folds of about equal sizes, see `group_folds`."""
    groups = [item.group for item in dataset.sequences.items]
    return group_folds(groups, [""] * len(groups), count)


def evaluate_saved_frames(recognizer: Recognizer, dataset: SequenceDataset) -> FrameEvaluation:
    """
    Evaluate a recognizer with its saved weights, on the split `test` if the labels have one.

    The baselines are fitted to the other splits, or else by cross-validation over the groups.

    Args:
        recognizer: to evaluate.
        dataset: labelled sequences, with the labels of the recognizer in its order.
    """
    splits = np.array([split or "" for split in dataset.splits])
    is_test = splits == "test" if (splits == "test").any() else np.ones(len(splits), np.bool_)
    test, others = np.flatnonzero(is_test), np.flatnonzero(~is_test)
    items = [dataset.sequences.items[index] for index in test.tolist()]
    predictions = predict_sequences(recognizer, items, seed=SAVED_SEED)
    warnings = [*_skipped(dataset), *_split_warnings(dataset), *_overlap(items, recognizer)]
    if len(others):
        baselines = predict_baselines(dataset, [Fold("", (), others, test)])
    else:
        baselines, missing = _cross_validated_baselines(dataset)
        warnings += missing
    metadata = {**recognizer_metadata(recognizer), "folds": []}
    return _evaluation(dataset, predictions, baselines, warnings, metadata)


def _cross_validated_baselines(dataset: SequenceDataset) -> tuple[list[LabelledFrames], list[str]]:
    """Predict all sequences by baselines that are fitted to others. Also gives warnings."""
    groups = len({item.group for item in dataset.sequences.items})
    count = 0 if groups <= MAX_SINGLE_GROUPS else MAX_SINGLE_GROUPS
    try:
        folds = make_sequence_folds(dataset, count)
    except OptionError as error:
        return [], [f"no baselines, as there are no videos to train them on: {error}"]
    return predict_baselines(dataset, folds), []


def evaluate_frame_folds(
    recognizer: Recognizer,
    dataset: SequenceDataset,
    plan: CrossValidation,
    on_fold: Callable[[FrameFoldResult], None] | None = None,
) -> FrameEvaluation:
    """
    Evaluate the architecture of a recognizer: train it from scratch in every fold.

    Args:
        recognizer: gives the architecture; its weights are not used.
        dataset: labelled sequences.
        plan: folds and seeds.
        on_fold: called after each training.
    """
    predictions: list[LabelledFrames] = []
    trainings = cross_validate(
        dataset, plan.folds, recognizer.temporal, plan.options, seeds=plan.seeds
    )
    for result in trainings:
        predictions += result.predictions
        if on_fold is not None:
            on_fold(result)
    metadata = {**recognizer_metadata(recognizer), **fold_metadata(plan)}
    warnings = [*_skipped(dataset), *_group_warnings(dataset)]
    return _evaluation(
        dataset, predictions, predict_baselines(dataset, plan.folds), warnings, metadata
    )


def _evaluation(
    dataset: SequenceDataset,
    predictions: Sequence[LabelledFrames],
    baselines: Sequence[LabelledFrames],
    warnings: Sequence[str],
    metadata: dict[str, Any],
) -> FrameEvaluation:
    background = dataset.sequences.background
    index = None if background is None else dataset.labels.index(background)
    frames = (*predictions, *baselines)
    return FrameEvaluation(
        labels=dataset.labels,
        background=background,
        frames=frames,
        methods=tuple(score_sequences(frames, index)),
        folds=tuple(score_folds(predictions, index)) if metadata["folds"] else (),
        classes=tuple(
            label_metrics(
                [one.frame_labels for one in predictions if one.method == MODEL],
                len(dataset.labels),
            )
        ),
        groups=len({item.group for item in dataset.sequences.items}),
        warnings=tuple(warnings),
        metadata=metadata,
    )


def _skipped(dataset: SequenceDataset) -> list[str]:
    return [f"row {one.row} is skipped: {one.video}: {one.reason}" for one in dataset.skipped]


def _split_warnings(dataset: SequenceDataset) -> list[str]:
    """Warn if the labels have splits, but no usable video of the split `test`."""
    splits = sorted({split for split in dataset.splits if split is not None})
    if not splits or "test" in splits:
        return []
    return [
        "the split test has no usable video, so the recognizer is evaluated on all videos, of the "
        f"split{'s' * (len(splits) != 1)} {', '.join(splits)}"
    ]


def _overlap(items: Sequence[LabelledSequence], recognizer: Recognizer) -> list[str]:
    """Warn about test videos on which the recognizer was trained."""
    known = trained_on(recognizer)
    names = [item.name for item in items if item.video_id in known]
    if not names:
        return []
    first = ", ".join(names[:3]) + ", …" * (len(names) > 3)
    return [
        f"the recognizer was trained on {len(names)} of {len(items)} videos ({first}), so its "
        "metrics are too optimistic; --folds trains it without them"
    ]


def _group_warnings(dataset: SequenceDataset) -> list[str]:
    """Warn if every video is a group, so that related videos may be in different groups."""
    if any(printable(item.group) != item.video for item in dataset.sequences.items):
        return []
    return [
        "the labels have no column group, so each video is a group: videos of the same scene or "
        "person may be in training and test set at once, and metrics too optimistic"
    ]
