"""
Predict the label of every frame of videos that have several labelled parts.

The recognizer reads a video from its first to its last frame, as `clipline run` does; its segments
are compared with the labelled parts. Frames outside of these are ignored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.predictions import MODEL, PRIOR
from pipeline.evaluation.segment_metrics import NOT_LABELLED, FrameLabels
from pipeline.recognition.predictions import Recognition
from pipeline.recognition.recognize import recognize, sample_times
from pipeline.recognition.recognizer import Recognizer
from pipeline.recognition.windows import EPSILON_SECONDS
from pipeline.records import FrameFeatures, Integers, Seconds
from pipeline.temporal.batching import Example

StoredFeatures = tuple[Sequence[FrameFeatures], float]
"""Features of a video in temporal order, and its duration in seconds."""
ReadVideo = Callable[[str], StoredFeatures]
"""Reads the stored features of a video by its id."""


@dataclass(frozen=True)
class LabelledFrames:
    """
    True and predicted labels of the frames of one video.

    Arrays are (T,), and with several labels at once (T, K) of 0 and 1.
    """

    video: str
    video_id: str
    seed: int
    """Of the training."""
    fold: str
    seconds: Seconds
    target: Integers
    """-1 for frames without a label."""
    predicted: Integers
    """-1 for frames without a prediction."""
    scores: NDArray[np.floating] | None = None
    """Of the predicted label, (T,), or of each label, (T, K); None if there are none."""
    method: str = MODEL

    @property
    def frame_labels(self) -> FrameLabels:
        """What metrics are computed from."""
        scores = np.ones(self.predicted.shape) if self.scores is None else self.scores
        return FrameLabels(self.target, self.predicted, scores)


def find_sequences(items: Sequence[Example]) -> list[list[Example]]:
    """Group the clips of each video with several labelled parts, in temporal order."""
    videos: dict[str, list[Example]] = defaultdict(list)
    for item in items:
        videos[item.video_id].append(item)
    return [
        sorted(parts, key=lambda part: part.start_seconds)
        for parts in videos.values()
        if len(parts) > 1
    ]


def held_out_parts(
    sequences: Sequence[Sequence[Example]], groups: Collection[str]
) -> list[list[Example]]:
    """Keep the labelled parts of some groups, by video; videos without such parts are dropped."""
    parts = [[part for part in sequence if part.group in groups] for sequence in sequences]
    return [found for found in parts if found]


def predict_sequences(
    recognizer: Recognizer,
    sequences: Sequence[Sequence[Example]],
    read_video: ReadVideo,
    *,
    seed: int = 0,
    fold: str = "",
) -> list[LabelledFrames]:
    """
    Predict the labels of all frames of videos.

    Args:
        recognizer: its labels are those of the examples.
        sequences: labelled parts of each video; only their frames get a target.
        read_video: reads the stored features of a video.
        seed: stored in the results.
        fold: stored in the results.
    """
    videos = [(parts[0].video_id, *read_video(parts[0].video_id)) for parts in sequences]
    recognitions = recognize(recognizer, videos)
    found = []
    for parts, (_, features, _), recognition in zip(sequences, videos, recognitions, strict=True):
        seconds = _seconds(recognizer, features)
        predicted, scores = _predicted(recognition, seconds)
        found.append(
            LabelledFrames(
                video=parts[0].video,
                video_id=parts[0].video_id,
                seed=seed,
                fold=fold,
                seconds=seconds,
                target=_target(parts, seconds),
                predicted=predicted,
                scores=scores,
            )
        )
    return found


def _seconds(recognizer: Recognizer, features: Iterable[FrameFeatures]) -> Seconds:
    return np.concatenate([sample_times(part, recognizer.sampling) for part in features])


def _target(parts: Iterable[Example], seconds: Seconds) -> Integers:
    labels = np.full(len(seconds), NOT_LABELLED)
    for part in parts:
        labels[_frames_between(seconds, part.start_seconds, part.end_seconds)] = part.label
    return labels


def _predicted(recognition: Recognition, seconds: Seconds) -> tuple[Integers, Seconds]:
    """Give the label and the score of the segment that contains each frame."""
    labels, scores = np.full(len(seconds), NOT_LABELLED), np.zeros(len(seconds))
    for segment in recognition.segments:
        frames = _frames_between(seconds, segment.start_seconds, segment.end_seconds)
        labels[frames], scores[frames] = segment.label, segment.score
    return labels, scores


def _frames_between(seconds: Seconds, start: float, end: float) -> slice:
    """Select the frames of [start, end), with the tolerance of clip windows."""
    first, stop = np.searchsorted(seconds, np.array([start, end]) - EPSILON_SECONDS)
    return slice(int(first), int(stop))


def predict_most_frequent(sequences: Sequence[LabelledFrames]) -> list[LabelledFrames]:
    """Predict the most frequent target for every frame, as a baseline."""
    if not sequences:
        return []
    targets = np.concatenate([one.target[one.target >= 0] for one in sequences])
    label = int(np.bincount(targets).argmax())
    return [
        replace(
            one,
            predicted=np.full_like(one.predicted, label),
            scores=np.full(one.predicted.shape, (targets == label).mean()),
            method=PRIOR,
        )
        for one in sequences
    ]
