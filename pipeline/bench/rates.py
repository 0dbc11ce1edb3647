"""
Measured rates, and what follows from them: bound, efficiency, bottleneck, hours.

Rates are sampled frames per second, unless a name says otherwise.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.config import ReaderName

SECONDS_PER_HOUR = 3600.0
MIN_SECONDS = 0.4
"""Time of one repetition, at least: work that takes less is repeated more often."""


@dataclass(frozen=True, slots=True)
class Timed:
    """Repeated measurements of the same work."""

    frames: int
    """Of each measurement."""
    seconds: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Median of the frames per second."""
        return self.frames / statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Difference between the slowest and the fastest measurement, relative to the median."""
        return (max(self.seconds) - min(self.seconds)) / statistics.median(self.seconds)


def measure(work: Callable[[], int], repeats: int, seconds: float) -> Timed:
    """
    Time some work, after one warm-up call.

    The time limit has priority over the number of repetitions. If the warm-up call alone takes
    longer, its time is the result.

    Args:
        work: returns the number of frames that it processed, the same in every call.
        repeats: number of measurements, at least; short work is measured more often.
        seconds: no call is started after this time, the warm-up call included.
    """
    start = time.perf_counter()
    frames = work()
    warm_up = time.perf_counter() - start
    measured: list[float] = []
    while time.perf_counter() - start < seconds and (
        len(measured) < repeats or sum(measured) < repeats * MIN_SECONDS
    ):
        measured.append(seconds_of(work))
    return Timed(frames, tuple(measured or [warm_up]))


def seconds_of(work: Callable[[], Any]) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def format_rate(rate: float | None) -> str:
    """Format a rate; sparse samples of long videos give less than one frame per second."""
    if rate is None:
        return "-"
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


@dataclass(frozen=True, slots=True)
class DecodeRate:
    """How fast one reader decodes, in decoded frames per second."""

    reader: ReaderName
    per_core: float | None
    """None if the reader refuses one of the videos."""
    all_cores: float | None


@dataclass(frozen=True, slots=True)
class EngineRate:
    """How fast one engine encodes frames that are in memory."""

    engine: str
    precision: str
    rate: float
    """From decoded frames to features: resizing, then the network."""
    network: float | None
    """The network alone, on images of its input size. None if the engine is so slow that only a
    few frames were encoded."""
    cosine_min: float
    """Smallest cosine similarity of a frame, between its features and those of torch in float32."""
    cosine_mean: float


@dataclass(frozen=True, slots=True)
class Roofline:
    """What decoding and the engine allow, and what a whole run reaches."""

    name: str
    """Of the videos."""
    videos: int
    frames: int
    """Sampled frames of all videos."""
    decoded: int
    """Frames that must be decoded for them."""
    video_seconds: float
    cores: int
    shared: bool
    """Whether decoding and the engine use the same cores, so that their times add up."""
    decode: tuple[DecodeRate, ...]
    engines: tuple[EngineRate, ...]
    reader: float
    """Decoded frames per second of the fastest reader on all cores, measured in turn with the
    run."""
    engine: float
    """Rate of the engine that the run uses, measured in turn with the run."""
    run: float
    """Rate of the whole run."""
    run_spread: float
    startup_seconds: float
    """Before the first frame."""
    precision: str
    """Of the run."""

    @property
    def decode_rate(self) -> float:
        """Sampled frames per second that the fastest reader decodes on all cores."""
        return self.reader * self.frames / self.decoded

    @property
    def bound(self) -> float:
        """Upper bound of the rate: what decoding and the engine allow if no core is ever idle."""
        decode, engine = 1 / self.decode_rate, 1 / self.engine
        return 1 / (decode + engine) if self.shared else 1 / max(decode, engine)

    @property
    def efficiency(self) -> float:
        """Rate of the run relative to the bound."""
        return self.run / self.bound

    @property
    def share_of_engine(self) -> float:
        """Rate of the run relative to the engine alone."""
        return self.run / self.engine

    @property
    def share_of_reader(self) -> float:
        """Rate of the run relative to the fastest reader alone."""
        return self.run / self.decode_rate

    @property
    def bottleneck(self) -> str:
        """Describe the slower one of decoding and the engine."""
        decode, engine = 1 / self.decode_rate, 1 / self.engine
        slower, name = max((decode, "decoding"), (engine, "the engine"))
        if self.shared:
            share = slower / (decode + engine)
            return f"{name}: {share:.0%} of the work of the {self.cores} cores"
        return f"{name}: {slower / min(decode, engine):.1f} times slower than the other"

    def hours(self, video_hours: float) -> float:
        """Predict how many hours a run over so many hours of such video takes."""
        frames = self.frames / self.video_seconds * video_hours * SECONDS_PER_HOUR
        return (frames / self.run + self.startup_seconds) / SECONDS_PER_HOUR

    def to_json(self) -> dict[str, Any]:
        """Return plain values, including the derived ones."""
        derived = {
            "bound": self.bound,
            "efficiency": self.efficiency,
            "decode_rate": self.decode_rate,
            "share_of_engine": self.share_of_engine,
            "share_of_reader": self.share_of_reader,
            "bottleneck": self.bottleneck,
        }
        return {**asdict(self), **derived}
