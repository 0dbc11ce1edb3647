"""
Split the samples of a video into shots, and shots into clips, in one pass.

Clips of `seconds` start every `stride_seconds` from the start of their shot. The last clip ends
with the shot: a remainder shorter than half a stride (half a clip if the stride is longer) is added
to the clip before it, a longer one is a shorter clip. A clip has at least one sample. At most the
samples of one clip are kept in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.config import ClipWindows
from pipeline.encode.shot_store import Shots
from pipeline.records import Integers, Seconds

EPSILON_SECONDS = 1e-6

FeatureArray = NDArray[np.float16] | NDArray[np.float32]
"""float16 as stored, or float32 as computed; batches are float32."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Consecutive samples."""

    seconds: Seconds
    """(T,)."""
    features: FeatureArray
    """(T, D)."""

    def __len__(self) -> int:
        return len(self.seconds)

    def __getitem__(self, part: slice) -> Samples:
        return Samples(self.seconds[part], self.features[part])

    def concatenate(self, more: Samples) -> Samples:
        """Append samples."""
        return Samples(
            np.concatenate([self.seconds, more.seconds]),
            np.concatenate([self.features, more.features]),
        )


@dataclass(frozen=True, slots=True)
class ShotChunk:
    """Consecutive samples of one shot."""

    samples: Samples
    shot: int
    starts_shot: bool
    ends_shot: bool
    end_seconds: float
    """End of the shot if this is its last chunk, else the time of the last sample."""
    start_seconds: float = 0.0
    """Start of the shot."""


@dataclass(frozen=True, slots=True)
class ClipWindow:
    """The samples of one clip."""

    samples: Samples
    shot: int
    first: int
    """Index of the first sample within the shot."""
    start_seconds: float
    end_seconds: float


def split_at(starts: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Split indices into ranges [start, stop) that start where `starts` (T,) is set, and at 0."""
    if not len(starts):
        return []
    edges = [0, *(np.flatnonzero(starts[1:]) + 1).tolist(), len(starts)]
    return list(pairwise(edges))


def run_length_encode(labels: Integers) -> list[tuple[int, int, int]]:
    """Encode labels (T,) as (start, stop, label) of ranges [start, stop) of equal labels."""
    changes = np.diff(labels, prepend=labels[:1]) != 0
    return [(start, stop, int(labels[start])) for start, stop in split_at(changes)]


class ShotSplitter:
    """
    Splits samples at cuts. The newest samples are held until their shot ends or continues.

    Args:
        shots: of the video; without them, `feed` is told where shots start.
    """

    def __init__(self, shots: Shots | None = None) -> None:
        self._shots = shots
        self._shot = -1
        self._start = 0.0
        self._held: tuple[Samples, bool] | None = None

    def feed(
        self, samples: Samples, cuts: NDArray[np.bool_], frame_index: Integers | None = None
    ) -> Iterator[ShotChunk]:
        """
        Yield the chunks that are complete.

        Args:
            samples: the samples after those of the last call.
            cuts: whether a shot starts with a sample, (T,); the first sample always starts one.
                Not used where the shots are known.
            frame_index: of the samples, (T,); needed where the shots are known.
        """
        if not len(samples):
            return
        numbers = self._numbers(cuts, frame_index)
        starts = np.diff(numbers, prepend=self._shot) > 0
        for start, stop in split_at(starts):
            cut, seconds = bool(starts[start]), float(samples.seconds[start])
            yield from self._flush(self._end(seconds) if cut else None)
            self._shot = int(numbers[start])
            if cut:
                self._start = self._start_of(self._shot, seconds)
            self._held = (samples[start:stop], cut)

    def _numbers(self, cuts: NDArray[np.bool_], frame_index: Integers | None) -> Integers:
        """Give the shot of each sample, (T,)."""
        if self._shots is None:
            first = 0 if self._shot < 0 else self._shot + int(cuts[0])
            return first + np.cumsum([0, *cuts[1:]])
        assert frame_index is not None
        return np.searchsorted(self._shots.start_frames, frame_index, side="right") - 1

    def _start_of(self, shot: int, first_sample: float) -> float:
        """Give the start of a shot; a sample may be half a tick earlier than its frame."""
        if self._shots is None or shot == 0:
            return first_sample
        return min(first_sample, float(self._shots.start_seconds[shot]))

    def _end(self, following: float) -> float:
        """Give the end of the current shot, given the time of what follows its last sample."""
        if self._shots is None or not 0 <= self._shot < len(self._shots.transitions):
            return following
        return min(following, float(self._shots.start_seconds[self._shot + 1]))

    def finish(self, end_seconds: float) -> Iterator[ShotChunk]:
        """Yield the last chunk, given the end of the video."""
        if self._held is not None:
            last = float(self._held[0].seconds[-1])
            yield from self._flush(max(self._end(end_seconds), last))

    def _flush(self, end: float | None) -> Iterator[ShotChunk]:
        if self._held is None:
            return
        (samples, starts_shot), self._held = self._held, None
        end_seconds = float(samples.seconds[-1]) if end is None else end
        yield ShotChunk(samples, self._shot, starts_shot, end is not None, end_seconds, self._start)


def first_in(seconds: Seconds, start: float, *, shown_on: bool = False) -> int:
    """
    Return the position of the first sample of a clip.

    Args:
        seconds: of all samples, (T,), ascending.
        start: of the clip.
        shown_on: each sample is shown until the next one, so the first one may begin earlier.
    """
    if shown_on:
        return max(0, int(np.searchsorted(seconds, start + EPSILON_SECONDS, side="right")) - 1)
    return int(np.searchsorted(seconds, start - EPSILON_SECONDS))


def shot_mask(context: int, first: int, length: int, *, is_whole: bool = True) -> NDArray[np.bool_]:
    """
    Mask the first sample of a shot if the backbone encoded it with a frame of another shot.

    Args:
        context: previous frames that are encoded together with each frame.
        first: index within the shot of the first sample.
        length: number of samples.
        is_whole: whether these samples are all of their clip or shot: a single one is kept.
    """
    mask = np.ones(length, np.bool_)
    if first == 0 and context and not (is_whole and length == 1):
        mask[0] = False
    return mask


class WindowCutter:
    """
    Cuts shots into clips, chunk by chunk.

    Args:
        windows: length and stride of clips.
        shown_on: each sample is shown until the next one, and belongs to all clips in this time.
    """

    def __init__(self, windows: ClipWindows, *, shown_on: bool = False) -> None:
        assert windows.seconds is not None
        self._length = windows.seconds
        self._stride = windows.stride_seconds or windows.seconds
        self._min_remainder = min(self._length, self._stride) / 2
        self._shown_on = shown_on
        self._buffer: Samples | None = None
        self._shot_start = 0.0
        self._number = self._first = 0

    def feed(self, chunk: ShotChunk) -> Iterator[ClipWindow]:
        """Yield the clips that are complete with this chunk."""
        if chunk.starts_shot or self._buffer is None:
            self._buffer = chunk.samples
            self._shot_start = chunk.start_seconds
            self._number = self._first = 0
        else:
            self._buffer = self._buffer.concatenate(chunk.samples)
        end = chunk.end_seconds
        while True:
            start = self._shot_start + self._number * self._stride
            stop = start + self._length
            is_last = stop + self._min_remainder > end + EPSILON_SECONDS
            if start >= end - EPSILON_SECONDS and self._number:
                return
            if is_last and not chunk.ends_shot:
                return
            yield from self._cut(chunk.shot, start, end if is_last else stop, to_end=is_last)
            self._number += 1
            if is_last:
                return

    def _cut(self, shot: int, start: float, end: float, *, to_end: bool) -> Iterator[ClipWindow]:
        assert self._buffer is not None
        times = self._buffer.seconds
        a = first_in(times, start, shown_on=self._shown_on)
        b = len(times) if to_end else int(np.searchsorted(times, end - EPSILON_SECONDS))
        if b > a:
            yield ClipWindow(self._buffer[a:b], shot, self._first + a, start, end)
        next_start = start + self._stride
        used = first_in(times, next_start, shown_on=self._shown_on)
        self._buffer = self._buffer[used:]
        self._first += used
