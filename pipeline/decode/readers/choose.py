"""Choose the order in which readers are tried for one video."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.decode.readers.base import Reader, Request
from pipeline.decode.readers.decord import DecordReader
from pipeline.decode.readers.images import ImageReader
from pipeline.decode.readers.opencv import OpenCVReader
from pipeline.decode.readers.pillow import PillowReader
from pipeline.decode.readers.pyav import PyAVReader
from pipeline.records import VideoIndex

READERS: dict[str, Callable[[Request], Reader]] = {
    "decord": DecordReader,
    "opencv": OpenCVReader,
    "pyav": PyAVReader,
    "images": ImageReader,
    "pillow": PillowReader,
}
"""Readers by their name in the column `decoder`."""
ONLY_READERS = {"images": "images", "webp": "pillow"}
"""Formats that only one of the readers can read."""
ONE_FRAME_PER_PACKET = frozenset(
    {"h264", "hevc", "av1", "libdav1d", "libaom-av1", "vp9", "mjpeg", "prores", "dnxhd", "gif"}
)
"""Codecs in which every packet holds one frame, so that frames can be counted by packets."""
SAME_RGB_FORMATS = frozenset(
    {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "gray"}
)
"""Pixel formats that all readers convert to identical RGB."""
MAX_DECORD_PIXELS = 480 * 360
"""Pixels per frame up to which dense reading tries Decord first. For speed only: above, PyAV is
faster, because Decord copies every frame once more (a quarter slower at 854 × 480)."""


def has_one_frame_per_packet(index: VideoIndex) -> bool:
    """Whether every packet holds one frame, so that missing frames can be counted."""
    # broadcast H.264 may store the two fields of a frame in two packets
    return index.codec in ONE_FRAME_PER_PACKET and not index.interlaced


def has_same_rgb(index: VideoIndex) -> bool:
    """Whether all readers give identical RGB: they round 10 bits and odd sizes differently."""
    return index.pixel_format in SAME_RGB_FORMATS and index.width % 2 == index.height % 2 == 0


def choose_readers(
    index: VideoIndex, *, sparse: bool, middle: bool, all_frames: bool = False
) -> tuple[str, ...]:
    """
    Order the readers for one video: first the fastest one that is reliable for it.

    * Decord hangs when frames are skipped by index, so it reads sequentially in its strict mode;
      it cannot select a stream.
    * OpenCV converts only the frames that are needed, but turns interlaced frames black (5.0).
    * PyAV reports every packet that cannot be decoded, and can start in the middle of a file.

    Args:
        index: of the container.
        sparse: fewer than half of the frames are needed.
        middle: the chunk does not start at the beginning of the video.
        all_frames: the small picture of every frame is needed, which PyAV makes without RGB.
    """
    if index.format in ONLY_READERS:
        return (ONLY_READERS[index.format],)
    plain = (
        not middle
        and index.steady
        and index.timed
        and index.packets_discarded == index.packets_empty == 0
        and index.video_streams == 1
        and has_one_frame_per_packet(index)
        and has_same_rgb(index)
        and len(index.pts) > 1
        and not index.truncated
        and not index.problem
    )
    if not plain:
        return ("pyav", "opencv", "decord")
    if sparse and not all_frames:
        return ("opencv", "pyav", "decord")
    if index.width * index.height > MAX_DECORD_PIXELS:
        return ("pyav", "decord", "opencv")
    return ("decord", "pyav", "opencv")
