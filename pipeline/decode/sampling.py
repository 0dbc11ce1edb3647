"""
Select sampled frames by their presentation times.

Sample k of `Sampling(fps=F)` is the frame that a player shows at k / F seconds: the last one whose
time is not later. So variable frame rates, cuts and late starts need no special case.

The exception are videos of at most one frame per second (time-lapse): there each frame is one
sample, so that it is decoded, encoded and stored once, and is one step of the sequence. All callers
resolve the sampling of a video with `sampling_of`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from pipeline.config import Sampling
from pipeline.records import Images, Integers, VideoIndex

TICK_TOLERANCE_SECONDS = 5e-4
"""Containers round times to ticks, often of 1 ms: a frame may be late by half a tick."""
SLOW_FRAME_SECONDS = 1.0
"""From this time between frames on, each frame is sampled once."""
MIN_REPEATS = 2
"""Samples that a frame of such a video would be; with fewer, sampling by time repeats no frame."""
EVERY_FRAME = Sampling(every=1)
MAX_HOLD_SECONDS = 1.0
"""How long a frame replaces following ones that could not be decoded."""


class TimedFrame(Protocol):
    """A decoded frame, not yet converted to RGB."""

    ticks: int | None
    damaged: bool

    def rgb(self) -> Images:
        """Convert to RGB uint8, (H, W, 3)."""

    def small(self) -> Images:
        """Make the small grey picture, (48, 64)."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A sampled frame."""

    number: int
    """k, counted from 0 over the whole video."""
    rgb: Images
    frame_index: int
    pts_seconds: float


def frames_are_samples(index: VideoIndex, sampling: Sampling) -> bool:
    """Whether each frame of a video is one sample, although samples are wanted at a higher rate."""
    slow = index.frame_seconds >= SLOW_FRAME_SECONDS - TICK_TOLERANCE_SECONDS
    return slow and index.frame_seconds * (sampling.fps or 0) >= MIN_REPEATS


def sampling_of(index: VideoIndex, sampling: Sampling) -> Sampling:
    """Return how one video is sampled, given the sampling of the run."""
    return EVERY_FRAME if frames_are_samples(index, sampling) else sampling


class SamplePlan:
    """
    Computes which frames of a video are the samples [start, stop).

    Args:
        index: of the container.
        sampling: defines the samples of the video.
        start, stop: the samples of this chunk; all of the video by default.
        context: samples before `start` that are included.
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

    @property
    def takes_all(self) -> bool:
        """Whether every frame of the video is a sample."""
        frames = self._frames(np.arange(self.num_samples))
        return len(np.unique(frames)) >= len(self.index.pts)

    def frame_indices(self) -> Integers:
        """Return the frame position of each sample by the times of the index, (stop - first,)."""
        return self._frames(np.arange(self.first, self.stop))

    def frame_range(self) -> range:
        """Return the frames that this chunk counts; the chunks of a video partition its frames."""
        return self._frame_range

    @cached_property
    def _frame_range(self) -> range:
        whole = self.stop >= self.num_samples
        stop = len(self.index.pts) if whole else self._first_frame(self.stop)
        return range(self._first_frame(self.start), stop)

    def _first_frame(self, sample: int) -> int:
        """
        Return the first frame that a chunk counts, given its first sample.

        It is the last key frame after the previous sample: decoding starts there in any case.
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
        times = samples / self.sampling.fps + self._tolerance
        return np.searchsorted(self.index.seconds, times, side="right") - 1

    def _before(self, seconds: float) -> int:
        """Count the samples before a time."""
        assert self.sampling.fps
        return max(0, math.ceil((seconds - self._tolerance) * self.sampling.fps))

    def samples_of(self, frame_index: int, seconds: float, until_seconds: float) -> range:
        """Return the samples of this chunk that a frame shown in [seconds, until) is."""
        if self.sampling.every:
            sample, rest = divmod(frame_index, self.sampling.every)
            wanted = rest == 0 and self.first <= sample < self.stop
            return range(sample, sample + wanted)
        first, stop = self._before(seconds), self._before(until_seconds)
        if until_seconds <= 0 <= seconds:
            stop = 1  # a single frame without duration is sample 0
        return range(max(first, self.first), min(stop, self.stop))

    def is_past(self, frame_index: int, seconds: float) -> bool:
        """Whether this chunk needs neither this frame, shown at a time, nor any later one."""
        if self.stop >= self.num_samples or frame_index < self._frame_range.stop:
            return False
        # a frame may be the last samples of this chunk and the first of the next
        return bool(self.sampling.every) or self._before(seconds) >= self.stop

    def accounts_for(self, ticks: int | None) -> bool:
        """Whether this chunk, and no other one, counts a packet that could not be decoded."""
        if ticks is None:  # found by every chunk that is read to the end
            return self.stop >= self.num_samples
        position = int(np.searchsorted(self.index.pts, ticks, side="right")) - 1
        return max(0, position) in self._frame_range

    def shown_until(self, frame_index: int, seconds: float, following: float | None) -> float:
        """
        Compute the time until which a frame is shown.

        As in a player, this is the time of the next decoded frame, `following`. But a frame does
        not replace a long damaged part: it is shown at most `MAX_HOLD_SECONDS` longer than the
        container says, and not longer where no frame follows.
        """
        index = self.index
        if not index.steady or frame_index >= len(index.pts):
            return following if following is not None else seconds + index.frame_seconds
        last = frame_index + 1 == len(index.pts)
        planned = index.duration_seconds if last else float(index.seconds[frame_index + 1])
        if following is None:
            return planned
        return min(following, max(planned, seconds + MAX_HOLD_SECONDS))

    def wants(self, frame_index: int) -> bool:
        """Whether a frame is a sample if every frame decodes; True where that is unknown."""
        index = self.index
        if not index.steady or frame_index >= len(index.pts):
            return True
        seconds = float(index.seconds[frame_index])
        return bool(
            self.samples_of(frame_index, seconds, self.shown_until(frame_index, seconds, None))
        )


@dataclass(slots=True)
class FrameCounts:
    """Numbers of frames seen by a selector."""

    decoded: int = 0
    duplicated: int = 0
    damaged: int = 0
    late: int = 0
    """Frames before the first one that could be decoded."""
    backwards: bool = False
    """Whether times decreased: then only the order of frames is reliable, and no other count."""

    def add(self, frame: TimedFrame, position: int, *, repeated: bool) -> None:
        """Count a frame, given its position among the frames of the chunk."""
        if not self.decoded:
            self.late = position
        self.decoded += 1
        self.duplicated += repeated
        self.damaged += frame.damaged


Watch = Callable[[TimedFrame, int, float], None]
"""Called with every frame of a chunk, its position among the frames of the video, and its time."""


class Selector:
    """Selects the samples among decoded frames, in display order, with one frame of lookahead."""

    def __init__(
        self, plan: SamplePlan, *, by_order: bool = False, watch: Watch | None = None
    ) -> None:
        self.counts = FrameCounts()
        self._watch = watch
        self._plan = plan
        self._by_order = by_order or not plan.index.timed
        self._pts = plan.index.pts
        self._steady = plan.index.steady

    def select(self, frames: Iterable[TimedFrame]) -> Iterator[Sample]:
        """Yield the samples in order. Stops after the last one, or where times decrease."""
        frames_here = self._plan.frame_range()
        last = self._plan.stop >= self._plan.num_samples
        held: tuple[TimedFrame, int, float] | None = None
        frame_index, last_ticks = self._plan.index.frames_before_first - 1, None
        for frame in frames:
            ticks = self._ticks(frame, frame_index)
            if last_ticks is not None and ticks < last_ticks:
                self.counts.backwards = True
                return
            repeated = ticks == last_ticks
            if not (repeated and self._steady):
                frame_index = self._frame_index(ticks, frame_index)
            here = frame_index >= frames_here.start and (last or frame_index < frames_here.stop)
            if here:
                self.counts.add(frame, frame_index - frames_here.start, repeated=repeated)
            if repeated and self._steady:
                continue
            seconds = (ticks - int(self._pts[0])) * self._plan.index.tick_seconds
            if here and self._watch:
                self._watch(frame, frame_index, seconds)
            if held:
                yield from self._emit(held, seconds)
            held, last_ticks = (frame, frame_index, seconds), ticks
            if self._plan.is_past(frame_index, seconds):
                return
        if held:
            yield from self._emit(held, None)

    def _ticks(self, frame: TimedFrame, frame_index: int) -> int:
        if frame.ticks is not None and not self._by_order:
            return frame.ticks
        following = frame_index + 1
        beyond = following - len(self._pts) + 1
        return int(self._pts[following]) if beyond <= 0 else int(self._pts[-1]) + beyond

    def _frame_index(self, ticks: int, before: int) -> int:
        """
        Find the position of a frame among the frames of the video.

        It comes from the times of the index: so a chunk numbers frames as the whole video does,
        and a frame that cannot be decoded does not shift the numbers of the others.
        """
        if self._steady:
            return max(before + 1, int(np.searchsorted(self._pts, ticks, side="right")) - 1)
        return before + 1

    def _emit(
        self, held: tuple[TimedFrame, int, float], following: float | None
    ) -> Iterator[Sample]:
        frame, frame_index, seconds = held
        if following is not None and following <= seconds and not self._plan.sampling.every:
            return  # the next frame replaces it at once
        until = self._plan.shown_until(frame_index, seconds, following)
        samples = self._plan.samples_of(frame_index, seconds, until)
        if samples:
            image = frame.rgb()
            for number in samples:
                yield Sample(number, image, frame_index, seconds)
