from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.browse.media_cache import MediaCache


def forbidden():
    raise AssertionError("computed again")


def test_an_entry_is_computed_once():
    cache = MediaCache(100)

    assert cache.get("a", lambda: b"1") == b"1"
    assert cache.get("a", forbidden) == b"1"


def test_what_was_used_last_is_kept():
    cache = MediaCache(10)
    for key in "abc":
        cache.get(key, lambda: bytes(4))

    cache.get("b", forbidden)
    cache.get("c", forbidden)
    assert cache.get("a", lambda: b"again") == b"again"


def test_an_entry_over_the_limit_is_not_kept():
    cache = MediaCache(3)

    assert cache.get("a", lambda: bytes(4)) == bytes(4)
    assert cache.get("a", lambda: b"2") == b"2"


def test_requests_for_the_same_entry_wait_for_the_first():
    cache, started, go_on = MediaCache(100), threading.Event(), threading.Event()

    def compute():
        started.set()
        go_on.wait(30)
        return b"1"

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(cache.get, "a", compute)
        assert started.wait(30)
        second = threads.submit(cache.get, "a", forbidden)
        go_on.set()
        assert first.result(30) == second.result(30) == b"1"


def test_errors_are_not_kept():
    cache = MediaCache(100)

    with pytest.raises(AssertionError, match="computed again"):
        cache.get("a", forbidden)
    assert cache.get("a", lambda: b"1") == b"1"
