"""
Choose frames by the time at which they are displayed.

Sample k of `Sampling(fps=F)` is the frame that a player shows at k / F seconds: the last one whose
time is not after it. So variable frame rates, cuts and late starts need no case of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from pipeline.config import Sampling
from pipeline.records import Images, Integers, VideoIndex

TICK_TOLERANCE_SECONDS = 5e-4
"""Containers round times to ticks, often of a millisecond: a frame may be half a tick late."""
HOLD_SECONDS = 1.0
"""How long a frame stands in for following ones that could not be decoded."""


class Timed(Protocol):
    """A decoded frame, not yet converted to a picture."""

    ticks: int | None
    damaged: bool

    def rgb(self) -> Images:
        """Convert to RGB uint8, (H, W, 3)."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A frame that was asked for."""

    number: int
    """k, counted from 0 over the whole video."""
    rgb: Images
    frame_index: int
    pts_seconds: float


class SamplePlan:
    """
    Which frames of a video are the samples [start, stop).

    Args:
        index: what the container says.
        sampling: which samples there are.
        start, stop: the samples of this chunk; all of the video by default.
        context: samples before `start` that are given as well.
    """

    def __init__(
        self,
        index: VideoIndex,
        sampling: Sampling,
        start: int = 0,
        stop: int | None = None,
        context: int = 0,
    ) -> None:
        self.index = index
        self.sampling = sampling
        self._tolerance = min(index.tick_seconds / 2, TICK_TOLERANCE_SECONDS) + 1e-9
        self.num_samples = self._count()
        self.stop = self.num_samples if stop is None else stop
        self.start = start
        self.first = max(0, start - context)

    def _count(self) -> int:
        if not len(self.index.pts):
            return 0
        if self.sampling.every:
            return math.ceil(len(self.index.pts) / self.sampling.every)
        return max(1, self._before(self.index.duration_seconds))

    def frame_indices(self) -> Integers:
        """Frames that the samples should be, as the container tells it, (stop - first,)."""
        return self._frames(np.arange(self.first, self.stop))

    def frame_range(self) -> range:
        """Frames that this chunk accounts for: those of all chunks are those of the video."""
        return self._frame_range

    @cached_property
    def _frame_range(self) -> range:
        whole = self.stop >= self.num_samples
        stop = len(self.index.pts) if whole else self._border(self.stop)
        return range(self._border(self.start), stop)

    def _border(self, sample: int) -> int:
        """
        Tell the frame with which the chunk begins whose first sample is given.

        That is the last key frame behind the sample before: from there it is decoded in any case.
        """
        if sample == 0:
            return 0
        before, here = self._frames(np.array([sample - 1, sample])).tolist()
        keys = self.index.key_frames
        between = keys[(keys > before) & (keys <= here)]
        return int(between[-1]) if len(between) else here

    def _frames(self, samples: Integers) -> Integers:
        if self.sampling.every:
            return samples * self.sampling.every
        assert self.sampling.fps
        at = samples / self.sampling.fps + self._tolerance
        return np.searchsorted(self.index.seconds, at, side="right") - 1

    def _before(self, seconds: float) -> int:
        """Count the samples before a time."""
        assert self.sampling.fps
        return max(0, math.ceil((seconds - self._tolerance) * self.sampling.fps))

    def taken(self, frame_index: int, seconds: float, until_seconds: float) -> range:
        """Tell which samples of this chunk a frame displayed in [seconds, until) is."""
        if self.sampling.every:
            sample, rest = divmod(frame_index, self.sampling.every)
            wanted = rest == 0 and self.first <= sample < self.stop
            return range(sample, sample + wanted)
        first, stop = self._before(seconds), self._before(until_seconds)
        if until_seconds <= 0 <= seconds:
            stop = 1  # a lone frame of no duration is still seen
        return range(max(first, self.first), min(stop, self.stop))

    def over(self, frame_index: int, seconds: float) -> bool:
        """Whether this chunk needs neither a frame displayed at a time nor any that follows."""
        if self.stop >= self.num_samples or frame_index < self._frame_range.stop:
            return False
        # a frame may be the last samples of this chunk and the first of the next
        return bool(self.sampling.every) or self._before(seconds) >= self.stop

    def accounts_for(self, ticks: int | None) -> bool:
        """Whether a packet that could not be decoded counts here, and not in another chunk."""
        if ticks is None:  # met by every chunk that is read to the end
            return self.stop >= self.num_samples
        position = int(np.searchsorted(self.index.pts, ticks, side="right")) - 1
        return max(0, position) in self._frame_range

    def shown_until(self, frame_index: int, seconds: float, following: float | None) -> float:
        """
        Tell until when a frame is displayed.

        As in a player it stays until the next one that could be decoded, `following`. But a frame
        does not stand in for a stretch of damage: beyond what the container says, it stays at most
        `HOLD_SECONDS`, and at the end of what could be decoded not at all.
        """
        index = self.index
        if not index.steady or frame_index >= len(index.pts):
            return following if following is not None else seconds + index.frame_seconds
        last = frame_index + 1 == len(index.pts)
        planned = index.duration_seconds if last else float(index.seconds[frame_index + 1])
        if following is None:
            return planned
        return min(following, max(planned, seconds + HOLD_SECONDS))

    def wants(self, frame_index: int) -> bool:
        """Whether a frame is a sample, should every frame decode; True where that is not known."""
        index = self.index
        if not index.steady or frame_index >= len(index.pts):
            return True
        seconds = float(index.seconds[frame_index])
        return bool(self.taken(frame_index, seconds, self.shown_until(frame_index, seconds, None)))


@dataclass(slots=True)
class Counts:
    """What was seen while frames were chosen."""

    decoded: int = 0
    duplicated: int = 0
    damaged: int = 0
    late: int = 0
    """Frames before the first one that could be decoded."""
    backwards: bool = False
    """Times went back: only the order of frames can be trusted, and nothing else that was told."""


class Selector:
    """Choose the samples among decoded frames, in display order, looking one frame ahead."""

    def __init__(self, plan: SamplePlan, *, by_order: bool = False) -> None:
        self.counts = Counts()
        self._plan = plan
        self._by_order = by_order or not plan.index.timed
        self._pts = plan.index.pts
        self._steady = plan.index.steady

    def select(self, frames: Iterable[Timed]) -> Iterator[Sample]:
        """Give the samples in order. Stops reading after the last one, or where times go back."""
        frames_here = self._plan.frame_range()
        last = self._plan.stop >= self._plan.num_samples
        held: tuple[Timed, int, float] | None = None
        frame_index, last_ticks = -1, None
        for frame in frames:
            ticks = self._ticks(frame, frame_index)
            if last_ticks is not None and ticks < last_ticks:
                self.counts.backwards = True
                return
            repeated = ticks == last_ticks
            if not (repeated and self._steady):
                frame_index = self._frame_index(ticks, frame_index)
            if frame_index >= frames_here.start and (last or frame_index < frames_here.stop):
                if not self.counts.decoded:
                    self.counts.late = frame_index - frames_here.start
                self.counts.decoded += 1
                self.counts.duplicated += repeated
                self.counts.damaged += frame.damaged
            if repeated and self._steady:
                continue
            seconds = (ticks - int(self._pts[0])) * self._plan.index.tick_seconds
            if held:
                yield from self._emit(held, seconds)
            held, last_ticks = (frame, frame_index, seconds), ticks
            if self._plan.over(frame_index, seconds):
                return
        if held:
            yield from self._emit(held, None)

    def _ticks(self, frame: Timed, frame_index: int) -> int:
        if frame.ticks is not None and not self._by_order:
            return frame.ticks
        following = frame_index + 1
        beyond = following - len(self._pts) + 1
        return int(self._pts[following]) if beyond <= 0 else int(self._pts[-1]) + beyond

    def _frame_index(self, ticks: int, before: int) -> int:
        """
        Place a frame among the frames of the video.

        The container knows, so that a chunk numbers frames as the whole video does, and a frame
        that cannot be decoded does not shift the numbers of the others.
        """
        if self._steady:
            return max(before + 1, int(np.searchsorted(self._pts, ticks, side="right")) - 1)
        return before + 1

    def _emit(self, held: tuple[Timed, int, float], following: float | None) -> Iterator[Sample]:
        frame, frame_index, seconds = held
        if following is not None and following <= seconds and not self._plan.sampling.every:
            return  # another frame takes its place at once
        until = self._plan.shown_until(frame_index, seconds, following)
        samples = self._plan.taken(frame_index, seconds, until)
        if samples:
            picture = frame.rgb()
            for number in samples:
                yield Sample(number, picture, frame_index, seconds)
