"""Counters that stages in many threads add to."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.tally import Tally, Turns


def test_counts_from_many_threads_add_up():
    tally = Tally()
    with ThreadPoolExecutor(8) as threads:
        for _ in range(400):
            threads.submit(tally.add, clips=2, shards=1)

    assert (tally.clips, tally.shards) == (800, 400)


@pytest.mark.parametrize("part", ["timed", "starting"])
def test_time_is_added_even_where_a_stage_fails(part):
    tally = Tally()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), getattr(tally, part)("decode"):
            raise ZeroDivisionError

    assert (tally.seconds if part == "timed" else tally.startup)["decode"] > 0


class Clock:
    """Stands in for the time of day."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


class TestTurns:
    def test_one_thread_at_a_time(self):
        turns, inside, most = Turns(), [], []

        def take():
            with turns:
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

        with ThreadPoolExecutor(8) as threads:
            for _ in range(20):
                threads.submit(take)

        assert most == [1] * 20
        assert turns.busy_seconds >= 0.02

    def test_waiting_is_not_being_busy(self):
        turns, entered = Turns(), threading.Event()

        def wait():
            entered.set()
            with turns:
                pass

        start = time.monotonic()
        with turns:
            thread = threading.Thread(target=wait)
            thread.start()
            entered.wait()
            time.sleep(0.05)
        thread.join()

        # were the other thread's waiting counted, it would be about twice as long
        assert 0.05 <= turns.busy_seconds <= time.monotonic() - start

    def test_a_turn_that_fails_ends(self):
        turns = Turns()
        with pytest.raises(ZeroDivisionError), turns:
            raise ZeroDivisionError

        with turns:
            pass


class TestIdle:
    def test_it_is_what_is_left_until_the_last_turn(self, monkeypatch):
        clock = Clock(monkeypatch)
        tally = Tally()
        clock.now = 200.0
        tally.begin()
        for start, end in ((203.0, 205.0), (206.0, 210.0)):
            clock.now = start
            with tally.engine:
                clock.now = end
        clock.now = 300.0

        assert tally.engine.busy_seconds == 6
        assert tally.engine_idle_seconds == 4

    def test_an_engine_that_was_never_used_was_never_awaited(self):
        assert Tally().engine_idle_seconds == 0
