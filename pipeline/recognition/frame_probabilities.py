"""
Probabilities of the labels of all frames of a shot, in constant memory for shots of any length.

A model that only looks back carries its state from chunk to chunk. One that looks both ways reads
overlapping windows, which are cross-faded.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.recognition.model_batches import ModelInput, ModelOutput, compute
from pipeline.recognition.overlapping_windows import OverlappingWindows
from pipeline.recognition.predictions import Probabilities
from pipeline.recognition.recognizer import Recognizer
from pipeline.recognition.windows import FeatureArray, Samples, ShotChunk, shot_mask
from pipeline.records import Seconds
from pipeline.temporal.models import State, TemporalModel

HOP_FRAMES = 4864
"""Frames from the start of a window to that of the next one, at least."""
MARGIN_STEPS = 512
"""Steps of a model next to the edge of a window whose frames are not used, if it has no limit to
how far it looks."""
MAX_MARGIN_FRAMES = 4096
"""Most frames that are not used, for models that look far."""
FADE_FRAMES = 256
"""Frames over which two windows are cross-faded."""

ProbabilityReader = Generator[list[ModelInput], list[ModelOutput], ShotChunk | None]


class FrameProbabilities:
    """Computes the probabilities of the frames of one video, chunk by chunk."""

    def __init__(self, recognizer: Recognizer) -> None:
        self._recognizer = recognizer
        self._num_labels = recognizer.model.num_labels
        self._windows: OverlappingWindows | None = None
        self._state: State | None = None
        self._held: FeatureArray | None = None
        self._seconds: Seconds = np.zeros(0)
        self._is_read = self._is_returned = False

    def read(self, chunk: ShotChunk) -> ProbabilityReader:
        """
        Compute the next chunk of a shot.

        Returns:
            A chunk whose features are probabilities, (n, K), of the frames after those returned
            before; None if there are none yet.
        """
        if chunk.starts_shot:
            self._start_shot()
        self._seconds = np.concatenate([self._seconds, chunk.samples.seconds])
        if self._windows is None:
            probabilities = yield from self._stream(chunk.samples.features, chunk.ends_shot)
        else:
            probabilities = yield from self._read_windows(
                self._windows, chunk.samples.features, chunk.ends_shot
            )
        count = len(probabilities)
        if not count:
            return None
        part = Samples(self._seconds[:count], probabilities)
        self._seconds = self._seconds[count:]
        starts, self._is_returned = not self._is_returned, True
        end_seconds = chunk.end_seconds if chunk.ends_shot else float(part.seconds[-1])
        ends = chunk.ends_shot
        return ShotChunk(part, chunk.shot, starts, ends, end_seconds, chunk.start_seconds)

    def _start_shot(self) -> None:
        self._state, self._held, self._seconds = None, None, np.zeros(0)
        self._is_read = self._is_returned = False
        if not self._recognizer.model.streams:
            shift = 1 if self._recognizer.backbone.context else 0
            self._windows = _windows(self._recognizer.model, shift)

    def _stream(
        self, features: FeatureArray, is_last: bool
    ) -> Generator[list[ModelInput], list[ModelOutput], Probabilities]:
        if self._held is not None:
            features = np.concatenate([self._held, features])
        # the first frame of a shot may be masked: it is computed together with the next one
        self._held = features if not self._is_read and len(features) == 1 and not is_last else None
        if self._held is not None:
            return np.zeros((0, self._num_labels), np.float32)
        (output,) = yield [ModelInput(features, self._mask(len(features)), self._state)]
        self._state = output.state
        return output.frames

    def _read_windows(
        self, windows: OverlappingWindows, features: FeatureArray, is_last: bool
    ) -> Generator[list[ModelInput], list[ModelOutput], Probabilities]:
        parts = windows.split(features, is_last=is_last)
        outputs = yield [ModelInput(part, self._mask(len(part))) for part in parts]
        frames = [output.frames for output in outputs]
        return windows.join(frames, self._num_labels, is_last=is_last)

    def _mask(self, length: int) -> NDArray[np.bool_]:
        """Mask the first frame of a shot if the backbone needs the one before, (length,)."""
        first, self._is_read = int(self._is_read), True
        return shot_mask(self._recognizer.backbone.context, first, length)


def _windows(model: TemporalModel, shift: int) -> OverlappingWindows:
    """
    Choose windows in which a model predicts the same as for the whole sequence.

    They start with a block of frames that the model averages to one step.

    Args:
        model: that looks both ways.
        shift: 1 if the first frame of a shot is masked, so that blocks start a frame later.
    """
    stride = model.options.stride
    margin = MARGIN_STEPS * stride if model.context is None else model.context
    margin = min(margin, MAX_MARGIN_FRAMES)
    hop = -(-HOP_FRAMES // stride) * stride
    return OverlappingWindows(hop + 2 * margin + FADE_FRAMES, margin, FADE_FRAMES, shift)


def predict_frames(
    recognizer: Recognizer, sequences: Sequence[FeatureArray]
) -> list[Probabilities]:
    """Compute the probabilities of the frames of whole sequences, (T, D) each → (T, K) each."""
    readers, inputs = [], []
    for features in sequences:
        samples = Samples(np.arange(len(features), dtype=np.float64), features)
        reader = FrameProbabilities(recognizer).read(ShotChunk(samples, 0, True, True, np.inf))
        readers.append(reader)
        inputs.append(next(reader))
    computed = iter(compute(recognizer, [one for parts in inputs for one in parts]))
    found = []
    for reader, parts in zip(readers, inputs, strict=True):
        try:
            reader.send([next(computed) for _ in parts])
        except StopIteration as stop:
            found.append(np.asarray(stop.value.samples.features))
    return found
