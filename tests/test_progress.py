"""Counters that stages in many threads add to."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.progress import RunProgress, Turns


def test_counts_from_many_threads_add_up():
    progress = RunProgress()
    with ThreadPoolExecutor(8) as threads:
        for _ in range(400):
            threads.submit(progress.add, clips=2, shards=1)

    assert (progress.clips, progress.shards) == (800, 400)


@pytest.mark.parametrize("part", ["timed", "starting"])
def test_time_is_added_even_where_a_stage_fails(part):
    progress = RunProgress()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), getattr(progress, part)("decode"):
            raise ZeroDivisionError

    assert (progress.seconds if part == "timed" else progress.startup)["decode"] > 0


class Clock:
    """Stands in for the time of day."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


class TestTurns:
    def test_time_of_several_threads_counts_once(self, monkeypatch):
        clock = Clock(monkeypatch)
        turns = Turns()
        with turns.at_work():
            clock.now = 103.0
            with turns.at_work():
                clock.now = 104.0
            assert turns.busy_seconds == 0  # somebody is still at it
            clock.now = 107.0
        clock.now = 110.0
        with turns.at_work():
            clock.now = 111.0

        assert turns.busy_seconds == 8
        assert turns.last_end == 111

    def test_many_threads_leave_nobody_at_it(self):
        turns = Turns()

        def work():
            with turns.at_work():
                time.sleep(0.001)

        start = time.monotonic()
        with ThreadPoolExecutor(8) as threads:
            for _ in range(40):
                threads.submit(work)

        assert 0.005 <= turns.busy_seconds <= time.monotonic() - start

    def test_work_that_fails_ends(self, monkeypatch):
        clock = Clock(monkeypatch)
        turns = Turns()

        def fail():
            with turns.at_work():
                clock.now = 102.0
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()

        assert turns.busy_seconds == 2


class TestIdle:
    def test_it_is_what_is_left_until_the_last_turn(self, monkeypatch):
        clock = Clock(monkeypatch)
        progress = RunProgress()
        clock.now = 200.0
        progress.begin()
        for start, end in ((203.0, 205.0), (206.0, 210.0)):
            clock.now = start
            with progress.engine.at_work():
                clock.now = end
        clock.now = 300.0

        assert progress.engine.busy_seconds == 6
        assert progress.engine_idle_seconds == 4

    def test_an_engine_that_was_never_used_was_never_awaited(self):
        assert RunProgress().engine_idle_seconds == 0
