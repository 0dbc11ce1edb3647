"""
What was measured, and what follows from it: floor, efficiency, bottleneck, hours.

Rates are sampled frames a second, unless a name says otherwise.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.config import ReaderName

SECONDS_AN_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Timed:
    """Several measurements of one thing."""

    frames: int
    """Of each measurement."""
    seconds: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Frames a second, the median."""
        return self.frames / statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Slowest less fastest measurement, as a share of the median."""
        return (max(self.seconds) - min(self.seconds)) / statistics.median(self.seconds)


LEAST_SECONDS = 0.4
"""Of one measurement: work that takes less is done several times for it."""


def measure(work: Callable[[], int], repeats: int) -> Timed:
    """
    Time some work after doing it once unmeasured.

    Args:
        work: gives the frames that it did, the same number every time.
        repeats: measurements.
    """
    frames = work()
    turns = max(1, math.ceil(LEAST_SECONDS / max(seconds_of(work), 1e-6)))

    def often() -> None:
        for _ in range(turns):
            work()

    return Timed(frames * turns, tuple(seconds_of(often) for _ in range(repeats)))


def seconds_of(work: Callable[[], Any]) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def rounded(rate: float) -> str:
    """Write a rate; of few samples of long videos there is less than one a second."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


@dataclass(frozen=True, slots=True)
class DecodeRate:
    """How fast one reader decodes, in decoded frames a second."""

    reader: ReaderName
    per_core: float | None
    """None where the reader refuses the videos."""
    all_cores: float | None


@dataclass(frozen=True, slots=True)
class EngineRate:
    """How fast one engine encodes frames that lie in memory."""

    engine: str
    precision: str
    rate: float
    """Decoded frames to features: cut to size, then the network."""
    network: float
    """The network alone, on pictures of its own size."""
    cosine_min: float
    """Between its features and those of torch in float32, of the frame where they agree least."""
    cosine_mean: float


@dataclass(frozen=True, slots=True)
class Roofline:
    """What the parts allow, and what a run makes of it."""

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
    """Decoded frames a second of the fastest reader on all cores, measured in turn with the run."""
    engine: float
    """Rate of the engine that the run uses, measured in turn with the run."""
    run: float
    """Rate of the whole run."""
    run_spread: float
    naive: float | None
    startup_seconds: float
    """Before the first frame."""
    precision: str
    """Of the run."""

    @property
    def decode_rate(self) -> float:
        """Sampled frames a second that the fastest reader gives on all cores."""
        return self.reader * self.frames / self.decoded

    @property
    def floor(self) -> float:
        """The rate that decoding and the engine allow when no core ever waits."""
        decode, engine = 1 / self.decode_rate, 1 / self.engine
        return 1 / (decode + engine) if self.shared else 1 / max(decode, engine)

    @property
    def efficiency(self) -> float:
        """What the run makes of the floor."""
        return self.run / self.floor

    @property
    def share_of_engine(self) -> float:
        """What the run makes of the engine alone."""
        return self.run / self.engine

    @property
    def share_of_reader(self) -> float:
        """What the run makes of the fastest reader alone."""
        return self.run / self.decode_rate

    @property
    def times_naive(self) -> float | None:
        """How many times as fast as the naive loop the run is; None where that was not run."""
        return self.run / self.naive if self.naive else None

    @property
    def bottleneck(self) -> str:
        """What to make faster first, in words."""
        decode, engine = 1 / self.decode_rate, 1 / self.engine
        slower, name = max((decode, "decoding"), (engine, "the engine"))
        if self.shared:
            share = slower / (decode + engine)
            return f"{name}: {share:.0%} of the work of the {self.cores} cores"
        return f"{name}: {slower / min(decode, engine):.1f} times slower than the other"

    def hours(self, video_hours: float) -> float:
        """Predict the hours that a run over so many hours of such video takes."""
        frames = self.frames / self.video_seconds * video_hours * SECONDS_AN_HOUR
        return (frames / self.run + self.startup_seconds) / SECONDS_AN_HOUR

    def to_json(self) -> dict[str, Any]:
        """Plain values, what follows from them included."""
        follows = {
            "floor": self.floor,
            "efficiency": self.efficiency,
            "decode_rate": self.decode_rate,
            "share_of_engine": self.share_of_engine,
            "share_of_reader": self.share_of_reader,
            "times_naive": self.times_naive,
            "bottleneck": self.bottleneck,
        }
        return {**asdict(self), **follows}
