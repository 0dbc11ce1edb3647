"""
Read the shots of a video for a recognizer of frames: its model labels each frame.

The label of a clip is read from its frames: its probabilities are the means of theirs.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from pipeline.config import ClipWindows
from pipeline.recognition.frame_labels import ShotFrames, add_shot, best_labels
from pipeline.recognition.frame_probabilities import FrameProbabilities
from pipeline.recognition.model_batches import ModelInput, ModelOutput
from pipeline.recognition.predictions import ClipPrediction, Probabilities, Recognition
from pipeline.recognition.recognizer import Recognizer
from pipeline.recognition.windows import ShotChunk, WindowCutter
from pipeline.records import Seconds


class FrameReader:
    """
    Reads the shots of one video for a recognizer of frames.

    Args:
        recognizer: whose model labels frames.
        windows: how clips are cut.
        result: gets what is predicted.
        shown_on: each sample is shown until the next one.
    """

    def __init__(
        self, recognizer: Recognizer, windows: ClipWindows, result: Recognition, *, shown_on: bool
    ) -> None:
        self.recognizer, self.result = recognizer, result
        self._probabilities = FrameProbabilities(recognizer)
        self._cutter = WindowCutter(windows, shown_on=shown_on) if windows.seconds else None
        self._seconds: list[Seconds] = []
        self._frames: list[Probabilities] = []

    def read(self, chunk: ShotChunk) -> Generator[list[ModelInput], list[ModelOutput], None]:
        """Compute a chunk of a shot, and the clips that are complete with it."""
        part = yield from self._probabilities.read(chunk)
        if part is None:
            return
        if part.starts_shot:
            self._seconds, self._frames = [], []
        self._seconds.append(part.samples.seconds)
        self._frames.append(part.samples.features.astype(np.float32, copy=False))
        for window in self._cutter.feed(part) if self._cutter else ():
            frames = window.samples.features.astype(np.float32, copy=False)
            self._add_clip(window.shot, window.start_seconds, window.end_seconds, frames)
        if part.ends_shot:
            self._finish_shot(part)

    def _finish_shot(self, part: ShotChunk) -> None:
        seconds, probabilities = np.concatenate(self._seconds), np.concatenate(self._frames)
        if self._cutter is None:
            self._add_clip(part.shot, part.start_seconds, part.end_seconds, probabilities)
        known = np.ones(len(seconds), np.bool_)
        span = (part.start_seconds, part.end_seconds)
        shot = ShotFrames(part.shot, seconds, span, probabilities, known)
        add_shot(self.recognizer, shot, self.result)

    def _add_clip(self, shot: int, start: float, end: float, frames: Probabilities) -> None:
        """Add a clip with the probabilities (n, K) of its frames."""
        mean = frames.mean(0, dtype=np.float64).astype(np.float32)
        (label,) = best_labels(self.recognizer, mean[None]).tolist()
        self.result.clips.append(
            ClipPrediction(shot, start, end, len(frames), mean, None if label < 0 else label, None)
        )
