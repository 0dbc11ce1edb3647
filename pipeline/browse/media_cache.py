"""A cache of encoded images and clips, bounded in bytes; each entry is computed once at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future


class MediaCache:
    """
    Keeps the entries that were used last.

    Args:
        max_bytes: of all entries.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, bytes] = OrderedDict()
        self._running: dict[Hashable, Future[bytes]] = {}
        self._num_bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, compute: Callable[[], bytes]) -> bytes:
        """Return an entry; threads that ask for the same one wait for the first. Errors pass on."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key]
            waiting = self._running.get(key)
            if waiting is None:
                future: Future[bytes] = Future()
                self._running[key] = future
        if waiting is not None:
            return waiting.result()
        try:
            data = compute()
        except BaseException as error:
            with self._lock:
                del self._running[key]
            future.set_exception(error)
            raise
        with self._lock:
            del self._running[key]
            self._keep(key, data)
        future.set_result(data)
        return data

    def _keep(self, key: Hashable, data: bytes) -> None:
        self._entries[key] = data
        self._num_bytes += len(data)
        while self._num_bytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self._num_bytes -= len(oldest)
