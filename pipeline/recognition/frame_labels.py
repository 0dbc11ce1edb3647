"""Labels and segments of the frames of a shot, from their probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.recognition.predictions import LabelSegment, Probabilities, Recognition
from pipeline.recognition.recognizer import Recognizer
from pipeline.recognition.smoothing import smooth
from pipeline.recognition.windows import run_length_encode
from pipeline.records import Integers, Seconds

MIN_PROBABILITY = 1e-9
"""Lower limit of the probabilities of frames, so that their logarithms are finite."""


@dataclass(frozen=True, slots=True)
class ShotFrames:
    """The frames of one shot, and the probabilities of their labels."""

    shot: int
    seconds: Seconds
    """(T,)."""
    span_seconds: tuple[float, float]
    """Start and end of the shot."""
    probabilities: Probabilities
    """(T, K)."""
    known: NDArray[np.bool_]
    """Whether there are probabilities, (T,)."""


def best_labels(recognizer: Recognizer, probabilities: Probabilities) -> Integers:
    """
    Give the most likely label of each row, (n, K) → (n,).

    With `multi_label` it is the most likely one of those above their thresholds, or -1.
    """
    if not recognizer.multi_label:
        return np.asarray(probabilities.argmax(1))
    above = probabilities >= np.asarray(label_thresholds(recognizer), np.float32)
    best = np.where(above, probabilities, -1).argmax(1)
    return np.asarray(np.where(above.any(1), best, -1))


def label_thresholds(recognizer: Recognizer) -> tuple[float, ...]:
    """Give the threshold of each label, (K,), of a recognizer with `multi_label`."""
    return recognizer.thresholds or (0.5,) * len(recognizer.labels)


def decode_labels(
    recognizer: Recognizer, probabilities: Probabilities, step_seconds: float
) -> Integers:
    """
    Smooth the labels of consecutive frames.

    Args:
        recognizer: decodes with its durations and transitions, or else with its switch penalty.
        probabilities: (T, K).
        step_seconds: time between two frames.

    Returns:
        Labels (T,), or with `multi_label` whether the frame has each label, (T, K), 0 or 1.
    """
    if recognizer.segments is not None:
        thresholds = label_thresholds(recognizer) if recognizer.multi_label else None
        return recognizer.segments.decode(probabilities, step_seconds, thresholds)
    if not recognizer.multi_label:
        given = np.log(np.maximum(probabilities, MIN_PROBABILITY)).astype(np.float64)
        return smooth(given, recognizer.switch_penalty)
    given, columns = probabilities.astype(np.float64), []
    for label, threshold in enumerate(label_thresholds(recognizer)):
        # scaled so that both states are equally likely at the threshold
        on, off = given[:, label] * (1 - threshold), (1 - given[:, label]) * threshold
        states = np.log(np.maximum(np.stack([off, on], axis=1), MIN_PROBABILITY))
        columns.append(smooth(states, recognizer.switch_penalty))
    return np.stack(columns, axis=1)


def find_segments(recognizer: Recognizer, frames: ShotFrames) -> list[LabelSegment]:
    """Find the segments of a shot, by start; those of unknown frames are left out."""
    if not len(frames.seconds):
        return []
    step_seconds = median_gap_seconds(frames.seconds)
    labels = decode_labels(recognizer, frames.probabilities, step_seconds)
    if labels.ndim == 1:
        runs = run_length_encode(np.where(frames.known, labels, -1))
        found = [run for run in runs if run[2] >= 0]
    else:
        found = sorted(
            (start, stop, label)
            for label, column in enumerate(labels.T)
            for start, stop, on in run_length_encode(np.where(frames.known, column, 0))
            if on
        )
    edges = np.concatenate([frames.span_seconds[:1], frames.seconds[1:], frames.span_seconds[1:]])
    return [
        LabelSegment(
            frames.shot,
            float(edges[start]),
            float(edges[stop]),
            label,
            float(frames.probabilities[start:stop, label].mean()),
        )
        for start, stop, label in found
    ]


def add_shot(recognizer: Recognizer, frames: ShotFrames, result: Recognition) -> None:
    """Add the labels of the frames of a shot, and its segments."""
    labels = np.where(frames.known, best_labels(recognizer, frames.probabilities), -1)
    scores = frames.probabilities.max(1)
    if recognizer.multi_label:
        rows = np.arange(len(labels))
        scores = np.where(labels < 0, np.nan, frames.probabilities[rows, labels])
    result.labels.append(labels)
    result.scores.append(scores.astype(np.float32))
    result.shots.append(np.full(len(labels), frames.shot))
    result.segments += find_segments(recognizer, frames)


def median_gap_seconds(times: Seconds) -> float:
    """Give the median time between samples, (T,); 1 for a single one."""
    gaps = np.diff(times)
    return float(np.median(gaps)) if len(gaps) and np.median(gaps) > 0 else 1.0
