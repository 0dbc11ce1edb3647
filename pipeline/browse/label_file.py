"""LABELS.csv while people label: every answer is appended at once."""

from __future__ import annotations

import csv
import io
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import SourceError
from pipeline.sources.tables import read_table
from pipeline.storage import printable, write_text
from pipeline.training.annotations import COLUMNS, REQUIRED

WRITTEN = ("video", "label", "start_seconds", "end_seconds", "group")
"""Columns of a new file."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One labelled part of a video."""

    location: str
    """Absolute path of the video."""
    label: str
    start_seconds: float | None
    """None for the whole video."""
    end_seconds: float | None


class LabelFile:
    """
    A table of labels, to which answers are appended. Rows that it has already stay as they are.

    Args:
        path: created with its first answer.

    Raises:
        SourceError: the file has other columns or is not separated by commas.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: list[Answer] = []
        """Those of the file, first."""
        self._lock = threading.Lock()
        self._header: tuple[str, ...] = WRITTEN
        self._rows: dict[int, tuple[Answer, str]] = {}
        """Answers of this session that were not undone, and their lines, by number."""
        self._text_before = ""
        if path.exists() and path.stat().st_size:
            self._read()

    def _read(self) -> None:
        data = self.path.read_bytes()
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise SourceError(f"{printable(self.path)} is not UTF-8: give another file") from error
        header = next(csv.reader(io.StringIO(text)))
        unknown = [name for name in header if name not in COLUMNS]
        missing = [name for name in (*REQUIRED, *WRITTEN[2:4]) if name not in header]
        if unknown or missing:
            raise SourceError(
                f"{printable(self.path)} has the columns {', '.join(header)}; answers need "
                f"{', '.join(WRITTEN)}, separated by commas: give another file"
            )
        self._header = tuple(header)
        self._text_before = text if text.endswith("\n") else text + "\n"
        table = read_table(self.path, known=COLUMNS)
        table.problems.raise_if_any()
        for row in table.rows:
            location = os.path.abspath(
                self.path.resolve().parent / os.path.expanduser(row["video"])
            )
            times = (row[name] for name in WRITTEN[2:4])
            start, end = (float(value) if value else None for value in times)
            self.answers.append(Answer(location, row["label"], start, end))

    def append(self, answer: Answer) -> int:
        """Write an answer to the disk. Returns its number, for `undo`."""
        with self._lock:
            number = len(self._rows) + 1 + max(self._rows, default=0)
            line = self._line(answer)
            if not self._rows:
                self._rewrite(extra=line)  # also creates the file
            else:
                with self.path.open("a", encoding="utf-8", newline="") as file:
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
            self._rows[number] = (answer, line)
            self.answers.append(answer)
            return number

    def undo(self, number: int) -> Answer | None:
        """Remove an answer of this session; None if it was removed before."""
        with self._lock:
            found = self._rows.pop(number, None)
            if found is None:
                return None
            self._rewrite()
            self.answers.remove(found[0])
            return found[0]

    def _rewrite(self, extra: str = "") -> None:
        header = "" if self._text_before else ",".join(self._header) + "\n"
        lines = "".join(line for _, line in self._rows.values())
        write_text(header + self._text_before + lines + extra, self.path)

    def _line(self, answer: Answer) -> str:
        name = self._name(answer.location)
        times = (answer.start_seconds, answer.end_seconds)
        start, end = ("" if time is None else f"{time:.6g}" for time in times)
        values = {
            "video": name,
            "label": answer.label,
            "start_seconds": start,
            "end_seconds": end,
            "group": name,
        }
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(values.get(n, "") for n in self._header)
        return line.getvalue()

    def _name(self, location: str) -> str:
        """Return a path relative to the table, where the video lies below its folder."""
        folder = str(self.path.resolve().parent)
        inside = os.path.commonpath([folder, location]) == folder
        return os.path.relpath(location, folder) if inside else location
