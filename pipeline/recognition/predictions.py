"""What a recognizer predicts for videos: clips, segments, and labels of frames."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.records import Integers, Seconds

Probabilities = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ClipPrediction:
    """What a recognizer predicts for one clip."""

    shot: int
    start_seconds: float
    end_seconds: float
    num_frames: int
    probabilities: Probabilities
    """(K,)."""
    label: int | None
    """The most likely label; None if several labels are possible at once, and none is above its
    threshold."""
    embedding: NDArray[np.float32] | None
    """(H,); None if the recognizer labels frames."""
    novelty: float | None = None
    """None without a novelty model, or if no frame of the clip has a score."""


@dataclass(frozen=True, slots=True)
class LabelSegment:
    """
    Consecutive frames of one shot that have the same label after smoothing.

    Segments of different labels overlap if several labels are possible at once.
    """

    shot: int
    start_seconds: float
    end_seconds: float
    label: int
    score: float
    """Mean probability of the label over the frames."""


@dataclass
class Recognition:
    """What a recognizer predicts for one video. Arrays of frames come in chunks."""

    video_id: str
    clips: list[ClipPrediction] = field(default_factory=list)
    segments: list[LabelSegment] = field(default_factory=list)
    sample_index: list[Integers] = field(default_factory=list)
    frame_index: list[Integers] = field(default_factory=list)
    pts_seconds: list[Seconds] = field(default_factory=list)
    shots: list[Integers] = field(default_factory=list)
    labels: list[Integers] = field(default_factory=list)
    """Before smoothing; -1 for frames without a label or in no clip."""
    scores: list[NDArray[np.float32]] = field(default_factory=list)
    """Of the labels; NaN if several labels are possible at once and none is above its threshold."""
    novelty: list[NDArray[np.float32]] = field(default_factory=list)
    """NaN for frames without a score; empty without a novelty model."""
