"""
Frame times of raw video streams: files such as `.h264` or `.mjpeg`, which have no container.

No times are stored in them. H.264, HEVC, MPEG-1, MPEG-2, MPEG-4 and H.263 usually state a frame
rate; MJPEG never does. FFmpeg's demuxers assume 25 frames per second, whatever the stream states.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from av.format import Flags

from pipeline.decode.packets import ticks_per_frame
from pipeline.records import Integers

MIN_RATE, MAX_RATE = Fraction(1, 10), 1000
"""Frames per second; other rates are taken for errors in the stream."""
RAW_TIME_BASE = Fraction(1, 1_200_000)
"""Of all demuxers of raw video; other formats without times are icons and the like."""


@dataclass(frozen=True, slots=True)
class FrameTimes:
    """Presentation times of the frames of a stream, in display order."""

    pts: Integers
    """In ticks, (P,)."""
    timed: bool
    """Whether decoded frames have the same times; otherwise, they are counted."""
    rate_assumed: bool = False
    """Whether neither the stream states a frame rate nor the user has given one."""


def is_raw_stream(container: Any) -> bool:
    """Whether an open file is a raw stream: its format stores no times."""
    return bool(container.format.flags & Flags.no_timestamps.value) and any(
        stream.time_base == RAW_TIME_BASE for stream in container.streams.video
    )


def stated_rate(stream: Any) -> Fraction | None:
    """
    Return the frames per second that a raw stream states.

    Args:
        stream: whose first frame was decoded.
    """
    context = stream.codec_context
    # MPEG-4 states the resolution of its times, and FFmpeg finds the rate
    rate: Fraction | None = stream.guessed_rate if context.name == "mpeg4" else context.framerate
    return rate if rate is not None and MIN_RATE <= rate <= MAX_RATE else None


class RawTimes:
    """
    Collects the times of the frames of a raw stream.

    Args:
        stream: of an open file.
        given: frames per second, for a stream that states none; None if the user has given none.
    """

    def __init__(self, stream: Any, given: float | None) -> None:
        self._stream = stream
        self._given = given
        self._references: list[int] = []
        self._durations: set[int | None] = set()

    def add(self, packet: Any) -> None:
        """Read what the next packet tells about its time."""
        self._durations.add(packet.duration)
        if self._stream.codec_context.name == "h263":
            self._references.append(h263_temporal_reference(bytes(packet)))

    def compute(self, times: list[int | None]) -> FrameTimes:
        """
        Compute the times of all frames.

        Args:
            times: of the packets, as the demuxer computes them from durations.
        """
        stated = stated_rate(self._stream)
        known = [t for t in times if t is not None]
        complete = len(known) == len(times)
        if stated and self._references:
            return FrameTimes(self._h263_times(stated), False)
        if stated is None and self._given is not None:
            return FrameTimes(self._count(len(times), Fraction(self._given)), False)
        pts = np.sort(np.asarray(known, np.int64))
        if complete and not (stated and self._is_irregular(pts)):
            return FrameTimes(pts, True, stated is None)
        if stated is not None:
            return FrameTimes(self._count(len(times), stated), False)
        ticks = ticks_per_frame(self._stream)
        return FrameTimes(np.arange(len(times), dtype=np.int64) * ticks, False, True)

    def _is_irregular(self, pts: Integers) -> bool:
        """Whether times are not those of frames of equal duration: FFmpeg may add a gap."""
        return (
            len(self._durations) == 1
            and None not in self._durations
            and 0 not in self._durations
            and len(np.unique(np.diff(pts))) > 1
        )

    def _count(self, frames: int, rate: Fraction) -> Integers:
        return self._to_ticks(np.arange(frames, dtype=np.int64), rate)

    def _h263_times(self, rate: Fraction) -> Integers:
        """Compute times from temporal references: they count in frames, modulo 256."""
        steps = np.diff(self._references) % 256
        if np.any(steps == 0):  # some encoders do not count
            steps[:] = 1
        return self._to_ticks(np.concatenate([[0], np.cumsum(steps)]), rate)

    def _to_ticks(self, frames: Integers, rate: Fraction) -> Integers:
        ticks = float(1 / (rate * self._stream.time_base))
        return np.round(frames * ticks).astype(np.int64)


def h263_temporal_reference(data: bytes) -> int:
    """Read the 8 bits that follow the 22 bits of a picture start code of H.263."""
    return int.from_bytes(data[:4].ljust(4, b"\0"), "big") >> 2 & 0xFF
