"""The timer of the lock with which threads share an engine."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.encode.engine_lock import EngineLock


class Clock:
    """Replaces `time.monotonic`."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def test_time_that_threads_share_is_counted_once(monkeypatch):
    clock = Clock(monkeypatch)
    lock = EngineLock()
    with lock.busy():
        clock.now = 103.0
        with lock.busy():
            clock.now = 104.0
        assert lock.busy_seconds == 0  # another thread is still busy
        clock.now = 107.0
    clock.now = 110.0
    with lock.busy():
        clock.now = 111.0

    assert lock.busy_seconds == 8
    assert lock.last_end == 111


def test_after_many_threads_nothing_is_busy():
    lock = EngineLock()

    def work():
        with lock.busy():
            time.sleep(0.001)

    start = time.monotonic()
    with ThreadPoolExecutor(8) as threads:
        for _ in range(40):
            threads.submit(work)

    assert 0.005 <= lock.busy_seconds <= time.monotonic() - start


def test_work_that_fails_is_no_longer_busy(monkeypatch):
    clock = Clock(monkeypatch)
    lock = EngineLock()

    def fail():
        with lock.busy():
            clock.now = 102.0
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert lock.busy_seconds == 2


def test_idle_time_ends_with_the_last_use(monkeypatch):
    clock = Clock(monkeypatch)
    lock = EngineLock()
    for start, end in ((203.0, 205.0), (206.0, 210.0)):
        clock.now = start
        with lock.busy():
            clock.now = end
    clock.now = 300.0

    assert lock.busy_seconds == 6
    assert lock.idle_seconds(since=200.0) == 4


def test_an_unused_engine_has_no_idle_time():
    assert EngineLock().idle_seconds(since=0.0) == 0
