"""The packets of a stream: times that never jump back, and whether the file ends too early."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

EBML_HEADER, SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"
"""Marks of the two elements of a Matroska file; all else is inside the segment."""
HEAD_BYTES = 4096


class Packets:
    """
    The packets of a stream, with times that never jump back.

    Broadcast recordings and joined files restart their clocks; as players do, such a jump is
    bridged so that the packet follows the one before it. Both the index and the readers see these
    times.
    """

    def __init__(self, container: Any, stream: Any) -> None:
        self.bridged = False
        self.last_is_cut = False
        """Whether the file ended within the last packet that was given."""
        self.empty = 0
        """Packets of no bytes so far, which are not given: the frame before is shown on."""
        self._container, self._stream = container, stream

    def __iter__(self) -> Iterator[Any]:
        offset = 0
        last: int | None = None  # decode time of the packet before, as given on
        step = ticks_a_frame(self._stream)
        # wide enough for any reordering of pictures, narrower than any restart that matters
        slack = max(20 * step, round(1 / self._stream.time_base))
        for packet in self._container.demux(self._stream):
            if packet.size == 0:
                if packet.pts is None and packet.dts is None:
                    return  # PyAV's own, behind the last one of the file
                self.empty += 1  # a decoder would take it for the end
                continue
            clock = packet.dts if packet.dts is not None else packet.pts
            if clock is not None:
                if last is not None and clock + offset < last - slack:
                    offset = last + step - clock
                    self.bridged = True
                last = clock + offset
            if offset:
                packet.pts = None if packet.pts is None else packet.pts + offset
                packet.dts = None if packet.dts is None else packet.dts + offset
            self.last_is_cut = packet.is_corrupt
            yield packet


def ticks_a_frame(stream: Any) -> int:
    """Give the time from frame to frame by the stream's own rate; 1 where it has none."""
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    return max(1, round(1 / (rate * stream.time_base))) if rate else 1


def breaks_off(location: str, packets: Packets) -> str:
    """Say how a file, whose packets were all read, ends too early; nothing where it does not."""
    if packets.last_is_cut:
        return "the file breaks off within its last packet"
    claimed, size = matroska_bytes(location), os.stat(location).st_size
    if claimed is not None and claimed > size:
        return f"the header claims {claimed:,} bytes, the file has {size:,}"
    return ""


def matroska_bytes(location: str) -> int | None:
    """Tell how long a Matroska file says that it is; None where it does not, or is another."""
    with open(location, "rb") as file:
        head = file.read(HEAD_BYTES)
    if not head.startswith(EBML_HEADER):
        return None
    header_bytes, header = _size(head, len(EBML_HEADER))
    segment = header + (header_bytes or 0)
    if not head.startswith(SEGMENT, segment):
        return None
    segment_bytes, start = _size(head, segment + len(SEGMENT))
    return None if segment_bytes is None else start + segment_bytes


def _size(head: bytes, place: int) -> tuple[int | None, int]:
    """Read the size of an element, None where it is left open, and where its content begins."""
    width = 9 - head[place].bit_length() if place < len(head) else 9
    following = place + width
    if width > 8 or following > len(head):
        return None, following
    mask = (1 << 7 * width) - 1
    size = int.from_bytes(head[place:following], "big") & mask
    return (None if size == mask else size), following
