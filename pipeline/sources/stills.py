"""Tell still pictures from animations, by the first bytes of a file."""

from __future__ import annotations

from pathlib import Path

from pipeline.sources.pictures import PNG_SIGNATURE, is_stack
from pipeline.sources.tiff import TIFF_SUFFIXES

MAYBE_STILL_SUFFIXES = frozenset({".gif", ".heic", ".heif", ".hif", ".avif"})
"""Of formats beside those of image sequences whose files may be one picture."""
HEAD_BYTES = 4096
WEBP_ANIMATION = 2
"""Bit of the flags of an extended WebP file."""
STILL_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif"})
"""Of ISO media files that hold one picture: HEIF and AVIF."""


def is_still(path: Path) -> bool:
    """Whether an image file is one picture, and no animation, stack of pages, or video."""
    suffix = path.suffix.lower()
    if suffix in TIFF_SUFFIXES:
        return not is_stack(path)
    head = read_head(path)
    if head[4:8] == b"ftyp":
        return head[8:12] in STILL_BRANDS
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return not is_animated_webp(head)
    if head.startswith(PNG_SIGNATURE):
        return b"acTL" not in head[: max(0, head.find(b"IDAT")) or len(head)]
    if head.startswith(b"GIF8"):
        return _is_still_gif(path)
    return suffix not in MAYBE_STILL_SUFFIXES


def read_head(path: Path) -> bytes:
    """Read the first bytes of a file; none if it is no file, or cannot be read."""
    if not path.is_file():
        return b""  # opening a pipe would block until another process writes to it
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


def is_animated_webp(head: bytes) -> bool:
    """Whether a file with these first bytes is an animated WebP."""
    extended = head.startswith(b"RIFF") and head[8:16] == b"WEBPVP8X" and len(head) > 20
    return extended and bool(head[20] & WEBP_ANIMATION)


def _is_still_gif(path: Path) -> bool:
    from PIL import Image  # for few files only

    try:
        with Image.open(path) as image:
            return not getattr(image, "is_animated", False)
    except (OSError, ValueError, SyntaxError):
        return False  # gets a row with an error
