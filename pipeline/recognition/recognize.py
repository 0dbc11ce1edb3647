"""
Run a recognizer over stored features: shots, clips, frames, segments.

A video is read chunk by chunk and remembers one clip and one recurrent state, so its length does
not matter. Many videos advance together: what they want computed in one round is one batch.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.config import ClipWindows, Sampling
from pipeline.recognition.recognizer import Recognizer
from pipeline.recognition.smoothing import runs, smooth
from pipeline.recognition.windows import (
    Features,
    Piece,
    Samples,
    ShotSplitter,
    Window,
    WindowCutter,
)
from pipeline.records import FrameFeatures, Integers, Seconds
from pipeline.temporal.models import State, TemporalModel

BATCH_STEPS = 16_384
"""Steps, padding included, that are computed at once."""
LONGEST_CLIP = 4096
"""Samples after which a model that looks ahead, and so cannot stream, is given the next clip."""

Probabilities = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Clip:
    """What a recognizer says of one clip."""

    shot: int
    start_seconds: float
    end_seconds: float
    num_frames: int
    probabilities: Probabilities
    """(K,)."""
    embedding: NDArray[np.float32]
    """(H,)."""
    novelty: float | None = None
    """Where a novelty model watched, and knew the frames."""


@dataclass(frozen=True, slots=True)
class LabelledRun:
    """Frames of one shot that have the same label after smoothing."""

    shot: int
    start_seconds: float
    end_seconds: float
    label: int
    score: float
    """Mean probability of the label over its frames."""


@dataclass
class Recognition:
    """What a recognizer says of one video."""

    video_id: str
    clips: list[Clip] = field(default_factory=list)
    segments: list[LabelledRun] = field(default_factory=list)
    sample_index: list[Integers] = field(default_factory=list)
    frame_index: list[Integers] = field(default_factory=list)
    pts_seconds: list[Seconds] = field(default_factory=list)
    shots: list[Integers] = field(default_factory=list)
    labels: list[Integers] = field(default_factory=list)
    """Of frames, before smoothing; -1 where no clip holds the frame."""
    scores: list[NDArray[np.float32]] = field(default_factory=list)
    novelty: list[NDArray[np.float32]] = field(default_factory=list)
    """Of frames, NaN where it is not known; empty where no novelty model watched."""


@dataclass(frozen=True)
class _Row:
    """One sequence to be computed."""

    x: Features
    """(L, D)."""
    mask: NDArray[np.bool_]
    """(L,)."""
    state: State | None = None


@dataclass(frozen=True)
class _Answer:
    frames: Probabilities
    """(L, K)."""
    clip: Probabilities
    """(K,)."""
    embedding: NDArray[np.float32]
    """(H,)."""
    state: State | None


Video = Generator[list[_Row], list[_Answer], Recognition]


def recognize(
    recognizer: Recognizer,
    videos: Sequence[tuple[str, Iterable[FrameFeatures], float]],
    windows: ClipWindows | None = None,
) -> list[Recognition]:
    """
    Recognize videos.

    Args:
        recognizer: what says it.
        videos: id, features in order, and duration in seconds of each.
        windows: how clips are cut, where not as the recognizer was made for.

    Returns:
        One recognition a video, in the same order.
    """
    running = {
        number: _recognize_video(recognizer, *video, windows or recognizer.clips)
        for number, video in enumerate(videos)
    }
    done: dict[int, Recognition] = {}
    answers: dict[int, list[_Answer] | None] = dict.fromkeys(running)
    while running:
        asked: dict[int, list[_Row]] = {}
        for number, video in list(running.items()):
            try:
                given = answers[number]
                asked[number] = next(video) if given is None else video.send(given)
            except StopIteration as stop:
                done[number] = stop.value
                del running[number]
        rows = [row for wanted in asked.values() for row in wanted]
        computed = iter(_compute(recognizer, rows))
        answers = {number: [next(computed) for _ in wanted] for number, wanted in asked.items()}
    return [done[number] for number in range(len(videos))]


@torch.inference_mode()
def _compute(recognizer: Recognizer, rows: list[_Row]) -> list[_Answer]:
    """Compute sequences in batches of about equal lengths."""
    answers: dict[int, _Answer] = {}
    order = sorted(range(len(rows)), key=lambda n: len(rows[n].x))
    for batch in _batches(order, rows):
        answered = _compute_batch(recognizer, [rows[n] for n in batch])
        answers.update(zip(batch, answered, strict=True))
    return [answers[n] for n in range(len(rows))]


def _batches(order: list[int], rows: list[_Row]) -> Iterator[list[int]]:
    batch: list[int] = []
    for number in order:
        longest = len(rows[number].x)
        if batch and (len(batch) + 1) * longest > BATCH_STEPS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _compute_batch(recognizer: Recognizer, rows: list[_Row]) -> list[_Answer]:
    model = recognizer.model
    longest = max(len(row.x) for row in rows)
    x = torch.zeros(len(rows), longest, model.feature_size)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for number, row in enumerate(rows):
        x[number, : len(row.x)] = torch.from_numpy(row.x)
        mask[number, : len(row.x)] = torch.from_numpy(row.mask)
    state = None
    if model.streams:
        first = model.initial_state(1)
        state = State.concatenate([row.state or first for row in rows])
        logits, state = model.stream(x, state, mask)
    else:
        logits = model(x, mask)
    frames = torch.softmax(logits.frames / recognizer.temperature, dim=2).numpy()
    clips = torch.softmax(logits.clips / recognizer.temperature, dim=1).numpy()
    embeddings = logits.embeddings.numpy()
    return [
        _Answer(
            frames[number, : len(row.x)],
            clips[number],
            embeddings[number],
            state.select(number) if state else None,
        )
        for number, row in enumerate(rows)
    ]


def sample_times(features: FrameFeatures, sampling: Sampling) -> Seconds:
    """Give the time of each sample, (T,): when it was taken, not when its frame was first shown."""
    if sampling.fps:
        return features.sample_index / sampling.fps
    return features.pts_seconds


def _recognize_video(
    recognizer: Recognizer,
    video_id: str,
    chunks: Iterable[FrameFeatures],
    duration_seconds: float,
    windows: ClipWindows,
) -> Video:
    result = Recognition(video_id)
    reader = _VideoReader(recognizer, windows, result)
    for features in chunks:
        if not len(features.values):
            continue
        result.sample_index.append(features.sample_index)
        result.frame_index.append(features.frame_index)
        result.pts_seconds.append(features.pts_seconds)
        samples = Samples(sample_times(features, recognizer.sampling), features.values)
        for piece in reader.splitter.feed(samples, reader.cuts(samples)):
            yield from reader.read(piece)
    for piece in reader.splitter.finish(duration_seconds):
        yield from reader.read(piece)
    return result


def _typical_gap_seconds(times: Seconds) -> float:
    return float(np.median(np.diff(times))) if len(times) > 1 else 1.0


class _VideoReader:
    """Reads the pieces of one video."""

    def __init__(self, recognizer: Recognizer, windows: ClipWindows, result: Recognition) -> None:
        self.recognizer, self.result = recognizer, result
        self.model: TemporalModel = recognizer.model
        self.windows = windows
        self.splitter = ShotSplitter()
        self._cutter = WindowCutter(windows) if windows.seconds else None
        self._state: State | None = None
        self._seconds: list[Seconds] = []
        self._frames: list[Probabilities] = []

    def cuts(self, samples: Samples) -> NDArray[np.bool_]:
        """Tell at which samples a shot begins, (T,)."""
        cut = self.recognizer.cut
        if cut is None:
            return np.zeros(len(samples), np.bool_)
        return np.asarray(samples.features[:, cut.feature].astype(np.float32) > cut.threshold)

    def read(self, piece: Piece) -> Generator[list[_Row], list[_Answer], None]:
        """Compute a piece of a shot, and what is complete with it."""
        if piece.begins:
            self._state, self._seconds, self._frames = None, [], []
        self._seconds.append(piece.samples.seconds)
        cutter = self._cutter or self._cutter_for_long(piece)
        clips = list(cutter.feed(piece)) if cutter else []
        rows = [_Row(w.samples.features, self._counts(w.first, len(w.samples))) for w in clips]
        if self.model.streams:
            alone = piece.begins and piece.ends
            counts = self._counts(0 if piece.begins else 1, len(piece.samples), alone=alone)
            rows.append(_Row(piece.samples.features, counts, self._state))
        answers = yield rows
        for window, answer in zip(clips, answers, strict=False):
            self._keep_clip(
                window.shot, window.start_seconds, window.end_seconds, len(window.samples), answer
            )
        if self.model.streams:
            self._frames.append(answers[-1].frames)
            self._state = answers[-1].state
        else:
            self._keep_frames(piece, clips, answers)
        if piece.ends:
            if cutter is None:
                start = float(self._seconds[0][0])
                count = sum(map(len, self._seconds))
                self._keep_clip(piece.shot, start, piece.end_seconds, count, answers[-1])
            self._finish_shot(piece)

    def _cutter_for_long(self, piece: Piece) -> WindowCutter | None:
        """Cut what a model that looks ahead cannot take whole."""
        if self.model.streams:
            return None
        if piece.begins:
            fps = self.recognizer.sampling.fps
            step = 1 / fps if fps else _typical_gap_seconds(piece.samples.seconds)
            self._long = WindowCutter(ClipWindows(LONGEST_CLIP * step))
        return self._long

    def _counts(self, first: int, length: int, *, alone: bool = True) -> NDArray[np.bool_]:
        """Tell which samples count: the first of a shot was encoded with a frame of another."""
        counts = np.ones(length, np.bool_)
        if first == 0 and self.recognizer.backbone.context and not (alone and length == 1):
            counts[0] = False
        return counts

    def _keep_clip(self, shot: int, start: float, end: float, count: int, answer: _Answer) -> None:
        self.result.clips.append(Clip(shot, start, end, count, answer.clip, answer.embedding))

    def _keep_frames(self, piece: Piece, windows: list[Window], answers: list[_Answer]) -> None:
        """Average what the clips that hold a frame say of it."""
        known = sum(map(len, self._frames))
        more = sum(map(len, self._seconds)) - known
        self._frames.append(np.zeros((more, self.model.num_labels), np.float32))
        frames = np.concatenate(self._frames)
        for window, answer in zip(windows, answers, strict=True):
            frames[window.first : window.first + len(answer.frames)] += answer.frames
        self._frames = [frames]

    def _finish_shot(self, piece: Piece) -> None:
        frames = np.concatenate(self._frames)  # (n, K)
        if self.model.streams and self.recognizer.backbone.context and len(frames) > 1:
            frames[0] = frames[1]  # it does not count, even where it came in a piece of its own
        times = np.concatenate(self._seconds)
        totals = frames.sum(1, keepdims=True)
        probabilities = frames / np.maximum(totals, 1e-12)
        known = totals[:, 0] > 0
        labels = np.where(known, probabilities.argmax(1), -1)
        self.result.labels.append(labels)
        self.result.scores.append(probabilities.max(1))
        self.result.shots.append(np.full(len(labels), piece.shot))
        log_probabilities = np.log(np.maximum(probabilities, 1e-9)).astype(np.float64)
        smoothed = smooth(log_probabilities, self.recognizer.switch_penalty)
        smoothed = np.where(known, smoothed, -1)
        for start, stop, label in runs(smoothed):
            if label < 0:
                continue
            end = float(times[stop]) if stop < len(times) else piece.end_seconds
            score = float(probabilities[start:stop, label].mean())
            self.result.segments.append(
                LabelledRun(piece.shot, float(times[start]), end, label, score)
            )
