"""Read the shots of a video for a recognizer of clips: its model labels each clip."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from pipeline.config import ClipWindows
from pipeline.recognition.frame_labels import (
    ShotFrames,
    add_shot,
    best_labels,
    median_gap_seconds,
)
from pipeline.recognition.model_batches import ModelInput, ModelOutput
from pipeline.recognition.predictions import ClipPrediction, Probabilities, Recognition
from pipeline.recognition.recognizer import Recognizer
from pipeline.recognition.windows import ClipWindow, ShotChunk, WindowCutter, shot_mask
from pipeline.records import Integers, Seconds
from pipeline.temporal.models import State, TemporalModel

MAX_CLIP_SAMPLES = 4096
"""Longer shots are split into clips of this length for models that need whole clips."""


class ClipReader:
    """
    Reads the shots of one video for a recognizer of clips.

    Args:
        recognizer: whose model labels clips.
        windows: how clips are cut.
        result: gets what is predicted.
        shown_on: each sample is shown until the next one.
    """

    def __init__(
        self, recognizer: Recognizer, windows: ClipWindows, result: Recognition, *, shown_on: bool
    ) -> None:
        self.recognizer, self.result, self.shown_on = recognizer, result, shown_on
        self.model: TemporalModel = recognizer.model
        self._cutter = WindowCutter(windows, shown_on=shown_on) if windows.seconds else None
        self._state: State | None = None
        self._seconds: list[Seconds] = []
        self._frames: list[Probabilities] = []
        self._clips: list[Integers] = []

    def read(self, chunk: ShotChunk) -> Generator[list[ModelInput], list[ModelOutput], None]:
        """Compute a chunk of a shot, and the clips that are complete with it."""
        if chunk.starts_shot:
            self._state, self._seconds, self._frames, self._clips = None, [], [], []
        self._seconds.append(chunk.samples.seconds)
        cutter = self._cutter or self._cutter_for_whole_clips(chunk)
        clips = list(cutter.feed(chunk)) if cutter else []
        context = self.recognizer.backbone.context
        sequences = [
            ModelInput(w.samples.features, shot_mask(context, w.first, len(w.samples)))
            for w in clips
        ]
        if self.model.streams:
            is_shot = chunk.starts_shot and chunk.ends_shot
            first = 0 if chunk.starts_shot else 1
            mask = shot_mask(context, first, len(chunk.samples), is_whole=is_shot)
            sequences.append(ModelInput(chunk.samples.features, mask, self._state))
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
                start = chunk.start_seconds
                count = sum(map(len, self._seconds))
                self._add_clip(chunk.shot, start, chunk.end_seconds, count, outputs[-1])
            self._finish_shot(chunk)

    def _cutter_for_whole_clips(self, chunk: ShotChunk) -> WindowCutter | None:
        """Give a cutter that limits the length of clips, if the model cannot stream."""
        if self.model.streams:
            return None
        if chunk.starts_shot:
            fps = None if self.shown_on else self.recognizer.sampling.fps
            gap = 1 / fps if fps else median_gap_seconds(chunk.samples.seconds)
            self._limiting_cutter = WindowCutter(ClipWindows(MAX_CLIP_SAMPLES * gap))
        return self._limiting_cutter

    def _add_clip(
        self, shot: int, start: float, end: float, count: int, output: ModelOutput
    ) -> None:
        (label,) = best_labels(self.recognizer, output.clip[None]).tolist()
        self.result.clips.append(
            ClipPrediction(
                shot, start, end, count, output.clip, None if label < 0 else label, output.embedding
            )
        )

    def _add_frames(self, windows: list[ClipWindow], outputs: list[ModelOutput]) -> None:
        """Sum up the probabilities of frames over the clips that contain them."""
        known = sum(map(len, self._frames))
        more = sum(map(len, self._seconds)) - known
        self._frames.append(np.zeros((more, self.model.num_labels), np.float32))
        self._clips.append(np.zeros(more, np.int64))
        frames, clips = np.concatenate(self._frames), np.concatenate(self._clips)
        for window, output in zip(windows, outputs, strict=True):
            part = slice(window.first, window.first + len(output.frames))
            frames[part] += output.frames
            clips[part] += 1
        self._frames, self._clips = [frames], [clips]

    def _finish_shot(self, chunk: ShotChunk) -> None:
        """Add the labels of the frames of a shot, and its segments."""
        frames = np.concatenate(self._frames)  # (n, K)
        if self.model.streams and self.recognizer.backbone.context and len(frames) > 1:
            frames[0] = frames[1]  # masked: it has no prediction of its own
        clips = np.ones(len(frames), np.int64) if self.model.streams else self._clips[0]
        if self.recognizer.multi_label:
            totals = clips[:, None].astype(np.float32)
        else:
            totals = frames.sum(1, keepdims=True)
        shot = ShotFrames(
            chunk.shot,
            np.concatenate(self._seconds),
            (chunk.start_seconds, chunk.end_seconds),
            np.asarray(frames / np.maximum(totals, 1e-12), np.float32),
            clips > 0,
        )
        add_shot(self.recognizer, shot, self.result)
