"""Print tables, lines and progress: a bar in a terminal, else a line from time to time."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pipeline.progress import RunProgress

PRINT_SECONDS = 10.0
"""Between two lines of progress without a terminal."""
REFRESH_SECONDS = 0.2

console = Console()
errors = Console(stderr=True)


@contextlib.contextmanager
def watch(progress: RunProgress, *, quiet: bool) -> Iterator[None]:
    """Show the progress of a run until the end of the block."""
    if quiet:
        yield
        return
    stop = threading.Event()
    show = _show_bar if errors.is_terminal else _print_progress
    thread = threading.Thread(target=show, args=(progress, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _show_bar(run: RunProgress, stop: threading.Event) -> None:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, transient=True) as progress:
        bar = progress.add_task("videos", total=None, rate="")
        while not stop.wait(REFRESH_SECONDS):
            done = run.videos_done + run.videos_skipped
            progress.update(bar, total=run.videos_total or None, completed=done, rate=_rate(run))


def _print_progress(run: RunProgress, stop: threading.Event) -> None:
    while not stop.wait(PRINT_SECONDS):
        done = run.videos_done + run.videos_skipped
        print_error(f"{done} of {run.videos_total} videos, {_rate(run)}")


def _rate(run: RunProgress) -> str:
    seconds = time.monotonic() - run.started
    text = f"{run.frames_encoded / max(seconds, 1e-9):,.0f} frames/s"
    bad = run.videos_failed + run.videos_partial
    return f"{text}, {bad} not fully decoded" if bad else text


@contextlib.contextmanager
def count(what: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """Show how many of a known number are done; call the result with that number and a note."""
    if not errors.is_terminal:
        yield lambda done, note: print_error(f"{what} {done} of {total}: {note}")
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeElapsedColumn(), TextColumn("{task.fields[note]}"), console=errors
    ) as progress:
        bar = progress.add_task(what, total=total, note="")
        yield lambda done, note: progress.update(bar, completed=done, note=note)


def print_error(text: str) -> None:
    """Print a line to standard error, without markup."""
    errors.print(Text(text), soft_wrap=True)


def print_table(columns: list[str], rows: list[list[str]], title: str | None = None) -> None:
    """Print a table to standard output; without a terminal, as lines of tab-separated cells."""
    if not console.is_terminal:
        for row in [columns, *rows]:
            print_line("\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in row))
        return
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def print_line(text: str = "") -> None:
    """Print a line to standard output."""
    sys.stdout.write(text + "\n")
