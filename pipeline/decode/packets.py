"""The packets of a stream, with increasing times; and whether a file ends too early."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import av.error
from av.stream import Discard

EBML_HEADER, SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"
"""IDs of the two top elements of a Matroska file; everything else is inside the segment."""
HEAD_BYTES = 4096
MAX_ATTEMPTS = 8
"""Answers "try again" of a demuxer, without a packet in between, that are the end of the file."""


class Packets:
    """
    Iterate over the packets of a stream, with decode times that never jump back.

    Broadcast recordings and joined files restart their clocks. As players do, such a jump is
    removed by an offset, so that the packet follows the one before it. The index and the readers
    see the same times.

    The packets of other streams are not read: those of a truncated file may begin after its end,
    where FFmpeg would stop, although more packets of this stream follow.
    """

    def __init__(self, container: Any, stream: Any) -> None:
        self.bridged = False
        """Whether the clock restarted so far, and an offset was added."""
        self.last_is_cut = False
        """Whether the file ended within the last packet."""
        self.empty_packets = 0
        """Packets of zero bytes so far; they are left out, and the frame before stays visible."""
        self._container, self._stream = container, stream
        for other in container.streams:
            other.discard = Discard.default if other.index == stream.index else Discard.all

    def __iter__(self) -> Iterator[Any]:
        offset = 0
        last: int | None = None  # decode time of the packet before, with its offset
        step = ticks_per_frame(self._stream)
        # longer than any reordering of frames, shorter than any restart that matters
        tolerance = max(20 * step, round(1 / self._stream.time_base))
        for packet in self._demux():
            if packet.size == 0:
                if packet.pts is None and packet.dts is None:
                    return  # PyAV's flush packet, after the last one of the file
                self.empty_packets += 1  # a decoder would take it for the end of the stream
                continue
            clock = packet.dts if packet.dts is not None else packet.pts
            if clock is not None:
                if last is not None and clock + offset < last - tolerance:
                    offset = last + step - clock
                    self.bridged = True
                last = clock + offset
            if offset:
                packet.pts = None if packet.pts is None else packet.pts + offset
                packet.dts = None if packet.dts is None else packet.dts + offset
            self.last_is_cut = packet.is_corrupt
            yield packet

    def _demux(self) -> Iterator[Any]:
        """
        Read packets; some demuxers answer "try again" at the end of the file, or in between.

        Raises:
            FFmpegError: the container is damaged.
        """
        attempts = 0
        while attempts < MAX_ATTEMPTS:
            try:
                for packet in self._container.demux(self._stream):
                    attempts = 0
                    yield packet
                return
            except av.error.BlockingIOError:
                attempts += 1


def ticks_per_frame(stream: Any) -> int:
    """Compute the ticks from frame to frame by the stream's own rate; 1 where it has none."""
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    return max(1, round(1 / (rate * stream.time_base))) if rate else 1


def truncation(location: str, packets: Packets) -> str:
    """Describe how a file, whose packets were all read, is truncated; empty where it is not."""
    if packets.last_is_cut:
        return "the file breaks off within its last packet"
    claimed, size = matroska_bytes(location), os.stat(location).st_size
    if claimed is not None and claimed > size:
        return f"the header claims {claimed:,} bytes, the file has {size:,}"
    return ""


def matroska_bytes(location: str) -> int | None:
    """Read the file size that a Matroska header claims; None without one, or in other formats."""
    with open(location, "rb") as file:
        head = file.read(HEAD_BYTES)
    if not head.startswith(EBML_HEADER):
        return None
    header_bytes, header = _element_size(head, len(EBML_HEADER))
    segment = header + (header_bytes or 0)
    if not head.startswith(SEGMENT, segment):
        return None
    segment_bytes, start = _element_size(head, segment + len(SEGMENT))
    return None if segment_bytes is None else start + segment_bytes


def _element_size(head: bytes, offset: int) -> tuple[int | None, int]:
    """
    Decode the variable-length size of an EBML element.

    Returns:
        The size, None where it is unknown, and the offset at which the content begins.
    """
    width = 9 - head[offset].bit_length() if offset < len(head) else 9
    content = offset + width
    if width > 8 or content > len(head):
        return None, content
    mask = (1 << 7 * width) - 1
    size = int.from_bytes(head[offset:content], "big") & mask
    return (None if size == mask else size), content
