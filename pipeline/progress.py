"""What a run has done so far, counted by its stages and read by whoever shows progress."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass
class RunProgress:
    """Counters that many threads add to."""

    videos_total: int = 0
    videos_done: int = 0
    videos_skipped: int = 0
    """Found finished."""
    videos_failed: int = 0
    """Without any frame."""
    videos_partial: int = 0
    clips: int = 0
    frames_decoded: int = 0
    frames_encoded: int = 0
    frames_reused: int = 0
    """Whose features were found in the store."""
    shards: int = 0
    bytes_pictures: int = 0
    """Pictures that waited for the engine."""
    bytes_features: int = 0
    """Features, written to the store."""
    started: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)
    """Time spent in each stage, added up over the shards in flight."""
    startup: dict[str, float] = field(default_factory=dict)
    """Time spent before the first shard; what goes on at the same time counts in each."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def begin(self) -> None:
        """Note that the shards begin now."""
        self.started = time.monotonic()

    def add(self, **counts: int) -> None:
        """Add to counters."""
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)

    def add_result(self, counts: Mapping[str, int], seconds: Mapping[str, float]) -> None:
        """Add what one shard gave."""
        self.add(**counts)
        with self._lock:
            for stage, value in seconds.items():
                self.seconds[stage] = self.seconds.get(stage, 0.0) + value

    @contextlib.contextmanager
    def starting(self, part: str) -> Iterator[None]:
        """Add the time of a part of the start."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                passed = time.perf_counter() - start
                self.startup[part] = self.startup.get(part, 0.0) + passed
