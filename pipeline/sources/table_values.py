"""Read the values of tables: names of files, labels, and times."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from pipeline.storage import redact_url

LEGACY_ENCODINGS = ("cp1252", "latin-1")
"""Tried in this order for text that is not in UTF-8; the last one accepts all bytes."""
CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d*)?)")
NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)(e[+-]?\d+)?|nan|[+-]?inf", re.IGNORECASE)


def file_name(written: str, folder: Path, encoding: str = "utf-8") -> str:
    """
    Return the name of a file as it is on disk, though the table spells it a little differently.

    Blanks and quotes around the name, its encoding, the Unicode form of accents, and backslashes
    may differ.

    Args:
        written: in the table; relative names are those of files in `folder`.
        folder: to which names are relative.
        encoding: of the table.

    Returns:
        The first spelling that exists; the written one without blanks around it if none does.
    """
    for name in _spellings(written, encoding):
        if name and os.path.lexists(folder / os.path.expanduser(name)):
            return name
    return written.strip()


def _spellings(written: str, encoding: str) -> Iterator[str]:
    yield written
    name = written.strip()
    yield name
    if encoding in LEGACY_ENCODINGS:  # the bytes of the table may be those of the name
        yield os.fsdecode(name.encode(encoding))
    if name[:1] in "\"'" and name[:1] == name[-1:]:
        name = name[1:-1]
        yield name
    yield unicodedata.normalize("NFC", name)
    yield unicodedata.normalize("NFD", name)
    if "\\" in name:
        yield name.replace("\\", "/")


def file_path(name: str, folder: Path) -> str:
    """Return the absolute path of a name in a table; of a URL, the URL without its secrets."""
    if "://" in name:
        return redact_url(name)
    return os.path.abspath(folder / os.path.expanduser(name))


def split_labels(cell: str) -> tuple[str, ...]:
    """Split a cell into labels, `hug | shake hands`; each once, in this order."""
    parts = (" ".join(unicodedata.normalize("NFC", part).split()) for part in cell.split("|"))
    return tuple(dict.fromkeys(part for part in parts if part))


def parse_seconds(text: str) -> float:
    """
    Parse a time: seconds with a decimal point or comma, or a clock time.

    1.5 and 1,5 are 1.5 seconds; 01:30 and 00:01:30.0 are 90 seconds.

    Raises:
        ValueError: it is neither.
    """
    text = text.strip()
    clock = CLOCK.fullmatch(text)
    if clock:
        hours, minutes, seconds = clock.groups(default="0")
        if float(seconds.replace(",", ".")) < 60 and (clock[1] is None or int(minutes) < 60):
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds.replace(",", "."))
    elif NUMBER.fullmatch(text):
        return float(text.replace(",", "."))
    raise ValueError(f"{text!r} is no time in seconds, such as 90, 90.5 or 00:01:30.5")
