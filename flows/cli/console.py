"""What a person sees of a run: a bar, or plain lines where there is no terminal."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

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

PLAIN_SECONDS = 10.0
"""Between two lines where there is no terminal."""
REFRESH_SECONDS = 0.2

console = Console()
errors = Console(stderr=True)


@contextlib.contextmanager
def watch(pipeline: Any, *, quiet: bool) -> Iterator[None]:
    """Show the progress of a pipeline until the end of the block."""
    if quiet:
        yield
        return
    stop = threading.Event()
    show = _bar if errors.is_terminal else _lines
    thread = threading.Thread(target=show, args=(pipeline.progress, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _bar(tally: Any, stop: threading.Event) -> None:
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
            done = tally.videos_done + tally.videos_skipped
            progress.update(
                bar, total=tally.videos_total or None, completed=done, rate=_rate(tally)
            )


@contextlib.contextmanager
def count(what: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """Show how many of a known number are done; the block tells how many, and what of the last."""
    if not errors.is_terminal:
        yield lambda done, said: print_error(f"{what} {done} of {total}: {said}")
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeElapsedColumn(), TextColumn("{task.fields[said]}"), console=errors
    ) as progress:
        bar = progress.add_task(what, total=total, said="")
        yield lambda done, said: progress.update(bar, completed=done, said=said)


def _rate(tally: Any) -> str:
    seconds = time.monotonic() - tally.started
    text = f"{tally.frames_encoded / max(seconds, 1e-9):,.0f} frames/s"
    bad = tally.videos_failed + tally.videos_partial
    return f"{text}, {bad} not fully decoded" if bad else text


def _lines(tally: Any, stop: threading.Event) -> None:
    while not stop.wait(PLAIN_SECONDS):
        done = tally.videos_done + tally.videos_skipped
        print_error(f"{done} of {tally.videos_total} videos, {_rate(tally)}")


def print_error(text: str) -> None:
    """Print a line to standard error, as it is."""
    errors.print(Text(text), soft_wrap=True)


def print_table(columns: list[str], rows: list[list[str]], title: str | None = None) -> None:
    """Print a table to standard output; where that is no terminal, with tabs between the cells."""
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
    """Print a line to standard output, as it is."""
    sys.stdout.write(text + "\n")
