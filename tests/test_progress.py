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


def test_time_is_added_even_where_a_part_of_the_start_fails():
    progress = RunProgress()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), progress.starting("engine"):
            raise ZeroDivisionError

    assert progress.startup["engine"] > 0


def test_results_of_shards_add_up():
    progress = RunProgress()
    progress.add_result({"clips": 2, "shards": 1}, {"decode": 1.5})
    progress.add_result({"clips": 3, "shards": 1}, {"decode": 0.5, "write": 0.25})

    assert (progress.clips, progress.shards) == (5, 2)
    assert progress.seconds == {"decode": 2.0, "write": 0.25}
