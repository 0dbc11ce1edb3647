"""Counters that stages in many threads add to."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.tally import Tally


def test_counts_from_many_threads_add_up():
    tally = Tally()
    with ThreadPoolExecutor(8) as threads:
        for _ in range(400):
            threads.submit(tally.add, clips=2, shards=1)

    assert (tally.clips, tally.shards) == (800, 400)


def test_time_is_added_even_where_a_stage_fails():
    tally = Tally()
    with pytest.raises(ZeroDivisionError), tally.timed("decode"):
        raise ZeroDivisionError

    assert tally.seconds["decode"] > 0
