"""
Cut the samples of a video into shots, and shots into clips, as they come in.

Clips of `seconds` begin every `stride_seconds` from the start of their shot. The last one ends
with the shot: a rest shorter than half a stride (half a clip, where clips leave gaps) belongs to
the clip before it, a longer one is a shorter clip. There is no clip without a frame. Memory is
that of one clip, however long the video.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.config import ClipWindows
from pipeline.records import Seconds

EPSILON_SECONDS = 1e-6

Features = NDArray[np.float16] | NDArray[np.float32]
"""As they are stored, or computed; they become float32 where a batch is made."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples that follow each other."""

    seconds: Seconds
    """Time of each, (T,)."""
    features: Features
    """(T, D)."""

    def __len__(self) -> int:
        return len(self.seconds)

    def __getitem__(self, part: slice) -> Samples:
        return Samples(self.seconds[part], self.features[part])

    def joined(self, more: Samples) -> Samples:
        """Append samples."""
        return Samples(
            np.concatenate([self.seconds, more.seconds]),
            np.concatenate([self.features, more.features]),
        )


@dataclass(frozen=True, slots=True)
class Piece:
    """Samples of one shot that came in together."""

    samples: Samples
    shot: int
    begins: bool
    """The first of its shot."""
    ends: bool
    """The last of its shot."""
    end_seconds: float
    """End of the shot where this is its last piece; else the time of its last sample."""


@dataclass(frozen=True, slots=True)
class Window:
    """One clip, ready to be recognized."""

    samples: Samples
    shot: int
    first: int
    """Number of its first sample in the shot."""
    start_seconds: float
    end_seconds: float


class ShotSplitter:
    """Splits samples at cuts. Holds the newest back until it is known whether its shot goes on."""

    def __init__(self) -> None:
        self._shot = -1
        self._held: tuple[Samples, bool] | None = None

    def feed(self, samples: Samples, cuts: NDArray[np.bool_]) -> Iterator[Piece]:
        """
        Give the pieces that are known by now.

        Args:
            samples: those that follow the ones before.
            cuts: whether a shot begins with a sample, (T,); one always does with the first.
        """
        if not len(samples):
            return
        begins = cuts.copy()
        begins[0] |= self._shot < 0
        edges = [0, *(int(n) for n in np.flatnonzero(begins[1:]) + 1), len(samples)]
        for start, stop in pairwise(edges):
            cut = bool(begins[start])
            yield from self._flush(float(samples.seconds[start]) if cut else None)
            self._shot += cut
            self._held = (samples[start:stop], cut)

    def finish(self, end_seconds: float) -> Iterator[Piece]:
        """Give the last piece: the video ends at `end_seconds`."""
        if self._held is not None:
            yield from self._flush(max(end_seconds, float(self._held[0].seconds[-1])))

    def _flush(self, end: float | None) -> Iterator[Piece]:
        if self._held is None:
            return
        (samples, begins), self._held = self._held, None
        known = float(samples.seconds[-1]) if end is None else end
        yield Piece(samples, self._shot, begins, end is not None, known)


class WindowCutter:
    """Cuts the pieces of shots into clips."""

    def __init__(self, windows: ClipWindows) -> None:
        assert windows.seconds is not None
        self._length = windows.seconds
        self._stride = windows.stride_seconds or windows.seconds
        self._rest = min(self._length, self._stride) / 2
        self._buffer: Samples | None = None
        self._shot_start = 0.0
        self._number = self._first = 0

    def feed(self, piece: Piece) -> Iterator[Window]:
        """Give the clips that are complete with this piece."""
        if piece.begins or self._buffer is None:
            self._buffer = piece.samples
            self._shot_start = float(piece.samples.seconds[0])
            self._number = self._first = 0
        else:
            self._buffer = self._buffer.joined(piece.samples)
        end = piece.end_seconds
        while True:
            start = self._shot_start + self._number * self._stride
            stop = start + self._length
            near_end = stop + self._rest > end + EPSILON_SECONDS
            if start >= end - EPSILON_SECONDS and self._number:
                return
            if near_end and not piece.ends:
                return
            yield from self._cut(piece.shot, start, end if near_end else stop, to_end=near_end)
            self._number += 1
            if near_end:
                return

    def _cut(self, shot: int, start: float, end: float, *, to_end: bool) -> Iterator[Window]:
        assert self._buffer is not None
        times = self._buffer.seconds
        a = int(np.searchsorted(times, start - EPSILON_SECONDS))
        b = len(times) if to_end else int(np.searchsorted(times, end - EPSILON_SECONDS))
        if b > a:
            yield Window(self._buffer[a:b], shot, self._first + a, start, end)
        following = start + self._stride
        gone = int(np.searchsorted(times, following - EPSILON_SECONDS))
        self._buffer = self._buffer[gone:]
        self._first += gone
