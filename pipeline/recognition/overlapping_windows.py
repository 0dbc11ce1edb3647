"""
Overlapping windows over a sequence of any length, for models that read in both directions.

Consecutive windows share `2 · margin + fade` frames. Of these, the first `margin` frames come from
the earlier window, the last `margin` from the later one, so that the frames next to the edge of a
window, where its model lacks context, are not used. In between, the two are cross-faded linearly.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.recognition.predictions import Probabilities
from pipeline.recognition.windows import FeatureArray


class OverlappingWindows:
    """
    Splits one sequence into windows, and joins what is predicted for them.

    Memory is that of the frames of one window, and of one chunk that is fed.

    Args:
        length: frames of a window.
        margin: frames next to the edge of a window that are not used.
        fade: frames over which two windows are cross-faded.
        shift: frames by which the first window is longer, and all others start later.
    """

    def __init__(self, length: int, margin: int, fade: int, shift: int = 0) -> None:
        self._length, self._overlap, self._shift = length, 2 * margin + fade, shift
        if length <= self._overlap:
            raise ValueError(f"length must be above {self._overlap}, got {length}")
        ramp = (np.arange(fade, dtype=np.float32) + 1) / (fade + 1)
        ones = np.ones(margin, np.float32)
        self._later = np.concatenate([0 * ones, ramp, ones])[:, None]  # weight of the later window
        self._buffer: FeatureArray | None = None
        self._pending: Probabilities | None = None
        self._has_windows = False

    def split(self, features: FeatureArray, *, is_last: bool) -> list[FeatureArray]:
        """
        Give the windows that are complete with more features.

        Args:
            features: that follow those of the last call, (n, D).
            is_last: whether the sequence ends with them.
        """
        buffer = features if self._buffer is None else np.concatenate([self._buffer, features])
        windows = []
        while len(buffer) > (length := self._length + self._shift):
            windows.append(buffer[:length])
            buffer = buffer[length - self._overlap :]
            self._has_windows, self._shift = True, 0
        if is_last and (not self._has_windows or len(buffer) > self._overlap):
            windows.append(buffer)
        self._buffer = buffer
        return windows

    def join(
        self, predictions: list[Probabilities], num_labels: int, *, is_last: bool
    ) -> Probabilities:
        """
        Join predictions of windows.

        Args:
            predictions: of the windows of the last `split`, (n, K) each.
            num_labels: K.
            is_last: as of the last `split`.

        Returns:
            Predictions for the frames that no later window changes, after those of the last call,
            (n, K).
        """
        done: list[NDArray[np.float32]] = [np.zeros((0, num_labels), np.float32)]
        for window in predictions:
            joined = window
            if self._pending is not None:
                weight = self._later[: len(window)]
                shared = self._pending * (1 - weight) + window[: len(weight)] * weight
                joined = np.concatenate([shared, window[len(weight) :]])
            self._pending = joined[-self._overlap :]
            done.append(joined[: -self._overlap])
        if is_last and self._pending is not None:
            done.append(self._pending)
        return np.concatenate(done)
