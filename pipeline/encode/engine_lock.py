"""The lock through which threads share an engine."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator


class EngineLock:
    """
    Lock for starting work on an engine, with a timer of when any thread used it.

    Acquire the lock only to start work: while one thread waits for its features, the next one may
    start. Enclose both in `busy`::

        with lock.busy():
            with lock.start:
                features = engine.start(images)
            values = features()
    """

    def __init__(self) -> None:
        self.start = threading.Lock()
        """Hold it while calling `Engine.start`."""
        self.busy_seconds = 0.0
        """Time in which at least one thread used the engine."""
        self.last_end: float | None = None
        """`time.monotonic` of when the last use ended; None before the first."""
        self._timer_lock = threading.Lock()
        self._users = 0
        self._since = 0.0

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Count the time of the block; time that several threads share is counted once."""
        with self._timer_lock:
            if not self._users:
                self._since = time.monotonic()
            self._users += 1
        try:
            yield
        finally:
            with self._timer_lock:
                self._users -= 1
                if not self._users:
                    self.last_end = time.monotonic()
                    self.busy_seconds += self.last_end - self._since

    def idle_seconds(self, since: float) -> float:
        """Return the time without work, from `since` (`time.monotonic`) to the end of the last."""
        if self.last_end is None:
            return 0.0
        return max(0.0, self.last_end - since - self.busy_seconds)
