"""
Read tables as people save them: lists of videos, and tables of labels.

    table = read_table(Path("labels.csv"), known=("video", "label"))
    for row in table.rows:
        if not row["label"]:
            table.problems.add("the label is empty", [row.line])
    table.problems.raise_if_any()

Columns may be separated by commas, semicolons, tabs or vertical bars; the text may be UTF-8, UTF-16
or UTF-32, and is read as Windows-1252 if it is none of these. Empty columns and blanks around
values are ignored; column names may be in upper case. Every cell is text: 0007 and NA are names.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import SourceError
from pipeline.sources.table_problems import Problems
from pipeline.sources.table_values import LEGACY_ENCODINGS, file_name
from pipeline.storage import printable

SEPARATORS = (",", ";", "\t", "|")
NO_SEPARATOR = "\x1f"
"""For tables of one column, whose values may contain any separator."""
SPREADSHEET_SUFFIXES = frozenset({".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".numbers"})
BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\x00\x00": "utf-32",  # before UTF-16, whose mark it begins with
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
HEAD_BYTES = 4096
PARQUET = b"PAR1"


@dataclass(frozen=True, slots=True)
class Row:
    """One row that has a value."""

    line: int
    """Of the file, where the row begins; the header is usually line 1."""
    cells: Mapping[str, str]
    """By column, as they were written."""

    def __getitem__(self, column: str) -> str:
        """Return a value without blanks around it; empty if there is no such column."""
        return self.cells.get(column, "").strip()


@dataclass(frozen=True)
class Table:
    """The rows of a table, and the mistakes found so far."""

    path: Path
    columns: tuple[str, ...]
    """In lower case, with underscores for blanks and hyphens, without those that have no name."""
    rows: tuple[Row, ...]
    encoding: str
    problems: Problems

    @property
    def note(self) -> str:
        """A sentence for the user if the encoding was guessed, else an empty string."""
        if self.encoding not in LEGACY_ENCODINGS:
            return ""
        return (
            f"{printable(self.path)} is not in UTF-8 and was read as Windows-1252: save it as "
            "UTF-8 if names look wrong"
        )

    def file_name(self, row: Row, column: str, folder: Path) -> str:
        """Return the name of a file as it is on disk; see `file_name`."""
        return file_name(row.cells.get(column, ""), folder, self.encoding)


def read_table(path: Path, known: Collection[str] = ()) -> Table:
    """
    Read a table of text or Parquet.

    Mistakes in rows are in `Table.problems`; the caller adds its own and reports them together.

    Args:
        path: of the table.
        known: normalized names of columns; they help to find the separator.

    Raises:
        SourceError: the file cannot be read, is no table, or has no header.
    """
    problems = Problems(path)
    data = _read(path)
    if data.startswith(PARQUET):
        columns, rows = _parse_parquet(data, path)
        return Table(path, columns, rows, "utf-8", problems)
    text, encoding = _decode(data, path)
    records = _records(text, known, path)
    if not records:
        raise SourceError(f"{printable(path)} is empty")
    header, *rows_read = records
    names = [normalized_name(name) for name in header[1]]
    _check_cells(names, rows_read, problems)
    _check_names(names, header[0], problems)
    kept = tuple(dict.fromkeys(name for name in names if name))
    # of a column that occurs twice, the first is kept; it was reported above
    rows = tuple(
        Row(line, dict(reversed([*zip(names, cells, strict=False)])))
        for line, cells in rows_read
        if any(cell.strip() for cell in cells)
    )
    return Table(path, kept, rows, encoding, problems)


def normalized_name(name: str) -> str:
    """Return the name of a column in lower case, with underscores for blanks and hyphens."""
    return re.sub(r"[\s\-]+", "_", name.strip().casefold())


def read_text(path: Path) -> tuple[str, str]:
    """
    Read a text file in any common encoding.

    Returns:
        The text, without byte order mark; and the name of its encoding.

    Raises:
        SourceError: it cannot be read, or is no text; the message says what it is.
    """
    return _decode(_read(path), path)


def _read(path: Path) -> bytes:
    """Read a file whose first bytes look like a table."""
    try:
        with path.open("rb") as file:  # once: it may be a pipe
            head = file.read(HEAD_BYTES)
            _refuse_other_formats(path, head)
            return head + file.read()
    except OSError as error:
        raise SourceError(f"{printable(path)} cannot be read: {error.strerror}") from error


def _decode(data: bytes, path: Path) -> tuple[str, str]:
    mark = next((mark for mark in BYTE_ORDER_MARKS if data.startswith(mark)), b"")
    found = BYTE_ORDER_MARKS.get(mark) or _utf_16_without_mark(data[:HEAD_BYTES])
    for encoding in (found,) if found else ("utf-8", *LEGACY_ENCODINGS):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text, encoding
    raise SourceError(f"{printable(path)} cannot be read: it is no text")


def _refuse_other_formats(path: Path, head: bytes) -> None:
    """Say in one sentence what a file is that is no table in text."""
    begin = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    zipped = head.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0"))
    problem = ""
    if not head:
        problem = "is empty"
    elif zipped or path.suffix.lower() in SPREADSHEET_SUFFIXES:
        problem = "is a spreadsheet: save it as CSV (in Excel: CSV UTF-8), and give that file"
    elif begin.startswith(b"version https://git-lfs"):
        problem = "is a Git LFS pointer, not the table: fetch it with `git lfs pull`"
    elif begin.startswith((b"<!doctype html", b"<html")):
        problem = "is a web page, not the table: download the file itself"
    elif begin.startswith((b"{\\rtf", b"%pdf")):
        problem = "is a text document: save it as CSV, and give that file"
    elif path.suffix.lower() == ".parquet" and not head.startswith(PARQUET):
        problem = "cannot be read: it is not in Parquet"
    if problem:
        raise SourceError(f"{printable(path)} {problem}")


def _utf_16_without_mark(head: bytes) -> str:
    """Guess UTF-16 without byte order mark: half of the bytes of Latin letters are zero."""
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if odd > len(head) // 4 and not even:
        return "utf-16-le"
    if even > len(head) // 4 and not odd:
        return "utf-16-be"
    return ""


def _records(text: str, known: Collection[str], path: Path) -> list[tuple[int, list[str]]]:
    """Read the header, and the rows after it, each with the line where it begins."""
    lines = io.StringIO(text, newline="")
    number, separator = 0, ""
    for line in lines:
        number += 1
        declared = re.fullmatch(r'"?sep=(.)"?', line.strip("\r\n"), re.IGNORECASE)
        if declared:  # Excel writes it, and hides it
            separator = declared[1]
        elif line.strip(" \r\n\t;,|"):
            break
    else:
        return []
    separator = separator or _separator(line, known)
    lines_left = [line, *lines]
    try:
        return _parse(lines_left, number, separator, strict=True)
    except csv.Error as error:
        if "unexpected end" in str(error):  # all that follows would be one value
            raise SourceError(
                f"{printable(path)} cannot be read: a quote around a value is never closed"
            ) from error
    try:  # for example blanks between a closing quote and the separator
        return _parse(lines_left, number, separator, strict=False)
    except csv.Error as error:
        raise SourceError(f"{printable(path)} cannot be read: {error}") from error


def _parse(
    lines: Sequence[str], number: int, separator: str, *, strict: bool
) -> list[tuple[int, list[str]]]:
    """Parse lines, the first of which has this number."""
    reader = csv.reader(
        lines, delimiter=separator, skipinitialspace=separator != "\t", strict=strict
    )
    records, begin = [], number
    for cells in reader:
        records.append((begin, cells))
        begin = number + reader.line_num
    return records


def _separator(header: str, known: Collection[str]) -> str:
    """Choose the separator that gives most known columns, then most columns."""

    def score(separator: str) -> tuple[int, int]:
        (cells,) = csv.reader([header], delimiter=separator, skipinitialspace=True)
        names = list(map(normalized_name, cells))
        return sum(name in known for name in names), len(names)

    best = max(SEPARATORS, key=score)
    return best if score(best)[1] > 1 else NO_SEPARATOR


def _check_cells(
    names: Sequence[str], rows: Sequence[tuple[int, list[str]]], problems: Problems
) -> None:
    """Find values outside of the named columns; empty ones are common in spreadsheets."""
    unnamed = [number for number, name in enumerate(names) if not name]
    surplus, nameless = [], []
    for line, cells in rows:
        if any(cell.strip() for cell in cells[len(names) :]):
            surplus.append(line)
        if any(cells[number].strip() for number in unnamed if number < len(cells)):
            nameless.append(line)
    if surplus:
        problems.add(
            "there are more values than the header has columns: add the missing columns, or put "
            "values that contain the separator in quotes",
            surplus,
        )
    if nameless:
        problems.add("there are values in a column without a name", nameless)


def _check_names(names: Sequence[str], line: int, problems: Problems) -> None:
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        problems.add(f"the header has several columns {', '.join(twice)}: keep one of each", [line])


def _parse_parquet(data: bytes, path: Path) -> tuple[tuple[str, ...], tuple[Row, ...]]:
    """Parse a Parquet file; its rows are numbered as if a header were the first."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = pq.read_table(pa.BufferReader(data)).to_pydict()
    except (OSError, ValueError) as error:
        raise SourceError(f"{printable(path)} cannot be read: {error}") from error
    names = [normalized_name(name) for name in columns]
    texts = [[_as_text(value) for value in values] for values in columns.values()]
    rows = tuple(
        Row(line, dict(zip(names, cells, strict=True)))
        for line, cells in enumerate(zip(*texts, strict=True), start=2)
        if any(cell.strip() for cell in cells)
    )
    return tuple(names), rows


def _as_text(value: object) -> str:
    """Convert a value; missing ones (None, NaN) are empty."""
    return "" if value is None or value != value else str(value)
