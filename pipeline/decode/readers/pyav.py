"""Read with PyAV: exact times, seeking, and a report of every packet that fails."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import av.error
import numpy as np
from av.video.reformatter import VideoReformatter

from pipeline.decode.container_index import open_container
from pipeline.decode.packets import Packets
from pipeline.decode.readers.base import Frame, Request, rotate_upright
from pipeline.decode.shot_pictures import Picture, picture_of_luma
from pipeline.decode.unusable_files import error_text
from pipeline.records import Images

GREY_START_CODECS = frozenset(
    {"mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4", "wmv1", "wmv2", "h263", "h263i", "flv"}
)
"""Decoders that do not wait for a key frame: before it they predict from a grey frame. Whether a
frame is one is decided by the decoder, since not every container marks key frames."""
LUMA_FORMATS = frozenset(
    {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12"}
)
"""Pixel formats whose first plane is the luma, 8 bits a pixel."""
FULL_RANGE = 2
"""`color_range` of a frame whose black is 0, AVCOL_RANGE_JPEG."""
SEEK_BACK_SECONDS = (0.0, 3.0, 15.0)
"""How far before the start a seek aims, tried in turn: FFmpeg may land after the key frame."""


class PyAVReader:
    """Read with PyAV; skips packets that cannot be decoded, and counts them."""

    def __init__(self, request: Request) -> None:
        self.failed_ticks: list[int | None] = []
        self.problem = ""
        self._request = request
        # one for all frames: creating a converter costs more than converting a frame
        self._converter = VideoReformatter()

    def frames(self) -> Iterator[Frame]:
        """Decode, and continue after every packet that fails."""
        for back in (*SEEK_BACK_SECONDS, None):
            with open_container(self._request.location) as container:
                stream = container.streams[self._request.index.stream]
                stream.thread_type = "NONE"
                packets = self._packets(container, stream, back)
                if packets is None:
                    continue
                for frame in self._from_key_frame(self._decode(packets, stream)):
                    damaged = bool(frame.is_corrupt)
                    picture = partial(self._picture, frame) if _has_luma(frame) else None
                    yield Frame(frame.pts, partial(self._rgb, frame), damaged, picture)
                return

    def _packets(self, container: Any, stream: Any, back: float | None) -> Iterator[Any] | None:
        """
        Iterate over the packets from the key frame at or before the start.

        Args:
            container, stream: just opened.
            back: seconds before the start at which the seek aims; None reads from the beginning.

        Returns:
            None where the seek did not find such a key frame: not every container is seekable.
        """
        index, start = self._request.index, self._request.start
        packets = iter(Packets(container, stream))
        target = -math.inf
        if start is not None and back is not None:
            target = start - round(back / index.tick_seconds)
        if target <= index.pts[0]:
            return packets
        try:
            container.seek(target, stream=stream, backward=True)
            key = next((packet for packet in packets if packet.is_keyframe), None)
        except (av.error.FFmpegError, OSError):
            return None
        if key is None or key.pts is None or key.pts > start:
            return None
        known = key.is_discard or index.pts[np.searchsorted(index.pts, key.pts)] == key.pts
        return chain([key], packets) if known else None

    def _decode(self, packets: Iterator[Any], stream: Any) -> Iterator[Any]:
        try:
            for packet in packets:
                yield from self._try_decode(packet.decode, packet.pts)
        except (av.error.FFmpegError, OSError) as error:
            self._add_error(error, None)
        yield from self._try_decode(lambda: stream.codec_context.decode(None), None)

    def _from_key_frame(self, frames: Iterator[Any]) -> Iterator[Any]:
        """Leave out the frames before the first key frame, if their pixels are invented."""
        begun = self._request.index.codec not in GREY_START_CODECS
        for frame in frames:
            begun = begun or frame.key_frame
            if begun:
                yield frame
            else:
                self._add_failure(frame.pts, "no key frame to begin with")

    def _try_decode(self, decode: Callable[[], list[Any]], ticks: int | None) -> list[Any]:
        try:
            return decode()
        except EOFError:
            return []
        except (av.error.FFmpegError, OSError) as error:
            self._add_error(error, ticks)
            return []

    def _add_error(self, error: Exception, ticks: int | None) -> None:
        if isinstance(error, MemoryError):
            raise error  # not caused by a damaged packet
        self._add_failure(ticks, error_text(error))

    def _add_failure(self, ticks: int | None, reason: str) -> None:
        self.failed_ticks.append(ticks)
        self.problem = self.problem or reason

    def _picture(self, frame: Any) -> Picture:
        plane = frame.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        return picture_of_luma(
            rows[: frame.height, : frame.width],
            full_range=frame.format.name.startswith("yuvj") or frame.color_range == FULL_RANGE,
            rotation=self._request.index.rotation,
            mirrored=self._request.index.mirrored,
        )

    def _rgb(self, frame: Any) -> Images:
        # one thread: the other cores are busy, and splitting a frame takes longer than converting
        converted = self._converter.reformat(frame, format="rgb24", threads=1)
        plane = converted.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(converted.height, plane.line_size)
        image = rows[:, : converted.width * 3].reshape(converted.height, converted.width, 3)
        return rotate_upright(image, self._request.index)


def _has_luma(frame: Any) -> bool:
    return frame.format.name in LUMA_FORMATS
