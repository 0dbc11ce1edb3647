"""Recognize files that are raw video streams, without a container."""

from __future__ import annotations

from pathlib import Path

RAW_SUFFIXES = frozenset({".mjpeg", ".mjpg", ".h261", ".h263", ".263", ".obu"})
"""Of raw streams that do not begin with a start code of three or four bytes."""
START_CODES = (b"\0\0\1", b"\0\0\0\1")
OTHER_START_CODES = (b"\0\0\1\xba", b"\0\0\1\xbb")
"""Of MPEG program streams, which have times."""
BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"moof"})
"""Types of the first box of an MP4 file, behind its size."""


def may_be_raw_stream(location: str) -> bool:
    """
    Return whether a file looks like a raw video stream, by its first bytes or its suffix.

    Raises:
        OSError: the file cannot be read.
    """
    with open(location, "rb") as file:
        head = file.read(8)
    if head[4:8] in BOXES or head.startswith(OTHER_START_CODES):
        return False
    return head.startswith(START_CODES) or Path(location).suffix.lower() in RAW_SUFFIXES
