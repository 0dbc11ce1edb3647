"""
Index a container, packet by packet: the video stream, its frame times, key frames, orientation.

PyAV reads all packets and decodes only the first frame. Readers take the stream, the order and the
times of frames from this index, and must decode as many frames as it counts.
"""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import av
import av.error
import av.logging
import numpy as np

from pipeline.decode.avi import count_empty_chunks
from pipeline.decode.h264_fields import FieldPairs
from pipeline.decode.packets import Packets, ticks_per_frame, truncation
from pipeline.decode.raw_streams import FrameTimes, RawTimes, is_raw_stream
from pipeline.decode.unusable_files import (
    error_text,
    explain_missing_picture,
    explain_missing_stream,
    explain_unopenable,
    playlist_error,
    refuse_by_head,
)
from pipeline.errors import VideoError
from pipeline.records import Integers, VideoIndex

PLAYLISTS = frozenset({"hls", "dash", "concat", "sdp", "rtsp", "imf", "webm_dash_manifest"})
"""Formats that refer to other files or hosts: opening one could read anything."""
UNREADABLE = frozenset({errno.ENOENT, errno.EACCES, errno.EISDIR})
"""Errors of the file, not of its content."""
TEXT_FORMATS = frozenset({"tty", "bin", "xbin", "adf", "idf"})
"""Formats in which FFmpeg renders any text file as a video."""
FAST_DECODING = {"skip_loop_filter": "all"}
"""Codec options for a frame whose pixels are not used: the filter takes a third of the time."""
MAX_FIRST_FRAME_BYTES, MAX_FIRST_FRAME_SECONDS = 1 << 30, 60.0
"""Of packets decoded until the first frame comes: recordings may begin between two key frames that
are minutes apart. Packets without a frame take little time."""

FEW_FRAMES = 5
"""A stream with fewer ones shows still pictures, beside another stream with more."""

METADATA: dict[str, Any] = (
    {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}
)
"""Undecodable bytes in metadata are no error; PyAV 19 and later escape them by default."""

Progress = Callable[[int], None]


def open_container(location: str) -> Any:
    """
    Open a local file with PyAV; files and hosts that it refers to are not opened.

    Raises:
        VideoError: the file cannot be read, is not a video, or is a playlist.
    """
    try:
        refuse_by_head(location)
        # FFmpeg decodes some frames to probe the streams: the codec option is for these
        container = av.open(
            location,
            **METADATA,
            options={"protocol_whitelist": "file", **FAST_DECODING},
        )
    except (av.error.FFmpegError, PermissionError, FileNotFoundError, IsADirectoryError) as error:
        if error.errno in UNREADABLE or not isinstance(error, av.error.FFmpegError):
            raise VideoError("unreadable", f"cannot be read: {error.strerror}") from error
        raise explain_unopenable(location, error) from error
    names = set(container.format.name.split(","))
    if names & PLAYLISTS:
        container.close()
        raise playlist_error(container.format.name)
    if names & TEXT_FORMATS:
        container.close()
        raise VideoError("not_video", "a text file")
    return container


def choose_stream(location: str, container: Any) -> tuple[Any, int]:
    """
    Choose the video stream that a player shows.

    It is the one that is marked as default; of several, the one that FFmpeg calls the best: it
    prefers videos to a few still pictures. Where none is marked, the one with most pixels.

    Args:
        location: of the file, to explain why it holds none.
        container: the open file.

    Returns:
        The stream, and the number of video streams (without cover images).

    Raises:
        VideoError: there is none, or its codec is unknown.
    """
    attached = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & attached]
    if not streams:
        raise explain_missing_stream(location, container)
    # a stream of an unknown codec has no codec context, and so no size
    known = [s for s in streams if s.codec_context is not None]
    marked = [s for s in known if s.disposition & av.stream.Disposition.default]
    best = max(marked or known or streams, key=_rank)
    if len(marked) > 1:
        found = container.streams.best("video")
        best = next((s for s in marked if found is not None and s.index == found.index), best)
    if best.codec_context is None:
        raise VideoError("undecodable", "no decoder for the codec of its video stream")
    return best, len(streams)


def _rank(stream: Any) -> tuple[int, int, int]:
    """Rank streams as FFmpeg does: not a few pictures, then most pixels, then the first."""
    context = stream.codec_context
    pixels = context.width * context.height if context is not None else 0
    return min(stream.frames or FEW_FRAMES, FEW_FRAMES), pixels, -stream.index


def read_index(
    location: str,
    max_pixels: int,
    progress: Progress = lambda count: None,
    raw_fps: float | None = None,
) -> VideoIndex:
    """
    Read all packets of a container, and decode its first frame.

    Args:
        location: absolute path of a file.
        max_pixels: maximum width times height; checked before the first frame is decoded.
        progress: called after every packet with the number of packets so far.
        raw_fps: frames per second of a raw stream that states no rate.

    Raises:
        VideoError: no video, unreadable, too large, or without one frame that can be decoded.
    """
    container = open_container(location)
    with container:
        stream, num_streams = choose_stream(location, container)
        _check_size(stream, max_pixels)
        stream.thread_type = "NONE"
        stream.codec_context.options = FAST_DECODING
        scan = _PacketScan(stream, RawTimes(stream, raw_fps) if is_raw_stream(container) else None)
        packets = Packets(container, stream)
        try:
            for packet in packets:
                scan.add(packet)
                progress(scan.packets)
        except av.error.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            scan.problem = f"the container broke off: {error_text(error)}"
        index = scan.index(location, container, num_streams)
        empty = 0
        if index.truncated:
            empty = max(packets.empty_packets, _skipped_packets(location, index, stream))
        index = replace(index, bridged=packets.bridged, packets_empty=empty)
        if empty and index.format == "avi":
            index = scan.with_storage_times(index)
        # the frame count of the header tells more than the end of the file
        problem = scan.problem or ("" if index.truncated else truncation(location, packets))
        return replace(index, problem=problem)


def _check_size(stream: Any, max_pixels: int) -> None:
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > max_pixels:
        raise VideoError(
            "too_large",
            f"claims {width} × {height} pixels; at most {max_pixels:,} are allowed (--max-pixels)",
        )


class _PacketScan:
    """Collects times, key frames and the first decoded frame from the packets of a stream."""

    def __init__(self, stream: Any, raw_times: RawTimes | None) -> None:
        self.stream = stream
        self.raw_times = raw_times
        """Of a raw stream; None in a container."""
        self.packets = self.discarded = 0
        self.times: list[int | None] = []
        self._decode_times: list[int | None] = []
        self._numbers: list[int] = []
        """Of the packets with these times."""
        self._fields = _field_pairs(stream)
        self.key_times: list[int] = []
        self.last_duration = 0
        self.first_frame: Any = None
        self.first_key: int | None = None
        """Position of the first key frame that could be decoded, in the order of storage."""
        self.decode_error = ""
        self._tried_bytes, self._started = 0, 0.0
        self.problem = ""

    def add(self, packet: Any) -> None:
        self.packets += 1
        if self._fields is not None:
            self._fields.add(bytes(packet))
        if packet.is_discard:
            self.discarded += 1
        else:
            self.times.append(packet.pts if packet.pts is not None else packet.dts)
            self._decode_times.append(packet.dts)
            if self._fields is not None:
                self._numbers.append(self.packets - 1)
            self.last_duration = packet.duration or 0
            if self.raw_times is not None:
                self.raw_times.add(packet)
            if packet.is_keyframe and packet.pts is not None:
                self.key_times.append(packet.pts)
        if self.first_frame is None and self._tried_bytes < MAX_FIRST_FRAME_BYTES:
            self._decode(packet)

    def _decode(self, packet: Any) -> None:
        self._started = self._started or time.monotonic()
        if time.monotonic() - self._started > MAX_FIRST_FRAME_SECONDS:
            return
        self._tried_bytes += packet.size
        try:
            frames = packet.decode()
        except (av.error.FFmpegError, EOFError) as error:
            self._add_error(error)
            return
        if self.first_key is None and packet.is_keyframe:
            fields = self._fields
            self.first_key = sum(fields.begins_frame[:-1]) if fields else len(self.times) - 1
        self.first_frame = next(iter(frames), None)

    def _add_error(self, error: Exception) -> None:
        if isinstance(error, MemoryError):
            raise error  # not caused by a damaged packet
        self.decode_error = self.decode_error or error_text(error)

    def index(self, location: str, container: Any, num_streams: int) -> VideoIndex:
        """Build the index, after the last packet."""
        stream = self.stream
        if self.packets and self.packets == self.discarded:
            raise VideoError("undecodable", "the container says to display none of its frames")
        if self.first_frame is None:
            self._flush()
        if self.first_frame is None:
            reason = self.decode_error or self.problem or "the decoder gave nothing"
            raise explain_missing_picture(location, self.packets, stream.frames, reason)
        times = self._display_times()
        rotation, mirrored = orientation(self.first_frame)
        width, height = self.first_frame.width, self.first_frame.height
        if rotation in (90, 270):
            width, height = height, width
        base = stream.time_base
        return VideoIndex(
            format=container.format.name,
            codec=stream.codec_context.name,
            pixel_format=self.first_frame.format.name,
            width=width,
            height=height,
            rotation=rotation,
            mirrored=mirrored,
            interlaced=bool(self.first_frame.interlaced_frame) or self._has_fields,
            stream=stream.index,
            video_streams=num_streams,
            time_base=(base.numerator, base.denominator),
            pts=times.pts,
            last_duration=self._last_duration(container, times.pts),
            start_ticks=stream.start_time if stream.start_time is not None else int(times.pts[0]),
            packets=self.packets,
            packets_discarded=self.discarded,
            frames_from_header=stream.frames or None,
            timed=times.timed,
            frame_rate_assumed=times.rate_assumed,
            frames_before_first=0 if times.timed else max(0, self.first_key or 0),
            keys=self._keys(times.pts),
        )

    def _flush(self) -> None:
        try:
            self.first_frame = next(iter(self.stream.codec_context.decode(None)), None)
        except (av.error.FFmpegError, EOFError) as error:
            self._add_error(error)

    def with_storage_times(self, index: VideoIndex) -> VideoIndex:
        """
        Take the times of an AVI file with reordered frames from the positions of its chunks.

        It has no presentation times. FFmpeg takes the decode time of the next packet for one, and
        for the last frame one tick more than its own, although dropped frames follow it.
        """
        known = [t for t in self._decode_times if t is not None]
        if len(known) != len(index.pts) or known == self.times:
            return index
        pts = np.sort(np.asarray(known, dtype=np.int64))
        step = int(np.median(np.diff(pts))) if len(pts) > 1 else index.last_duration
        return replace(index, pts=pts, timed=False, last_duration=step)

    @property
    def _has_fields(self) -> bool:
        return self._fields is not None and self._fields.has_fields

    def _frame_times(self) -> list[int | None]:
        """Select the times of packets that begin a frame."""
        if self._fields is None or not any(self._fields.begins_frame):
            return self.times
        begins = self._fields.begins_frame
        return [t for t, number in zip(self.times, self._numbers, strict=True) if begins[number]]

    def _keys(self, pts: Integers) -> Integers:
        keys = np.sort(np.asarray(self.key_times, dtype=np.int64))
        # the second field of a key frame may be marked as well
        return keys if self._fields is None else np.intersect1d(keys, pts)

    def _display_times(self) -> FrameTimes:
        stored = self._frame_times()
        if self.raw_times is not None:
            return self.raw_times.compute(stored)
        known = [t for t in stored if t is not None]
        if len(known) == len(stored):
            return FrameTimes(np.sort(np.asarray(known, dtype=np.int64)), True)
        # without times in the container, the frame rate of the stream is the only clock
        ticks = np.arange(len(stored), dtype=np.int64) * ticks_per_frame(self.stream)
        return FrameTimes(ticks, False)

    def _last_duration(self, container: Any, times: Integers) -> int:
        if len(times) > 1:
            return int(np.median(np.diff(times)))
        # FFmpeg assumes 25 frames per second for a single image
        still = container.format.name == "image2" or container.format.name.endswith("_pipe")
        return 0 if still else self.last_duration


def _field_pairs(stream: Any) -> FieldPairs | None:
    if stream.codec_context.name != "h264":
        return None
    pairs = FieldPairs(bytes(stream.codec_context.extradata or b""))
    return pairs if pairs.may_have_fields else None


def _skipped_packets(location: str, index: VideoIndex, stream: Any) -> int:
    """Count the frames stored as zero bytes that FFmpeg's demuxer skips silently."""
    if index.format == "avi":
        return count_empty_chunks(location, stream.index)
    if "mp4" in index.format:
        return sum(entry.size == 0 for entry in stream.index_entries)
    return 0


def orientation(frame: Any) -> tuple[int, bool]:
    """
    Read from the display matrix how a decoded frame must be rotated to be upright.

    Returns:
        Degrees clockwise (0, 90, 180 or 270), and whether it is flipped left to right first.
    """
    try:
        matrix = np.frombuffer(bytes(frame.side_data["DISPLAYMATRIX"]), dtype="<i4")
    except KeyError:
        return 0, False
    except ValueError:  # PyAV fails on kinds of side data that it does not know
        return -frame.rotation % 360 // 90 * 90, False
    a, b, c, d = (float(matrix[i]) for i in (0, 1, 3, 4))
    degrees = math.degrees(math.atan2(-c, d))
    return round(degrees / 90) % 4 * 90, a * d - b * c < 0
