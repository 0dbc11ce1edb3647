"""
Run a recognizer on stored features: shots, clips, labels of frames, segments.

A video is read chunk by chunk, with one clip and one recurrent state in memory, so videos may have
any length. Many videos are processed at the same time: their sequences are computed in batches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.config import ClipWindows, Sampling
from pipeline.encode.shot_store import Shots
from pipeline.recognition.clip_reader import ClipReader
from pipeline.recognition.frame_reader import FrameReader
from pipeline.recognition.model_batches import ModelInput, ModelOutput, compute
from pipeline.recognition.predictions import Recognition
from pipeline.recognition.recognizer import Recognizer
from pipeline.recognition.windows import Samples, ShotSplitter, first_in
from pipeline.records import FrameFeatures, Seconds


class FrameScorer(Protocol):
    """Scores the frames of one video in order, for example by a novelty model."""

    def score(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score the next frames: features (T, D) to scores (T,), NaN where unknown."""

    def clip_score(self, scores: NDArray[np.float32]) -> float | None:
        """Reduce the scores of the frames of a clip (n,) to one; None if all are unknown."""


Video = Generator[list[ModelInput], list[ModelOutput], Recognition]


def recognize(
    recognizer: Recognizer,
    videos: Sequence[tuple[str, Iterable[FrameFeatures], float]],
    windows: ClipWindows | None = None,
    make_scorer: Callable[[], FrameScorer] | None = None,
    shots: Mapping[str, Shots] | None = None,
) -> list[Recognition]:
    """
    Recognize videos.

    Args:
        recognizer: the model, its labels and sampling.
        videos: id, features in order, and duration in seconds of each.
        windows: how clips are cut; by default as the recognizer says.
        make_scorer: creates a scorer for each video, whose scores become `novelty`.
        shots: by video id; no clip or segment straddles a cut. Cuts that the recognizer finds
            itself are used only for videos without them.

    Returns:
        One recognition per video, in the same order.
    """
    windows, shots = windows or recognizer.clips, shots or {}
    running = {
        number: _recognize_video(
            recognizer,
            *video,
            windows,
            make_scorer() if make_scorer else None,
            shots.get(video[0]),
        )
        for number, video in enumerate(videos)
    }
    done: dict[int, Recognition] = {}
    outputs: dict[int, list[ModelOutput] | None] = dict.fromkeys(running)
    while running:
        requested: dict[int, list[ModelInput]] = {}
        for number, video in list(running.items()):
            try:
                given = outputs[number]
                requested[number] = next(video) if given is None else video.send(given)
            except StopIteration as stop:
                done[number] = stop.value
                del running[number]
        sequences = [sequence for requests in requested.values() for sequence in requests]
        computed = iter(compute(recognizer, sequences))
        outputs = {
            number: [next(computed) for _ in requests] for number, requests in requested.items()
        }
    return [done[number] for number in range(len(videos))]


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
    shots: Shots | None,
) -> Video:
    result = Recognition(video_id)
    splitter = ShotSplitter(shots)
    reader: ClipReader | FrameReader | None = None
    make_reader = FrameReader if recognizer.task == "frames" else ClipReader
    seconds: list[Seconds] = []
    for features in chunks:
        if not len(features.values):
            continue
        shown_on = features.report.one_sample_per_frame
        reader = reader or make_reader(recognizer, windows, result, shown_on=shown_on)
        result.sample_index.append(features.sample_index)
        result.frame_index.append(features.frame_index)
        result.pts_seconds.append(features.pts_seconds)
        samples = Samples(sample_times(features, recognizer.sampling), features.values)
        if scorer is not None:
            seconds.append(samples.seconds)
            result.novelty.append(scorer.score(features.values.astype(np.float32)))
        for chunk in splitter.feed(samples, _cuts(recognizer, samples), features.frame_index):
            yield from reader.read(chunk)
    if reader is None:
        return result
    for chunk in splitter.finish(duration_seconds):
        yield from reader.read(chunk)
    if scorer is not None:
        _score_clips(result, np.concatenate(seconds), scorer, shown_on=shown_on)
    return result


def _cuts(recognizer: Recognizer, samples: Samples) -> NDArray[np.bool_]:
    """Give the samples with which a shot starts, (T,)."""
    cut = recognizer.cut
    if cut is None:
        return np.zeros(len(samples), np.bool_)
    return np.asarray(samples.features[:, cut.feature].astype(np.float32) > cut.threshold)


def _score_clips(
    result: Recognition, seconds: Seconds, scorer: FrameScorer, *, shown_on: bool
) -> None:
    """Set the novelty of each clip from the scores of its frames."""
    scores = np.concatenate(result.novelty)
    for number, clip in enumerate(result.clips):
        first = first_in(seconds, clip.start_seconds, shown_on=shown_on)
        novelty = scorer.clip_score(scores[first : first + clip.num_frames])
        result.clips[number] = dataclasses.replace(clip, novelty=novelty)
