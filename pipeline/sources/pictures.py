"""
Read pictures: one of an image file, or the pages of a TIFF, as 8-bit RGB.

Files may hold more than 8 bits per sample. Then the values that are shown as black and white are
the same for all pictures of a video: see `find_value_range`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.records import Images
from pipeline.sources.tiff import TIFF_SUFFIXES, TiffPage, tiff_pages, with_first_page

DEEP = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
PILLOW_COMPRESSIONS = frozenset({50000, 50001})
"""Zstandard and WebP, which OpenCV cannot read."""
DEPTHS = (8, 10, 12, 14)
"""Significant bits that are looked for in 16-bit samples; more count as 16."""
FULL_RANGE_FROM = 1 << DEPTHS[-1]
"""A larger sample value means that all 16 bits are significant."""
MAX_BLOCK_BYTES = 64 << 20
"""Pages of a large file that are read at once: skipping to a page takes time for each before it."""
MAX_MAPPED_BYTES = 1 << 30
"""Of files that are mapped into memory; the mapping counts as memory of the process."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

Samples = NDArray[Any]
"""A picture as it is stored, (H, W) or (H, W, channels in BGR order), of any type."""


@dataclass(frozen=True, slots=True)
class ValueRange:
    """The sample values that are shown as black and as white."""

    black: float
    white: float


@dataclass(frozen=True, slots=True)
class Picture:
    """An image file, or one page of a TIFF."""

    path: Path
    page: TiffPage | None = None
    pages: int = 1
    """Number of pages of the file."""


def list_pictures(files: Sequence[Path]) -> list[Picture]:
    """List the pictures of some files in order: one of each, all pages of a TIFF."""
    return [picture for path in files for picture in _pictures(path)]


def _pictures(path: Path) -> list[Picture]:
    pages = _tiff_pages(path)
    return [Picture(path, page, len(pages)) for page in pages] or [Picture(path)]


def _tiff_pages(path: Path, limit: int | None = None) -> list[TiffPage]:
    if path.suffix.lower() not in TIFF_SUFFIXES:
        return []
    try:
        return tiff_pages(path, limit)
    except OSError:
        return []


def is_stack(path: Path) -> bool:
    """Whether a file is a TIFF of several pages."""
    return len(_tiff_pages(path, limit=2)) > 1


def read_image(path: Path, values: ValueRange | None = None) -> Images | None:
    """
    Read an image file, or the first page of a TIFF, as RGB uint8, (H, W, 3).

    Args:
        path: of the file.
        values: shown as black and white; by default the range of the type.

    Returns:
        None where it cannot be read.
    """
    return PictureReader(values).read(_pictures(path)[0])


class PictureReader:
    """
    Reads the pictures of a video as RGB uint8, (H, W, 3).

    Args:
        values: shown as black and white; by default the range of the type.
    """

    def __init__(self, values: ValueRange | None = None) -> None:
        self._values = values
        self._mapped: tuple[Path, NDArray[np.uint8]] | None = None
        self._block: dict[tuple[Path, int], Samples] = {}
        self._size = 1

    def read(self, picture: Picture) -> Images | None:
        """Read one picture; None where it cannot be read."""
        samples = self._samples(picture)
        if samples is None or samples.dtype.kind not in "uif":
            return None
        return _to_rgb(samples, self._values)

    def samples(self, picture: Picture) -> Samples | None:
        """Read one picture as it is stored, if it has more than 8 bits; None if it cannot be."""
        return self._samples(picture, deep=True)

    def _samples(self, picture: Picture, *, deep: bool = False) -> Samples | None:
        flags = DEEP if deep or self._values is not None else cv2.IMREAD_COLOR
        page = picture.page
        if page is not None and page.compression in PILLOW_COMPRESSIONS:
            return _read_with_pillow(picture.path, page.number)
        if page is not None and (page.is_float or page.bits > 16):
            flags = cv2.IMREAD_UNCHANGED
        if page is None or picture.pages == 1:
            return _read_file(picture.path, flags)
        try:
            if picture.path.stat().st_size <= MAX_MAPPED_BYTES:
                return self._read_mapped(picture, page, flags)
        except OSError:  # no file, or no memory for the mapping
            return None
        return self._read_page(picture, page, flags)

    def _read_mapped(self, picture: Picture, page: TiffPage, flags: int) -> Samples | None:
        """Read a page of a file in memory, as if it was the first one."""
        if self._mapped is None or self._mapped[0] != picture.path:
            # private: the header is changed in memory only
            self._mapped = picture.path, np.memmap(picture.path, np.uint8, mode="c")
        data = self._mapped[1]
        data[:16] = np.frombuffer(with_first_page(data[:16].tobytes(), page), np.uint8)
        return _decode(np.asarray(data), flags)

    def _read_page(self, picture: Picture, page: TiffPage, flags: int) -> Samples | None:
        """Read a page, and where pages are read one after the other, some that follow."""
        place = (picture.path, page.number)
        if place not in self._block:
            follows = (picture.path, page.number - 1) in self._block
            size = page.height * page.width * 4 * max(1, page.bits // 8)
            largest = max(1, MAX_BLOCK_BYTES // max(1, size))
            self._size = min(2 * self._size, largest) if follows else 1
            found = _read_pages(picture.path, page.number, self._size, flags)
            if not found and self._size > 1:  # one of them is damaged
                found = _read_pages(picture.path, page.number, 1, flags)
            self._block = {(picture.path, page.number + n): s for n, s in enumerate(found)}
        return self._block.get(place)


def _read_file(path: Path, flags: int) -> Samples | None:
    try:
        data = np.fromfile(path, dtype=np.uint8)  # OpenCV cannot open every file name
    except OSError:
        return None
    return _decode(data, flags) if len(data) else None


def _decode(data: NDArray[np.uint8], flags: int) -> Samples | None:
    try:
        return cv2.imdecode(data, flags)
    except cv2.error:
        return None


def _read_pages(path: Path, first: int, count: int, flags: int) -> list[Samples]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        # OpenCV cannot open every file name
        name = f"/proc/self/fd/{descriptor}"
        ok, pages = cv2.imreadmulti(name, start=first, count=count, flags=flags)
        return list(pages) if ok else []
    except cv2.error:
        return []
    finally:
        os.close(descriptor)


def _read_with_pillow(path: Path, page: int) -> Samples | None:
    from PIL import Image  # for rare files only

    try:
        with Image.open(path) as image:
            image.seek(page)
            whole = image if image.mode in ("L", "I;16", "I;16B", "F") else image.convert("RGB")
            samples = np.asarray(whole)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return samples[:, :, ::-1] if samples.ndim == 3 else samples


def _to_rgb(samples: Samples, values: ValueRange | None) -> Images:
    """Convert stored samples to RGB uint8, (H, W, 3)."""
    if samples.ndim == 2 or samples.shape[2] < 3:
        samples = np.repeat(samples.reshape(*samples.shape[:2], -1)[:, :, :1], 3, axis=2)
    bgr = samples[:, :, :3]
    if bgr.dtype != np.uint8:
        bgr = _to_8_bits(bgr, values or ValueRange(0, 65535))
    return cast(Images, cv2.cvtColor(np.ascontiguousarray(bgr), cv2.COLOR_BGR2RGB))


def _to_8_bits(samples: Samples, values: ValueRange) -> NDArray[np.uint8]:
    if samples.dtype == np.uint16:  # as a shift by the insignificant bits
        steps = np.minimum(samples, values.white).astype(np.uint32) * 256
        return (steps // (int(values.white) + 1)).astype(np.uint8)
    scale = 255 / max(values.white - values.black, 1e-30)
    scaled = (np.nan_to_num(samples.astype(np.float64)) - values.black) * scale
    return (np.clip(scaled, 0, 255) + 0.5).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class _Header:
    """What the header of a picture says about its sample values."""

    bits: int = 8
    is_float: bool = False
    white: int | float | None = None
    black: float | None = None
    significant: int | None = None
    """Bits that are significant, where only these may be used."""


def _header(picture: Picture) -> _Header:
    page = picture.page
    if page is not None:
        if page.bits in (10, 12, 14):  # OpenCV shifts them to 16 bits
            return _Header(page.bits, white=65535)
        white = page.largest
        if white is not None and not page.is_float:
            white = _white(white)
        return _Header(page.bits, page.is_float, white, page.smallest)
    try:
        with picture.path.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return _Header()
    if head.startswith(PNG_SIGNATURE):
        return _png_header(head)
    if head[:2] in (b"P5", b"P6"):
        return _pnm_header(head)
    return _Header()


def _png_header(head: bytes) -> _Header:
    if len(head) < 26 or head[24] <= 8:
        return _Header()
    place = head.find(b"sBIT")
    if place < 4 or place > head.find(b"IDAT") >= 0:
        return _Header(16)
    (length,) = struct.unpack(">I", head[place - 4 : place])
    return _Header(16, significant=max(head[place + 4 : place + 4 + min(length, 4)], default=16))


def _pnm_header(head: bytes) -> _Header:
    lines = (line.split(b"#")[0] for line in head[:1024].split(b"\n"))
    fields = b" ".join(lines).split()[:4]
    if len(fields) < 4 or not fields[3].isdigit() or int(fields[3]) < 256:
        return _Header()
    # the maximum of the type is what programs write that do not know another one
    return _Header(16, white=None if int(fields[3]) == 65535 else int(fields[3]))


def _white(largest: float) -> int:
    """Return the largest value of the least usual number of bits that holds this value."""
    return next((2**bits - 1 for bits in DEPTHS if largest < 2**bits), 65535)


def find_value_range(
    pictures: Sequence[Picture], progress: Callable[[int], None] = lambda count: None
) -> tuple[ValueRange | None, str]:
    """
    Find the sample values that are shown as black and as white in all pictures of a video.

    They come from the tags of the files (TIFF: SMaxSampleValue, MaxSampleValue; PNM: the maximum),
    and where there are none from the largest value of all pictures, which are read for this: the
    maximum of 8, 10, 12, 14 or 16 bits, or of floating-point values themselves.

    Args:
        pictures: of the video.
        progress: called with the number of pictures read so far.

    Returns:
        The range, and a sentence about it. None and an empty sentence if the pictures have 8 bits,
        or use all 16.
    """
    headers = [_header(picture) for picture in pictures]
    deep = [(p, h) for p, h in zip(pictures, headers, strict=True) if h.bits > 8]
    if not deep:
        return None, ""
    kept = [header for _, header in deep]
    whites = [header.white for header in kept if header.white is not None]
    bits = max(header.bits for header in kept)
    if any(header.is_float or header.bits > 16 for header in kept):
        return _range_of_floats(deep, whites, progress)
    if len(whites) == len(kept):
        white, reason = int(max(whites)), "by their tags"
    else:
        significant = max((header.significant or 0 for header in kept), default=0)
        white, reason = _largest_integer(deep, significant, progress)
    if white == 65535 and bits == 16:
        return None, ""
    shown = min(white, 2**bits - 1)
    return ValueRange(0, white), f"{bits}-bit pictures: 0 to {shown} are black to white, {reason}"


def _largest_integer(
    deep: Sequence[tuple[Picture, _Header]], significant: int, progress: Callable[[int], None]
) -> tuple[int, str]:
    largest = 0
    for samples in _read_all([picture for picture, _ in deep], progress):
        largest = max(largest, int(samples.max(initial=0)))
        if largest >= FULL_RANGE_FROM:
            return 65535, ""
    if largest < 2**significant:
        return 2**significant - 1, "by their tags"
    return _white(largest), f"since {largest} is the largest value of all"


def _range_of_floats(
    deep: Sequence[tuple[Picture, _Header]],
    whites: Sequence[float],
    progress: Callable[[int], None],
) -> tuple[ValueRange, str]:
    blacks = [header.black for _, header in deep if header.black is not None]
    if len(whites) == len(blacks) == len(deep):
        values, reason = ValueRange(min(blacks), max(whites)), "by their tags"
    else:
        low = high = 0.0
        for samples in _read_all([picture for picture, _ in deep], progress):
            finite = samples[np.isfinite(samples)]
            low = min(low, float(finite.min(initial=0)))
            high = max(high, float(finite.max(initial=0)))
        # values in [0, 1] are common, whether or not white occurs
        high = 1.0 if 0.5 < high < 1 and low == 0 else high
        values, reason = ValueRange(low, high or 1.0), "the values of all"
    kind = "floating-point" if any(header.is_float for _, header in deep) else "32-bit"
    return values, (
        f"{kind} pictures: {values.black:g} to {values.white:g} are black to white, {reason}"
    )


def _read_all(pictures: Sequence[Picture], progress: Callable[[int], None]) -> Iterator[Samples]:
    reader = PictureReader()
    for number, picture in enumerate(pictures):
        samples = reader.samples(picture)
        if samples is not None:
            yield samples
        progress(number + 1)
