"""
Find the frames among the packets of H.264 video whose fields are coded as separate pictures.

Broadcast and camera recordings may code the two fields of a frame as two pictures. Many containers
store each in a packet of its own, so that packets are not frames. The headers of slices tell the
fields: see clauses 7.3.2.1, 7.3.2.2, 7.3.3 and 7.4.1.2.4 of ITU-T H.264.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

SLICE, IDR_SLICE, SPS, PPS = 1, 5, 7, 8
"""Types of NAL units."""
START_CODE = b"\0\0\1"
HEADER_BYTES = 48
"""Of a slice that are read: its first fields take less."""
HIGH_PROFILES = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})
"""Profiles whose sequence parameter sets have more fields."""


class _Bits:
    """Reads the bits of a NAL unit; raises IndexError at its end."""

    def __init__(self, unit: bytes) -> None:
        data = unit.replace(b"\0\0\3", b"\0\0")  # emulation prevention bytes
        self._value, self._left = int.from_bytes(data, "big"), len(data) * 8

    def u(self, width: int) -> int:
        """Read an unsigned number of fixed width."""
        if width > self._left:
            raise IndexError("the NAL unit is too short")
        self._left -= width
        return self._value >> self._left & (1 << width) - 1

    def ue(self) -> int:
        """Read an exponential Golomb code."""
        zeros = 0
        while not self.u(1):
            zeros += 1
        return (1 << zeros) - 1 + self.u(zeros)

    def se(self) -> int:
        """Read a signed exponential Golomb code."""
        value = self.ue()
        return (value + 1) // 2 if value % 2 else -value // 2


@dataclass(frozen=True, slots=True)
class _Sequence:
    """What slice headers depend on, from a sequence parameter set."""

    frame_num_bits: int
    separate_planes: bool
    frames_only: bool
    """Whether no picture is a field."""


@dataclass(frozen=True, slots=True)
class _Picture:
    """The first slice of a coded picture."""

    frame_num: int
    parity: int | None
    """0 for a top field, 1 for a bottom field, None for a frame."""


class FieldPairs:
    """
    Tells which packets of an H.264 stream begin a frame that is displayed.

    A field without the other one of its frame is not displayed, as FFmpeg's decoder does.

    Args:
        extradata: of the stream: an avcC record, parameter sets in Annex B format, or empty.
    """

    def __init__(self, extradata: bytes) -> None:
        self._length_bytes = 0
        """Bytes of the length before each NAL unit; 0 for start codes."""
        self._sequences: dict[int, _Sequence] = {}
        self._sequence_of: dict[int, int] = {}
        """Sequence parameter set of each picture parameter set, by their ids."""
        self._first_field: _Picture | None = None
        """Of a frame whose second field has not come yet."""
        self._begun = 0
        """Number of the packet that holds it."""
        self.has_fields = False
        """Whether a picture so far was a field."""
        self.begins_frame: list[bool] = []
        """For each packet so far, whether it begins a frame that is complete."""
        if extradata[:1] == b"\1" and len(extradata) > 6:
            self._length_bytes = (extradata[4] & 3) + 1
            units = _avcc_units(extradata)
        else:
            units = _annex_b_units(extradata)
        for unit in units:
            self._read_parameters(unit)

    @property
    def may_have_fields(self) -> bool:
        """Whether the stream may hold fields, by the parameter sets so far."""
        known = self._sequences.values()
        return not known or any(not sequence.frames_only for sequence in known)

    def add(self, packet: bytes) -> None:
        """Read the next packet in the order of storage; one that cannot be read is a frame."""
        number = len(self.begins_frame)
        self.begins_frame.append(False)
        readable = False
        for unit in self._units(packet):
            kind = unit[0] & 31 if unit else 0
            if kind in (SPS, PPS):
                self._read_parameters(unit)
            elif kind in (SLICE, IDR_SLICE):
                picture = self._read_slice(unit)
                if picture is not None:
                    readable = True
                    self._add_picture(picture, number)
        if not readable:
            self.begins_frame[number] = True

    def _add_picture(self, picture: _Picture, number: int) -> None:
        first, self._first_field = self._first_field, None
        self.has_fields = self.has_fields or picture.parity is not None
        if picture.parity is None:
            self.begins_frame[number] = True
        elif first is not None and picture == _Picture(first.frame_num, 1 - (first.parity or 0)):
            self.begins_frame[self._begun] = True
        else:
            self._first_field, self._begun = picture, number

    def _units(self, packet: bytes) -> Iterator[bytes]:
        if self._length_bytes:
            return _length_prefixed_units(packet, self._length_bytes)
        return _annex_b_units(packet)

    def _read_parameters(self, unit: bytes) -> None:
        try:
            if unit[0] & 31 == SPS:
                number, sequence = _parse_sps(_Bits(unit[1:]))
                self._sequences[number] = sequence
            elif unit[0] & 31 == PPS:
                bits = _Bits(unit[1:HEADER_BYTES])
                number = bits.ue()
                self._sequence_of[number] = bits.ue()
        except IndexError:
            pass  # damaged: the decoder reports it

    def _read_slice(self, unit: bytes) -> _Picture | None:
        """Read the header of a slice; None unless it is the first of a picture."""
        try:
            bits = _Bits(unit[1:HEADER_BYTES])
            if bits.ue():  # first_mb_in_slice
                return None
            bits.ue()  # slice_type
            sequence = self._sequences[self._sequence_of[bits.ue()]]
            if sequence.separate_planes:
                bits.u(2)
            frame_num = bits.u(sequence.frame_num_bits)
            is_field = not sequence.frames_only and bits.u(1)
            return _Picture(frame_num, bits.u(1) if is_field else None)
        except (IndexError, KeyError):
            return None


def _parse_sps(bits: _Bits) -> tuple[int, _Sequence]:
    """Parse a sequence parameter set up to `frame_mbs_only_flag`, with its id."""
    profile = bits.u(8)
    bits.u(16)  # constraints, level
    number = bits.ue()
    separate_planes = False
    if profile in HIGH_PROFILES:
        chroma_format = bits.ue()
        separate_planes = chroma_format == 3 and bool(bits.u(1))
        bits.ue(), bits.ue(), bits.u(1)  # bit depths, transform bypass
        if bits.u(1):
            for table in range(8 if chroma_format != 3 else 12):
                if bits.u(1):
                    _skip_scaling_list(bits, 16 if table < 6 else 64)
    frame_num_bits = bits.ue() + 4
    order_type = bits.ue()
    if order_type == 0:
        bits.ue()
    elif order_type == 1:
        bits.u(1), bits.se(), bits.se()
        for _ in range(bits.ue()):
            bits.se()
    bits.ue(), bits.u(1), bits.ue(), bits.ue()  # reference frames, gaps, width, height
    return number, _Sequence(frame_num_bits, separate_planes, bool(bits.u(1)))


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.se()) % 256
        last = following or last


def _annex_b_units(data: bytes) -> Iterator[bytes]:
    """Yield the NAL units between start codes; of slices, only their first bytes."""
    start = data.find(START_CODE)
    while start >= 0:
        start += len(START_CODE)
        head = data[start : start + 1]
        if head and head[0] & 31 in (SLICE, IDR_SLICE):
            yield data[start : start + HEADER_BYTES]
        following = data.find(START_CODE, start)
        if head and head[0] & 31 not in (SLICE, IDR_SLICE):
            yield data[start : following if following >= 0 else len(data)]
        start = following


def _length_prefixed_units(data: bytes, length_bytes: int) -> Iterator[bytes]:
    """Yield the NAL units behind their lengths; of slices, only their first bytes."""
    start = 0
    while start + length_bytes < len(data):
        size = int.from_bytes(data[start : start + length_bytes], "big")
        start += length_bytes
        is_slice = data[start] & 31 in (SLICE, IDR_SLICE)
        yield data[start : start + (min(size, HEADER_BYTES) if is_slice else size)]
        start += size


def _avcc_units(record: bytes) -> Iterator[bytes]:
    """Yield the parameter sets of an avcC record."""
    place = 5
    for mask in (31, 255):
        if place >= len(record):
            return
        count, place = record[place] & mask, place + 1
        for _ in range(count):
            size = int.from_bytes(record[place : place + 2], "big")
            yield record[place + 2 : place + 2 + size]
            place += 2 + size
