"""
Columns of a page: compressed as they come, read by its script as typed arrays.

The values of a column are little-endian, compressed by gzip and encoded as base64. Browsers
decompress them without a library (`DecompressionStream`).
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

ArrayName = Literal["Uint8Array", "Uint16Array", "Uint32Array", "Float32Array"]
"""Typed arrays of JavaScript."""
_DTYPES: dict[ArrayName, np.dtype[Any]] = {
    "Uint8Array": np.dtype("u1"),
    "Uint16Array": np.dtype("<u2"),
    "Uint32Array": np.dtype("<u4"),
    "Float32Array": np.dtype("<f4"),
}
_GZIP = 16 + zlib.MAX_WBITS
_DROPPED_BITS = 11
"""Low bits of the mantissa of float32 that are rounded away: a relative precision of 1/4096."""


class _Compressor:
    """Compresses bytes as they come."""

    def __init__(self) -> None:
        self._gzip = zlib.compressobj(level=9, wbits=_GZIP)
        self._blocks: list[bytes] = []

    def add(self, data: bytes) -> None:
        self._blocks.append(self._gzip.compress(data))

    def finish(self) -> str:
        """Return everything, as base64."""
        return base64.b64encode(b"".join([*self._blocks, self._gzip.flush()])).decode()


class PackedNumbers:
    """
    A column of numbers.

    Args:
        array: the typed array that the script makes of it.
        differences: store the difference to the value before, modulo the size of the type, which
            compresses sorted values well; for unsigned integers only.
    """

    def __init__(self, array: ArrayName, *, differences: bool = False) -> None:
        self._array, self._differences = array, differences
        self._dtype = _DTYPES[array]
        self._last: Any = self._dtype.type(0)
        self._compressor = _Compressor()

    def add(self, values: ArrayLike) -> None:
        """Append values (n,)."""
        numbers = np.asarray(values).astype(self._dtype)
        if self._differences and len(numbers):
            differences = np.diff(numbers, prepend=self._last)
            self._last = numbers[-1]
            numbers = differences
        if self._dtype.kind == "f":
            numbers = round_mantissa(numbers)
        self._compressor.add(numbers.tobytes())

    def finish(self) -> dict[str, Any]:
        """Return the column as JSON values."""
        return {
            "array": self._array,
            "differences": self._differences,
            "data": self._compressor.finish(),
        }


class PackedTexts:
    """A column of texts, joined by NUL characters, which no name of a file contains."""

    def __init__(self) -> None:
        self._compressor = _Compressor()
        self._is_first = True

    def add(self, texts: Iterable[str]) -> None:
        """Append texts."""
        for text in texts:
            separator = "" if self._is_first else "\0"
            self._is_first = False
            line = separator + text.replace("\0", "\N{REPLACEMENT CHARACTER}")
            self._compressor.add(line.encode("utf-8", "replace"))

    def finish(self) -> dict[str, Any]:
        """Return the column as JSON values."""
        return {"array": "texts", "empty": self._is_first, "data": self._compressor.finish()}


def round_mantissa(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round float32 to a relative precision of 1/4096, so that low bits compress; NaN stays NaN."""
    bits = values.view("<u4")
    half = np.uint32(1 << (_DROPPED_BITS - 1))
    mask = np.uint32(0xFFFFFFFF << _DROPPED_BITS & 0xFFFFFFFF)
    rounded = ((bits + half) & mask).view("<f4")
    return np.where(np.isfinite(values), rounded, values)
