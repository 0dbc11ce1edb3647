"""Count the dropped frames of an AVI file: chunks of zero bytes, which FFmpeg's demuxer skips."""

from __future__ import annotations

from typing import BinaryIO

CHUNK_HEADER = 8
LISTS = (b"RIFF", b"LIST")
ENTERED_LISTS = (b"AVI ", b"AVIX", b"movi", b"rec ")
"""Types of lists that hold frames, or lists of them."""


def count_empty_chunks(location: str, stream: int) -> int:
    """
    Count the frames of a video stream that are stored as zero bytes.

    Args:
        location: of an AVI file; one that is damaged is read up to the damage.
        stream: index of the stream.
    """
    codes = {f"{stream:02}{kind}".encode() for kind in ("dc", "db")}
    with open(location, "rb") as file:
        return sum(size == 0 and code in codes for code, size in _chunks(file))


def _chunks(file: BinaryIO) -> list[tuple[bytes, int]]:
    """List the codes and sizes of all chunks in the lists that hold frames."""
    found: list[tuple[bytes, int]] = []
    head = file.read(CHUNK_HEADER + 4)
    position = 0
    while len(head) >= CHUNK_HEADER:
        code, size = head[:4], int.from_bytes(head[4:8], "little")
        if code in LISTS and head[8:12] in ENTERED_LISTS:
            position += CHUNK_HEADER + 4
        else:
            found.append((code, size))
            position += CHUNK_HEADER + size + size % 2
        file.seek(position)
        head = file.read(CHUNK_HEADER + 4)
    return found
