"""
Readers: three libraries and folders of images behind one protocol.

A reader gives the frames of one video in display order, upright, as RGB. Where a container is
sound and its pictures are plain, all of them give the same bit for bit; where not, `choose_readers`
knows which can be trusted:

* Decord hangs when frames are missed by number, so it is read in order and in its strict mode; it
  cannot choose a stream.
* OpenCV converts only the frames that are wanted, but turns every interlaced frame black (5.0).
* PyAV says what it could not decode, and can start in the middle of a file.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from pipeline.decode.container_index import choose_stream, open_container
from pipeline.decode.packets import Packets
from pipeline.records import Images, VideoIndex

PACKET_IS_PICTURE = frozenset(
    {"h264", "hevc", "av1", "libdav1d", "libaom-av1", "vp9", "mjpeg", "prores", "dnxhd", "gif"}
)
"""Codecs in which every packet gives one picture, so that frames can be counted by packets."""
DRAWS_FROM_GREY = frozenset(
    {"mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "wmv1", "wmv2", "h263", "h263i", "flv1"}
)
"""Codecs whose decoders do not wait for a key frame: until it comes, pictures are made up."""
ALIKE = frozenset({"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "gray"})
"""Pixel formats that all readers convert to the same RGB."""
DECORD_PIXELS = 480 * 360
"""Up to this size Decord is about as fast as PyAV; at 854 × 480 a quarter slower, for its pictures
pass through one more queue and one more copy."""
SEEK_BACK_SECONDS = (0.0, 3.0, 15.0)
"""How far before the wanted time a seek aims, in turn: FFmpeg may land behind the key frame."""


class ReaderRefused(Exception):
    """A reader says that it would not read this video rightly; another should."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a reader is asked for."""

    location: str
    index: VideoIndex
    start: int | None
    """Ticks of the first frame that is needed; None reads from the beginning."""
    wants: Callable[[int], bool]
    """Tells for the position of a frame whether its picture may be asked for."""


@dataclass(slots=True)
class Frame:
    """A decoded frame; `rgb` converts it."""

    ticks: int | None
    rgb: Callable[[], Images]
    damaged: bool = False
    """The decoder marked the picture as damaged."""


class Reader(Protocol):
    """Gives the frames of one video in display order."""

    refused: list[int | None]
    """Ticks of the packets, or images, that could not be decoded so far."""
    problem: str
    """The first thing that went wrong while reading."""

    def frames(self) -> Iterator[Frame]:
        """
        Decode from the beginning, or from a key frame at or before the start that was asked for.

        Raises:
            ReaderRefused: this reader cannot read this video, or not rightly.
        """


def packets_are_pictures(index: VideoIndex) -> bool:
    """Whether every packet gives one picture, so that what is missing can be counted."""
    # broadcast H.264 may store the two fields of a frame in two packets
    return index.codec in PACKET_IS_PICTURE and not index.interlaced


def converted_alike(index: VideoIndex) -> bool:
    """Whether all readers give the same RGB: 10 bits and odd sides are rounded differently."""
    return index.pixel_format in ALIKE and index.width % 2 == 0 and index.height % 2 == 0


def choose_readers(index: VideoIndex, *, sparse: bool, middle: bool) -> tuple[str, ...]:
    """
    Order the readers for one video: the fastest that can be trusted with it first.

    Args:
        index: what the container says.
        sparse: fewer than half of the frames are wanted.
        middle: the chunk does not start with the video.
    """
    if index.format == "images":
        return ("images",)
    plain = (
        not middle
        and index.steady
        and index.timed
        and index.packets_discarded == index.packets_empty == 0
        and index.video_streams == 1
        and packets_are_pictures(index)
        and converted_alike(index)
        and len(index.pts) > 1
        and not index.truncated
        and not index.problem
    )
    if not plain:
        return ("pyav", "opencv", "decord")
    if sparse:
        return ("opencv", "pyav", "decord")
    if index.width * index.height > DECORD_PIXELS:
        return ("pyav", "decord", "opencv")
    return ("decord", "pyav", "opencv")


def upright(picture: Images, index: VideoIndex) -> Images:
    """Turn a stored picture, (H, W, 3), as its container says."""
    if index.mirrored:
        picture = picture[:, ::-1]
    return np.rot90(picture, k=-index.rotation // 90) if index.rotation else picture


class PyAVReader:
    """Read with PyAV: every stream, exact times, a word for every packet that fails."""

    def __init__(self, request: Request) -> None:
        self.refused: list[int | None] = []
        self.problem = ""
        self._request = request

    def frames(self) -> Iterator[Frame]:
        """Decode, and go on after every packet that fails."""
        from av.video.reformatter import VideoReformatter

        # one for all frames: making a converter costs more than converting
        self._converter = VideoReformatter()
        for back in (*SEEK_BACK_SECONDS, None):
            with open_container(self._request.location) as container:
                stream, _ = choose_stream(container)
                stream.thread_type = "NONE"
                packets = self._packets(container, stream, back)
                if packets is None:
                    continue
                for frame in self._decode(packets, stream):
                    damaged = bool(frame.is_corrupt)
                    yield Frame(frame.pts, partial(self._rgb, frame), damaged)
                return

    def _packets(self, container: Any, stream: Any, back: float | None) -> Iterator[Any] | None:
        """
        Give the packets from the key frame at or before the start, aiming so many seconds before.

        Returns:
            None where the file does not lead there: not every container can be sought in.
        """
        import av.error

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
        import av.error

        try:
            waits = self._request.index.codec in DRAWS_FROM_GREY
            for packet in packets:
                waits = waits and not packet.is_keyframe
                if waits:
                    self._refuse(packet.pts, "no key frame to begin with")
                else:
                    yield from self._attempt(packet.decode, packet.pts)
        except (av.error.FFmpegError, OSError) as error:
            self._note(error, None)
        yield from self._attempt(lambda: stream.codec_context.decode(None), None)

    def _attempt(self, decode: Callable[[], list[Any]], ticks: int | None) -> list[Any]:
        import av.error

        try:
            return decode()
        except EOFError:
            return []
        except (av.error.FFmpegError, OSError) as error:
            self._note(error, ticks)
            return []

    def _note(self, error: Exception, ticks: int | None) -> None:
        if isinstance(error, MemoryError):
            raise error  # not for a packet that is damaged
        said = getattr(error, "strerror", None) or str(error)
        self._refuse(ticks, said[0].lower() + said[1:])

    def _refuse(self, ticks: int | None, why: str) -> None:
        self.refused.append(ticks)
        self.problem = self.problem or why

    def _rgb(self, frame: Any) -> Images:
        # the other cores have work of their own, and handing on a part takes longer than doing it
        converted = self._converter.reformat(frame, format="rgb24", threads=1)
        plane = converted.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(converted.height, plane.line_size)
        picture = rows[:, : converted.width * 3].reshape(converted.height, converted.width, 3)
        return upright(picture, self._request.index)


class OpenCVReader:
    """Read with OpenCV, converting only the frames that are wanted."""

    def __init__(self, request: Request) -> None:
        self.refused: list[int | None] = []
        self.problem = ""
        self._request, self._index = request, request.index

    def frames(self) -> Iterator[Frame]:
        """Decode all frames, convert those that are wanted."""
        import cv2

        if self._index.video_streams > 1:
            raise ReaderRefused("OpenCV cannot be held to one of several video streams")
        capture = cv2.VideoCapture(
            self._request.location, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1]
        )
        try:
            if not capture.isOpened():
                raise ReaderRefused("OpenCV cannot open it")
            capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
            number = 0
            while capture.grab():
                ticks = self._ticks(capture.get(cv2.CAP_PROP_POS_MSEC))
                picture = (
                    self._rgb(capture) if self._request.wants(self._place(ticks, number)) else None
                )
                yield Frame(ticks, partial(_converted, picture))
                number += 1
        finally:
            capture.release()

    def _ticks(self, milliseconds: float) -> int:
        # OpenCV counts from the start of the stream
        return self._index.start_ticks + round(milliseconds / 1e3 / self._index.tick_seconds)

    def _place(self, ticks: int, number: int) -> int:
        if not self._index.steady:
            return number
        return int(np.searchsorted(self._index.pts, ticks, side="right")) - 1

    def _rgb(self, capture: Any) -> Images:
        import cv2

        done, picture = capture.retrieve()
        if not done:
            raise ReaderRefused("OpenCV could not convert a frame")
        return upright(cast(Images, cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)), self._index)


def _converted(picture: Images | None) -> Images:
    if picture is None:
        raise ReaderRefused("a frame that was skipped turned out to be needed")
    return picture


class DecordReader:
    """Read with Decord, in order and strictly: the only way in which it cannot hang or repeat."""

    def __init__(self, request: Request) -> None:
        self.refused: list[int | None] = []
        self.problem = ""
        self._request, self._index = request, request.index

    def frames(self) -> Iterator[Frame]:
        """Decode and convert all frames."""
        decord = _decord()
        if self._index.video_streams > 1 or self._index.mirrored:
            raise ReaderRefused("Decord can neither choose a stream nor flip a picture")
        decord.logging.set_level(decord.logging.ERROR)
        errors = (RuntimeError, decord.DECORDError, decord.DECORDLimitReachedError)
        try:
            # a fault tolerance above 0 and below one frame is Decord's strict mode
            video = decord.VideoReader(self._request.location, num_threads=1, fault_tol=1e-9)
        except errors as error:
            raise ReaderRefused(f"Decord cannot open it: {_first_line(error)}") from error
        for ticks in self._index.pts.tolist():
            try:
                frame = video.next()
            except StopIteration:
                break
            except errors as error:
                raise ReaderRefused(f"Decord stopped: {_first_line(error)}") from error
            yield Frame(ticks, partial(_unpadded, frame))
        else:
            # strict mode calls packets that a cut hides missing frames, at the end of the others
            with contextlib.suppress(StopIteration, *errors):
                video.next()
                raise ReaderRefused("Decord gave more frames than the container holds")


def _decord() -> Any:
    """
    Import Decord without the CUDA libraries that torch has brought.

    It would load all of them, 600 MiB in each process and a quarter of a second, for the sake of a
    build that decodes on the GPU.
    """
    hidden = sys.modules.setdefault("nvidia", None) is None  # type: ignore[arg-type]
    try:
        import decord
    except (ImportError, OSError):  # such a build
        if hidden:
            del sys.modules["nvidia"]
        import decord
    return decord


def _unpadded(frame: Any) -> Images:
    picture = cast(Images, frame.asnumpy())
    if picture.shape[2] != 3:  # it takes padded rows of narrow pictures for more channels
        raise ReaderRefused("Decord cannot convert so narrow a picture")
    return picture


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


class ImageReader:
    """Read a folder of numbered images."""

    def __init__(self, request: Request) -> None:
        self.refused: list[int | None] = []
        self.problem = ""
        self._request = request

    def frames(self) -> Iterator[Frame]:
        """Read the images that are wanted."""
        from pipeline.sources.image_sequence import image_files, read_image

        request = self._request
        files = image_files(request.location)
        for number, (path, ticks) in enumerate(zip(files, request.index.pts.tolist(), strict=True)):
            if request.start is not None and ticks < request.start:
                continue
            if request.wants(number):
                picture = read_image(path)
                if picture is None:
                    self.refused.append(ticks)
                    self.problem = self.problem or _no_image(path)
                    continue
                yield Frame(ticks, partial(_converted, picture))
            else:
                yield Frame(ticks, partial(_image, path))


def _image(path: Path) -> Images:
    from pipeline.sources.image_sequence import read_image

    picture = read_image(path)
    if picture is None:
        raise ReaderRefused(_no_image(path))
    return picture


def _no_image(path: Path) -> str:
    # `files.printable` would bring the libraries for tables into every decode process
    name = os.fsencode(path.name).decode("utf-8", "backslashreplace")
    return f"{name} is not an image that can be read"


READERS: dict[str, Callable[[Request], Reader]] = {
    "decord": DecordReader,
    "opencv": OpenCVReader,
    "pyav": PyAVReader,
    "images": ImageReader,
}
"""Readers by the name in the column `decoder`."""
