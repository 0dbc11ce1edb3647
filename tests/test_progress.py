"""Counters that stages in many threads add to."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.progress import RunProgress


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
