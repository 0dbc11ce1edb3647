"""
Label whole videos, frame by frame, where people have labelled several parts of each.

The recognizer reads such a video from its first frame to its last, as `run` does, and its segments
are held against the labelled parts. Frames that nobody has labelled count nowhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.evaluation.metrics import NOT_LABELLED
from pipeline.recognition.recognize import Recognition, recognize, sample_times
from pipeline.recognition.recognizer import Recognizer
from pipeline.recognition.windows import EPSILON_SECONDS
from pipeline.records import FrameFeatures, Integers, Seconds
from pipeline.temporal.batching import Example

Stored = tuple[Sequence[FrameFeatures], float]
"""Features of a video in order, and its duration in seconds."""
ReadVideo = Callable[[str], Stored]
"""Gives what is stored of a video, by its id."""


@dataclass(frozen=True)
class LabelledFrames:
    """One video: what its frames are, and what was said of them. All arrays are (T,)."""

    video: str
    video_id: str
    seed: int
    """Of the training."""
    fold: str
    seconds: Seconds
    truth: Integers
    """-1 where nobody has labelled the frame."""
    said: Integers
    """-1 where the recognizer says nothing."""


def find_sequences(items: Sequence[Example]) -> list[list[Example]]:
    """Give the parts of each video that has several labelled ones, in the order of time."""
    videos: dict[str, list[Example]] = defaultdict(list)
    for item in items:
        videos[item.video_id].append(item)
    return [
        sorted(parts, key=lambda part: part.start_seconds)
        for parts in videos.values()
        if len(parts) > 1
    ]


def video_of(item: Example) -> str:
    """Give the name of the video that a clip is a part of."""
    return item.name.removesuffix(f" [{item.start_seconds:g}, {item.end_seconds:g})")


def label_sequences(
    recognizer: Recognizer,
    sequences: Sequence[Sequence[Example]],
    read_video: ReadVideo,
    *,
    seed: int = 0,
    fold: str = "",
) -> list[LabelledFrames]:
    """
    Label the frames of videos.

    Args:
        recognizer: what says it; its labels are those of the examples.
        sequences: the labelled parts of each video.
        read_video: gives what is stored of a video.
        seed: kept with the answers.
        fold: kept with the answers.
    """
    asked = [(parts[0].video_id, *read_video(parts[0].video_id)) for parts in sequences]
    answers = recognize(recognizer, asked)
    return [
        LabelledFrames(
            video=video_of(parts[0]),
            video_id=parts[0].video_id,
            seed=seed,
            fold=fold,
            seconds=(seconds := _seconds(recognizer, features)),
            truth=_truth(parts, seconds),
            said=_said(answer, seconds),
        )
        for parts, (_, features, _), answer in zip(sequences, asked, answers, strict=True)
    ]


def _seconds(recognizer: Recognizer, features: Iterable[FrameFeatures]) -> Seconds:
    return np.concatenate([sample_times(part, recognizer.sampling) for part in features])


def _truth(parts: Iterable[Example], seconds: Seconds) -> Integers:
    labels = np.full(len(seconds), NOT_LABELLED)
    for part in parts:
        labels[_within(seconds, part.start_seconds, part.end_seconds)] = part.label
    return labels


def _said(answer: Recognition, seconds: Seconds) -> Integers:
    labels = np.full(len(seconds), NOT_LABELLED)
    for run in answer.segments:
        labels[_within(seconds, run.start_seconds, run.end_seconds)] = run.label
    return labels


def _within(seconds: Seconds, start: float, end: float) -> slice:
    """Give the frames of [start, end), as windows are cut."""
    first, stop = np.searchsorted(seconds, np.array([start, end]) - EPSILON_SECONDS)
    return slice(int(first), int(stop))


def guess_most_frequent(videos: Sequence[LabelledFrames]) -> list[LabelledFrames]:
    """Say of every frame the label that most labelled frames have: what chance is worth."""
    known = np.concatenate([video.truth[video.truth >= 0] for video in videos])
    best = int(np.bincount(known).argmax())
    return [replace(video, said=np.full_like(video.said, best)) for video in videos]
