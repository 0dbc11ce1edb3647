"""
Identify videos by their content.

A renamed or moved file is the same video; a changed one is another video.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.records import Video
from pipeline.sources.image_sequence import image_files
from pipeline.sources.raw_streams import may_be_raw_stream

BLOCK_BYTES = 64 << 10
MIDDLE_BLOCKS = 6
"""Blocks hashed between the first and the last one of a large file."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file or an image sequence, before its content is read."""

    path: str
    """As the user named it, printable."""
    location: str
    """Absolute path for the operating system."""
    kind: Literal["file", "images"]
    beside_videos: bool = False
    """Whether these are images beside videos: left out if they have no frame rate."""


def identify(source: Source, image_fps: float | None, full_hash: bool = False) -> Video:
    """Fingerprint a source; one that cannot be read becomes a video with a `failure`."""
    try:
        if source.kind == "images":
            assert image_fps is not None
            files = image_files(source.location)
            size = sum(path.stat().st_size for path in files)
            named = not os.path.isfile(source.location)  # the name of a stack means nothing
            video_id = _fingerprint_images(files, image_fps, full_hash, named=named)
            return Video(source.path, source.location, "images", video_id, size, image_fps)
        video_id, size = _fingerprint_file(source.location, full_hash)
        if image_fps is not None and may_be_raw_stream(source.location):
            # its frame times may depend on the rate
            video_id = _hash([b"raw", repr(float(image_fps)).encode(), video_id.encode()])
            return Video(source.path, source.location, "file", video_id, size, image_fps)
        return Video(source.path, source.location, "file", video_id, size)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        failure = (
            "missing" if missing else "unreadable",
            f"{_reason(error, source)}: {source.path}",
        )
        # without content, the path is hashed instead
        video_id = _hash([b"unread", os.fsencode(source.location)])
        return Video(source.path, source.location, source.kind, video_id, 0, None, failure)


def _reason(error: OSError, source: Source) -> str:
    if "://" in source.location:
        return "a URL: fetch it first"
    if isinstance(error, IsADirectoryError):
        return "a folder without videos"
    return error.strerror or str(error)


def _hash(parts: Iterable[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _fingerprint_file(location: str, full: bool) -> tuple[str, int]:
    # non-blocking: a pipe or a device in the folder must not block
    descriptor = os.open(location, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "not a regular file")
        return _hash(_blocks(file.fileno(), status.st_size, full)), status.st_size


def _blocks(descriptor: int, size: int, full: bool) -> Iterator[bytes]:
    """Yield the size, then a small file as a whole, or blocks at equal distances of a large one."""
    yield size.to_bytes(8, "little")
    if full:
        yield b"full"
    if full or size <= (MIDDLE_BLOCKS + 2) * BLOCK_BYTES:
        for start in range(0, size, 1 << 20):
            yield os.pread(descriptor, 1 << 20, start)
        return
    step = (size - BLOCK_BYTES) / (MIDDLE_BLOCKS + 1)
    for number in range(MIDDLE_BLOCKS + 2):
        yield os.pread(descriptor, BLOCK_BYTES, round(number * step))


def _fingerprint_images(files: list[Path], fps: float, full: bool, *, named: bool) -> str:
    # frame times depend on the rate and on the numbers in the names: both are hashed
    parts: list[bytes] = [b"images", repr(float(fps)).encode()]
    for path in files:
        name = [os.fsencode(path.name)] if named else []
        parts += [*name, _fingerprint_file(str(path), full)[0].encode()]
    return _hash(parts)
