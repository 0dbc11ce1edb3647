"""Read the containers of videos a little ahead of planning, in the decode processes."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import partial

from pipeline.decode.fallback import failure_report, index_video
from pipeline.decode.process_pool import INDEX_PRIORITY, DecodePool, PoolStopped
from pipeline.errors import MachineError, VideoError
from pipeline.records import DecodeReport, Video, VideoIndex

LOOK_AHEAD_VIDEOS = 128
"""Videos whose containers are read before they are planned."""
LOOK_AHEAD_BYTES = 4 << 30
"""Their size: what is read long before it is decoded has left the page cache by then."""
INDEX_ATTEMPTS = 3
"""Attempts to read one container on a machine that fails."""

logger = logging.getLogger(__name__)

Indexed = tuple[Video, VideoIndex | DecodeReport | MachineError]
"""A video, and its index; or why it cannot be used; or the error of the machine."""


def index_ahead(pool: DecodePool, videos: Sequence[Video]) -> Iterator[Indexed]:
    """Read the containers of videos, in order; some of those that follow are read meanwhile."""
    ahead: deque[tuple[Video, Future[VideoIndex]]] = deque()
    for video in videos:
        ahead.append((video, _submit(pool, video)))
        while (
            len(ahead) >= LOOK_AHEAD_VIDEOS
            or sum(video.size_bytes for video, _ in ahead) > LOOK_AHEAD_BYTES
        ):
            yield _result(pool, *ahead.popleft())
    while ahead:
        yield _result(pool, *ahead.popleft())


def _submit(pool: DecodePool, video: Video) -> Future[VideoIndex]:
    return pool.submit(partial(index_video, video=video), INDEX_PRIORITY)


def _result(pool: DecodePool, video: Video, future: Future[VideoIndex]) -> Indexed:
    for attempt in range(1, INDEX_ATTEMPTS + 1):
        try:
            return video, future.result()
        except VideoError as error:
            return video, failure_report(error)
        except PoolStopped:
            raise
        except MachineError as error:
            logger.warning("reading the container of %s failed: %r", video.path, error)
            if attempt == INDEX_ATTEMPTS:
                return video, error
            future = _submit(pool, video)
    raise AssertionError("unreachable")
