"""Counters and timings of a run, updated while it runs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass
class RunProgress:
    """Counters and timings of a run; threads may share it."""

    videos_total: int = 0
    videos_done: int = 0
    videos_skipped: int = 0
    """Finished in an earlier run."""
    videos_failed: int = 0
    """No frame could be decoded."""
    videos_partial: int = 0
    clips: int = 0
    frames_decoded: int = 0
    frames_encoded: int = 0
    frames_reused: int = 0
    """Frames whose features were in the store."""
    shards: int = 0
    bytes_pictures: int = 0
    """Size of the frames that waited for the engine."""
    bytes_features: int = 0
    """Size of the features that were written to the store."""
    started: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)
    """Time of each stage, summed over shards that run in parallel."""
    startup: dict[str, float] = field(default_factory=dict)
    """Time of each part of the start; parts may overlap."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def begin(self) -> None:
        """Start the clock of the run: the first shard is submitted next."""
        self.started = time.monotonic()

    def add(self, **counts: int) -> None:
        """Add to counters."""
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)

    def add_result(self, counts: Mapping[str, int], seconds: Mapping[str, float]) -> None:
        """Add the result of one shard."""
        self.add(**counts)
        with self._lock:
            for stage, value in seconds.items():
                self.seconds[stage] = self.seconds.get(stage, 0.0) + value

    @contextlib.contextmanager
    def starting(self, part: str) -> Iterator[None]:
        """Measure a part of the start."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                passed = time.perf_counter() - start
                self.startup[part] = self.startup.get(part, 0.0) + passed
