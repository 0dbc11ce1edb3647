"""Evaluate a recognizer of frames: the labels of all frames of whole videos."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from pipeline.evaluation.scores import SequenceScores, score_sequences
from pipeline.evaluation.segmentation import (
    LabelledFrames,
    ReadVideo,
    predict_labelled,
    predict_most_frequent,
)
from pipeline.recognition.recognizer import Recognizer
from pipeline.training.sequence_dataset import SequenceDataset


@dataclass(frozen=True)
class FrameEvaluation:
    """Predictions and metrics of a recognizer of frames, and of the most frequent label."""

    labels: tuple[str, ...]
    sequences: tuple[LabelledFrames, ...]
    """Predictions of the recognizer."""
    methods: tuple[SequenceScores, ...]
    """Of the recognizer first."""
    warnings: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)

    def metrics(self) -> dict[str, Any]:
        """Collect all metrics as plain JSON."""
        return {
            **self.metadata,
            "labels": list(self.labels),
            "videos": len(self.sequences),
            "warnings": list(self.warnings),
            "methods": {
                one.method: [dataclasses.asdict(metrics) for metrics in one.seeds]
                for one in self.methods
            },
        }


def evaluate_frames(
    recognizer: Recognizer, dataset: SequenceDataset, read_video: ReadVideo
) -> FrameEvaluation:
    """
    Evaluate a recognizer of frames, on the split `test` if the labels have one.

    Args:
        recognizer: to evaluate.
        dataset: sequences with its labels.
        read_video: reads the stored features of a video.
    """
    items = dataset.of("test") or list(dataset.sequences.items)
    found = predict_labelled(recognizer, items, read_video)
    background = dataset.sequences.background
    number = None if background is None else dataset.labels.index(background)
    others = [] if recognizer.multi_label else predict_most_frequent(found)
    known = set(recognizer.notes.get("training_videos", ()))
    trained = [item.name for item in items if item.video_id in known]
    warnings = [
        f"{len(trained)} of {len(items)} videos were used in the training of the recognizer, so "
        "its metrics are too optimistic"
    ]
    return FrameEvaluation(
        dataset.labels,
        tuple(found),
        tuple(score_sequences([*found, *others], number)),
        tuple(warnings if trained else ()),
        {"recognizer": recognizer.name, "recognizer_id": recognizer.identity},
    )
