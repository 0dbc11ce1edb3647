"""Collect the mistakes in a table, and report all of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.errors import SourceError
from pipeline.storage import printable

MAX_RANGES = 100
"""Ranges of rows that a message lists."""
MAX_PROBLEMS = 200
"""Mistakes that a message lists."""


class Problems:
    """
    Mistakes in one table, collected so that one message reports all of them.

    Args:
        path: of the table.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: list[tuple[tuple[int, ...], str]] = []

    def add(self, message: str, lines: Iterable[int] = ()) -> None:
        """Add a mistake, and the lines where it is; none if it concerns the whole table."""
        self._found.append((tuple(sorted(set(lines))), message))

    def add_all(self, message: str, lines: Iterable[int]) -> None:
        """Add a mistake if there is any line where it is."""
        lines = list(lines)
        if lines:
            self.add(message, lines)

    @property
    def lines(self) -> frozenset[int]:
        """Lines with a mistake."""
        return frozenset(line for lines, _ in self._found for line in lines)

    def raise_if_any(self) -> None:
        """
        Report all mistakes, in the order of their lines.

        Raises:
            SourceError: there is at least one.
        """
        if not self._found:
            return
        found, name = sorted(self._found), printable(self.path)
        if len(found) == 1:
            lines, message = found[0]
            place = f"{format_lines(lines)} of {name}" if lines else name
            raise SourceError(f"{place}: {message}")
        shown = [
            f"\n  {format_lines(lines)}: {message}" if lines else f"\n  {message}"
            for lines, message in found[:MAX_PROBLEMS]
        ]
        more = len(found) - len(shown)
        if more:
            shown.append(f"\n  and {more} more")
        raise SourceError(f"{name} has {len(found)} mistakes:{''.join(shown)}")


def format_lines(lines: Iterable[int]) -> str:
    """List line numbers: `row 2`, or `rows 2, 4 to 9, 12`."""
    numbers = sorted(set(lines))
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1].append(number)
        else:
            ranges.append([number])
    listed = [_format_range(numbers) for numbers in ranges[:MAX_RANGES]]
    more = sum(map(len, ranges[MAX_RANGES:]))
    return f"row{'s' * (len(numbers) != 1)} {', '.join(listed)}" + f" and {more} more" * bool(more)


def _format_range(numbers: Sequence[int]) -> str:
    if len(numbers) > 2:
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))
