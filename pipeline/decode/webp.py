"""Index animated WebP files from their chunks: FFmpeg reads none of their frames."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from pipeline.errors import VideoError
from pipeline.records import VideoIndex

MIN_DURATION_MS, DEFAULT_DURATION_MS = 11, 100
"""Browsers show frames with a shorter duration for a tenth of a second."""


def read_webp_index(location: str, max_pixels: int) -> VideoIndex:
    """
    Index an animated WebP.

    Args:
        location: absolute path of the file.
        max_pixels: maximum width times height.

    Raises:
        VideoError: no frame, or too large.
    """
    with open(location, "rb") as file:
        head = file.read(30)
        durations = list(_durations(file))
        size = os.fstat(file.fileno()).st_size
    if len(head) < 30 or not durations:
        raise VideoError("undecodable", "an animated WebP without a frame")
    width, height = (1 + int.from_bytes(head[i : i + 3], "little") for i in (24, 27))
    if width * height > max_pixels:
        raise VideoError(
            "too_large",
            f"claims {width} × {height} pixels; at most {max_pixels:,} are allowed (--max-pixels)",
        )
    shown = [ms if ms >= MIN_DURATION_MS else DEFAULT_DURATION_MS for ms in durations]
    claimed = int.from_bytes(head[4:8], "little") + 8
    return VideoIndex(
        format="webp",
        codec="webp",
        pixel_format="rgba",
        width=width,
        height=height,
        rotation=0,
        mirrored=False,
        interlaced=False,
        stream=0,
        video_streams=1,
        time_base=(1, 1000),
        pts=np.cumsum([0, *shown[:-1]]),
        last_duration=shown[-1],
        start_ticks=0,
        packets=len(shown),
        packets_discarded=0,
        frames_from_header=None,
        problem=f"cut off: {size:,} of {claimed:,} bytes" if size < claimed else "",
    )


def _durations(file: BinaryIO) -> Iterator[int]:
    """Yield the duration of each frame in milliseconds, to the end or the first damage."""
    file.seek(12)
    while len(header := file.read(8)) == 8:
        kind, size = struct.unpack("<4sI", header)
        data = file.read(16) if kind == b"ANMF" else b""
        if len(data) == 16:
            yield int.from_bytes(data[12:15], "little")
        file.seek(size + size % 2 - len(data), os.SEEK_CUR)
