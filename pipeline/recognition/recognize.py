"""
Run a recognizer on stored features: shots, clips, labels of frames, segments.

A video is read chunk by chunk, with one clip and one recurrent state in memory, so videos may have
any length. Many videos are processed at the same time: their sequences are computed in batches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.config import ClipWindows, Sampling
from pipeline.recognition.recognizer import Recognizer
from pipeline.recognition.smoothing import smooth
from pipeline.recognition.windows import (
    ClipWindow,
    FeatureArray,
    Samples,
    ShotChunk,
    ShotSplitter,
    WindowCutter,
    first_in,
    run_length_encode,
)
from pipeline.records import FrameFeatures, Integers, Seconds
from pipeline.temporal.models import State, TemporalModel

MAX_BATCH_STEPS = 16_384
"""Steps of a batch, padding included."""
MAX_CLIP_SAMPLES = 4096
"""Longer shots are split into clips of this length for models that need whole clips."""

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
    embedding: NDArray[np.float32]
    """(H,)."""
    novelty: float | None = None
    """None without a novelty model, or if no frame of the clip has a score."""


@dataclass(frozen=True, slots=True)
class LabelSegment:
    """Consecutive frames of one shot that have the same label after smoothing."""

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
    """Before smoothing; -1 for frames that are in no clip."""
    scores: list[NDArray[np.float32]] = field(default_factory=list)
    novelty: list[NDArray[np.float32]] = field(default_factory=list)
    """NaN for frames without a score; empty without a novelty model."""


class FrameScorer(Protocol):
    """Scores the frames of one video in order, for example by a novelty model."""

    def score(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score the next frames: features (T, D) to scores (T,), NaN where unknown."""

    def clip_score(self, scores: NDArray[np.float32]) -> float | None:
        """Reduce the scores of the frames of a clip (n,) to one; None if all are unknown."""


@dataclass(frozen=True)
class _Sequence:
    """Input of the model."""

    x: FeatureArray
    """(L, D)."""
    mask: NDArray[np.bool_]
    """(L,)."""
    state: State | None = None


@dataclass(frozen=True)
class _Output:
    """Output of the model for one sequence."""

    frames: Probabilities
    """(L, K)."""
    clip: Probabilities
    """(K,)."""
    embedding: NDArray[np.float32]
    """(H,)."""
    state: State | None


Video = Generator[list[_Sequence], list[_Output], Recognition]


def recognize(
    recognizer: Recognizer,
    videos: Sequence[tuple[str, Iterable[FrameFeatures], float]],
    windows: ClipWindows | None = None,
    make_scorer: Callable[[], FrameScorer] | None = None,
) -> list[Recognition]:
    """
    Recognize videos.

    Args:
        recognizer: the model, its labels and sampling.
        videos: id, features in order, and duration in seconds of each.
        windows: how clips are cut; by default as the recognizer says.
        make_scorer: creates a scorer for each video, whose scores become `novelty`.

    Returns:
        One recognition per video, in the same order.
    """
    running = {
        number: _recognize_video(
            recognizer, *video, windows or recognizer.clips, make_scorer() if make_scorer else None
        )
        for number, video in enumerate(videos)
    }
    done: dict[int, Recognition] = {}
    outputs: dict[int, list[_Output] | None] = dict.fromkeys(running)
    while running:
        requested: dict[int, list[_Sequence]] = {}
        for number, video in list(running.items()):
            try:
                given = outputs[number]
                requested[number] = next(video) if given is None else video.send(given)
            except StopIteration as stop:
                done[number] = stop.value
                del running[number]
        sequences = [sequence for requests in requested.values() for sequence in requests]
        computed = iter(_compute(recognizer, sequences))
        outputs = {
            number: [next(computed) for _ in requests] for number, requests in requested.items()
        }
    return [done[number] for number in range(len(videos))]


@torch.inference_mode()
def _compute(recognizer: Recognizer, sequences: list[_Sequence]) -> list[_Output]:
    """Compute sequences in batches of about equal lengths."""
    outputs: dict[int, _Output] = {}
    order = sorted(range(len(sequences)), key=lambda n: len(sequences[n].x))
    for batch in _batches(order, sequences):
        batch_outputs = _compute_batch(recognizer, [sequences[n] for n in batch])
        outputs.update(zip(batch, batch_outputs, strict=True))
    return [outputs[n] for n in range(len(sequences))]


def _batches(order: list[int], sequences: list[_Sequence]) -> Iterator[list[int]]:
    batch: list[int] = []
    for number in order:
        longest = len(sequences[number].x)
        if batch and (len(batch) + 1) * longest > MAX_BATCH_STEPS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _compute_batch(recognizer: Recognizer, sequences: list[_Sequence]) -> list[_Output]:
    model = recognizer.model
    longest = max(len(sequence.x) for sequence in sequences)
    x = torch.zeros(len(sequences), longest, model.feature_size)
    mask = torch.zeros(len(sequences), longest, dtype=torch.bool)
    for number, sequence in enumerate(sequences):
        x[number, : len(sequence.x)] = torch.from_numpy(sequence.x)
        mask[number, : len(sequence.x)] = torch.from_numpy(sequence.mask)
    state = None
    if model.streams:
        initial = model.initial_state(1)
        state = State.concatenate([sequence.state or initial for sequence in sequences])
        logits, state = model.stream(x, state, mask)
    else:
        logits = model(x, mask)
    frames = torch.softmax(logits.frames / recognizer.temperature, dim=2).numpy()
    clips = torch.softmax(logits.clips / recognizer.temperature, dim=1).numpy()
    embeddings = logits.embeddings.numpy()
    return [
        _Output(
            frames[number, : len(sequence.x)],
            clips[number],
            embeddings[number],
            state.select(number) if state else None,
        )
        for number, sequence in enumerate(sequences)
    ]


def sample_times(features: FrameFeatures, sampling: Sampling) -> Seconds:
    """
    Give the time of each sample, (T,): its sampling time, not when its frame was displayed.

    Where each frame is one sample, its time is that from which the frame is displayed.
    """
    if sampling.fps and not features.report.one_sample_per_frame:
        return features.sample_index / sampling.fps
    return features.pts_seconds


def _recognize_video(
    recognizer: Recognizer,
    video_id: str,
    chunks: Iterable[FrameFeatures],
    duration_seconds: float,
    windows: ClipWindows,
    scorer: FrameScorer | None,
) -> Video:
    result = Recognition(video_id)
    reader: _VideoReader | None = None
    seconds: list[Seconds] = []
    for features in chunks:
        if not len(features.values):
            continue
        shown_on = features.report.one_sample_per_frame
        reader = reader or _VideoReader(recognizer, windows, result, shown_on=shown_on)
        result.sample_index.append(features.sample_index)
        result.frame_index.append(features.frame_index)
        result.pts_seconds.append(features.pts_seconds)
        samples = Samples(sample_times(features, recognizer.sampling), features.values)
        if scorer is not None:
            seconds.append(samples.seconds)
            result.novelty.append(scorer.score(features.values.astype(np.float32)))
        for chunk in reader.splitter.feed(samples, reader.cuts(samples)):
            yield from reader.read(chunk)
    if reader is None:
        return result
    for chunk in reader.splitter.finish(duration_seconds):
        yield from reader.read(chunk)
    if scorer is not None:
        _score_clips(result, np.concatenate(seconds), scorer, shown_on=reader.shown_on)
    return result


def _score_clips(
    result: Recognition, seconds: Seconds, scorer: FrameScorer, *, shown_on: bool
) -> None:
    """Set the novelty of each clip from the scores of its frames."""
    scores = np.concatenate(result.novelty)
    for number, clip in enumerate(result.clips):
        first = first_in(seconds, clip.start_seconds, shown_on=shown_on)
        novelty = scorer.clip_score(scores[first : first + clip.num_frames])
        result.clips[number] = dataclasses.replace(clip, novelty=novelty)


def _median_gap_seconds(times: Seconds) -> float:
    return float(np.median(np.diff(times))) if len(times) > 1 else 1.0


class _VideoReader:
    """Processes the chunks of one video; `shown_on`: each sample is shown until the next one."""

    def __init__(
        self, recognizer: Recognizer, windows: ClipWindows, result: Recognition, *, shown_on: bool
    ) -> None:
        self.recognizer, self.result, self.shown_on = recognizer, result, shown_on
        self.model: TemporalModel = recognizer.model
        self.splitter = ShotSplitter()
        self._cutter = WindowCutter(windows, shown_on=shown_on) if windows.seconds else None
        self._state: State | None = None
        self._seconds: list[Seconds] = []
        self._frames: list[Probabilities] = []

    def cuts(self, samples: Samples) -> NDArray[np.bool_]:
        """Give the samples with which a shot starts, (T,)."""
        cut = self.recognizer.cut
        if cut is None:
            return np.zeros(len(samples), np.bool_)
        return np.asarray(samples.features[:, cut.feature].astype(np.float32) > cut.threshold)

    def read(self, chunk: ShotChunk) -> Generator[list[_Sequence], list[_Output], None]:
        """Compute a chunk of a shot, and the clips that are complete with it."""
        if chunk.starts_shot:
            self._state, self._seconds, self._frames = None, [], []
        self._seconds.append(chunk.samples.seconds)
        cutter = self._cutter or self._cutter_for_whole_clips(chunk)
        clips = list(cutter.feed(chunk)) if cutter else []
        sequences = [
            _Sequence(w.samples.features, self._mask(w.first, len(w.samples))) for w in clips
        ]
        if self.model.streams:
            is_shot = chunk.starts_shot and chunk.ends_shot
            first = 0 if chunk.starts_shot else 1
            mask = self._mask(first, len(chunk.samples), is_whole=is_shot)
            sequences.append(_Sequence(chunk.samples.features, mask, self._state))
        outputs = yield sequences
        for window, output in zip(clips, outputs, strict=False):
            self._add_clip(
                window.shot, window.start_seconds, window.end_seconds, len(window.samples), output
            )
        if self.model.streams:
            self._frames.append(outputs[-1].frames)
            self._state = outputs[-1].state
        else:
            self._add_frames(clips, outputs)
        if chunk.ends_shot:
            if cutter is None:
                start = float(self._seconds[0][0])
                count = sum(map(len, self._seconds))
                self._add_clip(chunk.shot, start, chunk.end_seconds, count, outputs[-1])
            self._finish_shot(chunk)

    def _cutter_for_whole_clips(self, chunk: ShotChunk) -> WindowCutter | None:
        """Give a cutter that limits the length of clips, if the model cannot stream."""
        if self.model.streams:
            return None
        if chunk.starts_shot:
            fps = None if self.shown_on else self.recognizer.sampling.fps
            gap = 1 / fps if fps else _median_gap_seconds(chunk.samples.seconds)
            self._limiting_cutter = WindowCutter(ClipWindows(MAX_CLIP_SAMPLES * gap))
        return self._limiting_cutter

    def _mask(self, first: int, length: int, *, is_whole: bool = True) -> NDArray[np.bool_]:
        """
        Mask the first sample of a shot if the backbone encoded it with a frame of another shot.

        Args:
            first: index within the shot of the first sample.
            length: number of samples.
            is_whole: whether these samples are all of their clip or shot: a single one is kept.
        """
        mask = np.ones(length, np.bool_)
        if first == 0 and self.recognizer.backbone.context and not (is_whole and length == 1):
            mask[0] = False
        return mask

    def _add_clip(self, shot: int, start: float, end: float, count: int, output: _Output) -> None:
        self.result.clips.append(
            ClipPrediction(shot, start, end, count, output.clip, output.embedding)
        )

    def _add_frames(self, windows: list[ClipWindow], outputs: list[_Output]) -> None:
        """Sum up the probabilities of frames over the clips that contain them."""
        known = sum(map(len, self._frames))
        more = sum(map(len, self._seconds)) - known
        self._frames.append(np.zeros((more, self.model.num_labels), np.float32))
        frames = np.concatenate(self._frames)
        for window, output in zip(windows, outputs, strict=True):
            frames[window.first : window.first + len(output.frames)] += output.frames
        self._frames = [frames]

    def _finish_shot(self, chunk: ShotChunk) -> None:
        """Add the labels of the frames of a shot, and its segments."""
        frames = np.concatenate(self._frames)  # (n, K)
        if self.model.streams and self.recognizer.backbone.context and len(frames) > 1:
            frames[0] = frames[1]  # masked: it has no prediction of its own
        times = np.concatenate(self._seconds)
        totals = frames.sum(1, keepdims=True)
        probabilities = frames / np.maximum(totals, 1e-12)
        known = totals[:, 0] > 0
        labels = np.where(known, probabilities.argmax(1), -1)
        self.result.labels.append(labels)
        self.result.scores.append(probabilities.max(1))
        self.result.shots.append(np.full(len(labels), chunk.shot))
        log_probabilities = np.log(np.maximum(probabilities, 1e-9)).astype(np.float64)
        smoothed = smooth(log_probabilities, self.recognizer.switch_penalty)
        smoothed = np.where(known, smoothed, -1)
        for start, stop, label in run_length_encode(smoothed):
            if label < 0:
                continue
            end = float(times[stop]) if stop < len(times) else chunk.end_seconds
            score = float(probabilities[start:stop, label].mean())
            self.result.segments.append(
                LabelSegment(chunk.shot, float(times[start]), end, label, score)
            )
