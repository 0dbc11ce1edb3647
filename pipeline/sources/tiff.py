"""Read the pages of a TIFF file from its header: their number, and the values of their pixels."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

TIFF_SUFFIXES = frozenset({".tif", ".tiff", ".btf", ".tf8"})
SUBFILE_TYPE, HEIGHT, WIDTH, BITS, COMPRESSION, DESCRIPTION = 254, 257, 256, 258, 259, 270
MAX_SAMPLE, FORMAT, SMIN_SAMPLE, SMAX_SAMPLE = 281, 339, 340, 341
REDUCED, MASK = 1, 4
"""Bits of the subfile type: a smaller version of another page, a transparency mask."""
FLOAT = 3
"""Sample format of floating-point values."""
TYPES = {1: "B", 2: "s", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I",
         16: "Q", 17: "q", 18: "Q"}  # fmt: skip
"""Format characters of `struct` for the types of values; rational numbers are not needed."""
MAX_VALUES = 4096
"""Longest list of values, or text in bytes, that is read of one tag."""

Value = tuple[float, ...] | str


@dataclass(frozen=True, slots=True)
class TiffPage:
    """One page of a TIFF file."""

    number: int
    """Position in the file, from 0."""
    offset: int
    """Of its directory in the file, in bytes."""
    height: int
    width: int
    bits: int
    """Bits of a sample."""
    is_float: bool
    compression: int
    largest: float | None
    """Largest sample value, by the tags SMaxSampleValue or MaxSampleValue."""
    smallest: float | None
    """Smallest sample value, by the tag SMinSampleValue."""
    images_claimed: int | None
    """Number of pages that ImageJ claims in the description of the first page."""


def tiff_pages(path: Path, limit: int | None = None) -> list[TiffPage]:
    """
    List the pages of a TIFF or BigTIFF file, without reduced versions of pages and masks.

    Args:
        path: of any file.
        limit: number of pages after which the list ends.

    Returns:
        The pages; none if it is no TIFF. A file that is cut off has those before the cut.

    Raises:
        OSError: the file cannot be read.
    """
    pages: list[TiffPage] = []
    with path.open("rb") as file:
        for number, (offset, tags) in enumerate(_directories(file)):
            kind = _number(tags, SUBFILE_TYPE) or 0
            if not int(kind) & (REDUCED | MASK):
                pages.append(_page(number, offset, tags))
            if limit is not None and len(pages) >= limit:
                break
    return pages


def _page(number: int, offset: int, tags: dict[int, Value]) -> TiffPage:
    largest = _number(tags, SMAX_SAMPLE)
    description = tags.get(DESCRIPTION, "")
    claimed = re.search(r"\AImageJ=.*?^images=(\d+)", str(description), re.DOTALL | re.MULTILINE)
    return TiffPage(
        number=number,
        offset=offset,
        height=int(_number(tags, HEIGHT) or 0),
        width=int(_number(tags, WIDTH) or 0),
        bits=int(_number(tags, BITS) or 1),
        is_float=_number(tags, FORMAT) == FLOAT,
        compression=int(_number(tags, COMPRESSION) or 1),
        largest=largest if largest is not None else _number(tags, MAX_SAMPLE),
        smallest=_number(tags, SMIN_SAMPLE),
        images_claimed=int(claimed[1]) if claimed else None,
    )


def _number(tags: dict[int, Value], tag: int) -> float | None:
    """Return the largest value of a tag: there is one for each colour."""
    values = tags.get(tag)
    return max(values) if values and not isinstance(values, str) else None


def with_first_page(head: bytes, page: TiffPage) -> bytes:
    """Return the first 16 bytes of a TIFF, changed so that this page is read as the first."""
    order = "<" if head[:2] == b"II" else ">"
    if struct.unpack(order + "H", head[2:4])[0] == 43:
        return head[:8] + struct.pack(order + "Q", page.offset)
    return head[:4] + struct.pack(order + "I", page.offset) + head[8:]


def _directories(file: BinaryIO) -> Iterator[tuple[int, dict[int, Value]]]:
    """Yield offset and tags of each page, until the end or the first damage."""
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 8:
        return
    magic = struct.unpack(order + "H", head[2:4])[0]
    if magic not in (42, 43):
        return
    big = magic == 43
    entry, count, offset = ("HHQ8s", "Q", "Q") if big else ("HHI4s", "H", "I")
    start = 8 if big else 4
    seen: set[int] = set()
    try:
        (place,) = struct.unpack(order + offset, head[start : start + struct.calcsize(offset)])
        while place and place not in seen:
            seen.add(place)
            file.seek(place)
            (number,) = _read(file, order + count)
            size = struct.calcsize("=" + entry)
            data = file.read(number * size)
            (following,) = _read(file, order + offset)
            if len(data) < number * size:
                return
            yield place, dict(_tags(file, order, entry, data))
            place = following
    except (struct.error, OverflowError, MemoryError):
        return  # cut off, or damaged


def _read(file: BinaryIO, layout: str) -> tuple[int, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _tags(file: BinaryIO, order: str, entry: str, data: bytes) -> Iterator[tuple[int, Value]]:
    wanted = {SUBFILE_TYPE, HEIGHT, WIDTH, BITS, COMPRESSION, DESCRIPTION}
    wanted |= {MAX_SAMPLE, FORMAT, SMIN_SAMPLE, SMAX_SAMPLE}
    for tag, kind, count, inline in struct.iter_unpack(order + entry, data):
        if tag not in wanted or kind not in TYPES or not count:
            continue
        count = min(count, MAX_VALUES)
        layout = f"{order}{count}{TYPES[kind]}"
        size = struct.calcsize(layout)
        if size > len(inline):
            (place,) = struct.unpack(order + ("Q" if len(inline) == 8 else "I"), inline)
            inline = os.pread(file.fileno(), size, place)
            if len(inline) < size:
                continue
        values = struct.unpack(layout, inline[:size])
        yield tag, values[0].decode("utf-8", "replace") if kind == 2 else values
