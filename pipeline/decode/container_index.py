"""
Read a container, packet by packet: which stream, which frames at which times, turned how.

PyAV reads the container and decodes the first picture; the readers trust this index for the choice
of stream, the order and the times of frames, and are held to its count.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import av
import av.error
import av.logging
import numpy as np

from pipeline.decode.packets import Packets, breaks_off, ticks_a_frame
from pipeline.errors import VideoError
from pipeline.records import Integers, VideoIndex

PLAYLISTS = frozenset({"hls", "dash", "concat", "sdp", "rtsp", "imf", "webm_dash_manifest"})
"""Formats that name other files or hosts: opening one could read anything."""
PLAYLIST_MARKS = {b"#EXTM3U": "hls", b"ffconcat version": "concat"}
"""How playlists begin that FFmpeg would follow, or wait for, as soon as they are opened."""
TEXT_ART = frozenset({"tty", "bin", "xbin", "adf", "idf"})
"""Formats in which FFmpeg draws any text file as a video."""
ROUGH = {"skip_loop_filter": "all"}
"""How a picture is decoded that nobody looks at: the filter takes a third of the time."""
FIRST_PICTURE_PACKETS = 250
"""Packets tried until the first picture comes: longer than any usual group of pictures."""

Progress = Callable[[int], None]


def open_container(location: str) -> Any:
    """
    Open a local file, and nothing that it may point to.

    Raises:
        VideoError: the file cannot be read, is no video, or is a playlist.
    """
    try:
        _refuse_playlists(location)
        # the codec's options are for the pictures that FFmpeg decodes to know the streams by
        container = av.open(
            location, metadata_errors="replace", options={"protocol_whitelist": "file", **ROUGH}
        )
    except (PermissionError, FileNotFoundError, IsADirectoryError, BlockingIOError) as error:
        raise VideoError("unreadable", f"cannot be read: {error.strerror}") from error
    except av.error.FFmpegError as error:
        raise VideoError("not_video", f"no video container: {_said(error)}") from error
    names = set(container.format.name.split(","))
    if names & PLAYLISTS:
        container.close()
        raise _playlist(container.format.name)
    if names & TEXT_ART:
        container.close()
        raise VideoError("not_video", "a text file")
    return container


def _refuse_playlists(location: str) -> None:
    with open(location, "rb") as file:
        head = file.read(16)
    for mark, kind in PLAYLIST_MARKS.items():
        if head.startswith(mark):
            raise _playlist(kind)


def _playlist(kind: str) -> VideoError:
    return VideoError("not_video", f"a playlist ({kind}): give the files that it names")


def _said(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text[0].lower() + text[1:] if text else type(error).__name__


def choose_stream(container: Any) -> tuple[Any, int]:
    """
    Choose the video stream: marked as default, then most pixels, then first.

    Returns:
        The stream, and how many video streams there are (cover pictures not counted).

    Raises:
        VideoError: there is none.
    """
    attached = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & attached]
    if not streams:
        kinds = sorted({s.type for s in container.streams}) or ["nothing"]
        raise VideoError("not_video", f"holds no video stream, only {', '.join(kinds)}")
    default = av.stream.Disposition.default
    # a stream without a codec context (unknown codec) has no size of its own
    best = max(
        streams,
        key=lambda s: (
            s.codec_context is not None,
            bool(s.disposition & default),
            _area(s),
            -s.index,
        ),
    )
    if best.codec_context is None:
        raise VideoError("undecodable", "no decoder for the codec of its video stream")
    return best, len(streams)


def _area(stream: Any) -> int:
    context = stream.codec_context
    return context.width * context.height if context is not None else 0


def read_index(
    location: str, max_pixels: int, progress: Progress = lambda count: None
) -> VideoIndex:
    """
    Scan a container without decoding more than its first picture.

    Args:
        location: absolute path of a file.
        max_pixels: a larger picture is refused before it is decoded.
        progress: told with every packet how many were seen.

    Raises:
        VideoError: no video, unreadable, too large, or without one picture.
    """
    container = open_container(location)
    with container:
        stream, streams = choose_stream(container)
        _check_size(stream, max_pixels)
        stream.thread_type = "NONE"
        stream.codec_context.options = ROUGH
        scan = _Scan(stream)
        packets = Packets(container, stream)
        try:
            for packet in packets:
                scan.add(packet)
                progress(scan.packets)
        except av.error.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            scan.problem = f"the container broke off: {_said(error)}"
        index = scan.index(container, stream, streams)
        empty = max(packets.empty, _passed_over(index, stream)) if index.truncated else 0
        index = replace(index, bridged=packets.bridged, packets_empty=empty)
        # a header that counts frames says more than the end of the file does
        problem = scan.problem or ("" if index.truncated else breaks_off(location, packets))
        return replace(index, problem=problem)


def _check_size(stream: Any, max_pixels: int) -> None:
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > max_pixels:
        raise VideoError(
            "too_large",
            f"claims {width} × {height} pixels; at most {max_pixels:,} are allowed (--max-pixels)",
        )


class _Scan:
    """What the packets said."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.packets = self.discarded = 0
        self.times: list[int | None] = []
        self.keys: list[int] = []
        self.ends: dict[int, int] = {}
        self.picture: Any = None
        self.pending: str = ""
        self.problem = ""

    def add(self, packet: Any) -> None:
        self.packets += 1
        if packet.is_discard:
            self.discarded += 1
        else:
            self.times.append(packet.pts if packet.pts is not None else packet.dts)
            self.last_duration = packet.duration or 0
            if packet.is_keyframe and packet.pts is not None:
                self.keys.append(packet.pts)
        if self.picture is None and self.packets <= FIRST_PICTURE_PACKETS:
            self._decode(packet)

    def _decode(self, packet: Any) -> None:
        try:
            pictures = packet.decode()
        except (av.error.FFmpegError, EOFError) as error:
            self._note(error)
            return
        self.picture = next(iter(pictures), None)

    def _note(self, error: Exception) -> None:
        if isinstance(error, MemoryError):
            raise error  # not for lack of a picture
        self.pending = self.pending or _said(error)

    def index(self, container: Any, stream: Any, streams: int) -> VideoIndex:
        if self.packets and self.packets == self.discarded:
            raise VideoError("undecodable", "the container says to display none of its frames")
        if self.picture is None:
            self._flush()
        if self.picture is None:
            why = self.pending or self.problem or "the decoder gave nothing"
            found = f"{self.packets} packets" if self.packets else "no packets"
            raise VideoError("undecodable", f"no picture from {found}: {why}")
        times, timed = self._display_times()
        rotation, mirrored = orientation(self.picture)
        width, height = self.picture.width, self.picture.height
        if rotation in (90, 270):
            width, height = height, width
        base = stream.time_base
        return VideoIndex(
            format=container.format.name,
            codec=stream.codec_context.name,
            pixel_format=self.picture.format.name,
            width=width,
            height=height,
            rotation=rotation,
            mirrored=mirrored,
            interlaced=bool(self.picture.interlaced_frame),
            stream=stream.index,
            video_streams=streams,
            time_base=(base.numerator, base.denominator),
            pts=times,
            last_duration=self._last_duration(container, times),
            start_ticks=stream.start_time if stream.start_time is not None else int(times[0]),
            packets=self.packets,
            packets_discarded=self.discarded,
            frames_from_header=stream.frames or None,
            timed=timed,
            keys=np.sort(np.asarray(self.keys, dtype=np.int64)),
        )

    def _flush(self) -> None:
        try:
            self.picture = next(iter(self.stream.codec_context.decode(None)), None)
        except (av.error.FFmpegError, EOFError) as error:
            self._note(error)

    def _display_times(self) -> tuple[Integers, bool]:
        known = [t for t in self.times if t is not None]
        if len(known) == len(self.times):
            return np.sort(np.asarray(known, dtype=np.int64)), True
        # Without times in the container, the stream's own rate is the only clock there is.
        return np.arange(len(self.times), dtype=np.int64) * ticks_a_frame(self.stream), False

    def _last_duration(self, container: Any, times: Integers) -> int:
        if len(times) > 1:
            return int(np.median(np.diff(times)))
        # FFmpeg invents a rate of 25 for a lone image
        still = container.format.name == "image2" or container.format.name.endswith("_pipe")
        return 0 if still else self.last_duration


def _passed_over(index: VideoIndex, stream: Any) -> int:
    """Count the frames that are stored as no bytes, and that FFmpeg passes over without a word."""
    if index.format == "avi" and index.timed:
        # its clock counts them, a tick a frame; what damage cuts out leaves no gap
        return int(index.pts[-1] - index.pts[0]) + 1 - len(index.pts)
    if "mp4" in index.format:
        return sum(entry.size == 0 for entry in stream.index_entries)
    return 0


def orientation(picture: Any) -> tuple[int, bool]:
    """
    Read how a picture must be turned to stand upright.

    Returns:
        Degrees clockwise (0, 90, 180 or 270), and whether it is flipped left to right first.
    """
    try:
        matrix = np.frombuffer(bytes(picture.side_data["DISPLAYMATRIX"]), dtype="<i4")
    except KeyError:
        return 0, False
    except ValueError:  # PyAV stops at kinds of side data that are newer than itself
        return -picture.rotation % 360 // 90 * 90, False
    a, b, c, d = (float(matrix[i]) for i in (0, 1, 3, 4))
    degrees = math.degrees(math.atan2(-c, d))
    return round(degrees / 90) % 4 * 90, a * d - b * c < 0
