"""
Handle SIGINT and SIGTERM: end the command within seconds, and print how to resume.

A Python signal handler alone cannot promise that. Prefect replaces the SIGTERM handler while a flow
runs, and then waits for the tasks in flight; and no Python handler runs before native code in the
main thread returns. So a thread receives the signals as well, through `signal.set_wakeup_fd`.

Nothing heavy is imported here: signals are handled from the first moment of a command.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

BROKEN, USAGE, SOME_FAILED = 1, 2, 3
"""Exit codes beside 0, and 128 plus the number of the signal that stopped a command."""
STOP_SECONDS = 3.0
"""Time for an orderly end after a signal; then the process exits, whatever it is doing."""
RESUME_MESSAGE = "stopped; what is finished stays. The same command goes on from there.\n"
STDERR = 2

Handler = Callable[[int, Any], Any] | int | None
DEFAULT_HANDLERS: Mapping[int, Handler] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}


class Interrupted(BaseException):
    """The user or the system asked the process to stop."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.exit_code = 128 + signal_number


@contextlib.contextmanager
def signal_handlers(handlers: Mapping[int, Handler]) -> Iterator[None]:
    """Replace signal handlers until the end of the block."""
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into `Interrupted`, with a deadline for the end of the process."""
    handlers: dict[int, Handler] = {signal.SIGINT: _interrupt, signal.SIGTERM: _interrupt}
    with exit_after_signals(STOP_SECONDS), signal_handlers(handlers):
        yield


def _interrupt(number: int, frame: object) -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    raise Interrupted(number)


@contextlib.contextmanager
def exit_after_signals(stop_seconds: float) -> Iterator[None]:
    """
    Stop the work of this process when SIGINT or SIGTERM arrives, and exit after `stop_seconds`.

    Works beside any Python handler, whoever installs it: the C handler of the interpreter writes
    the number of the signal to a pipe, from which a thread reads. Main thread only.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    thread = threading.Thread(
        target=_watch, args=(reader, stop_seconds), name="signals", daemon=True
    )
    thread.start()
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)


def _watch(reader: int, stop_seconds: float) -> None:
    """Wait for the first signal that ends the process. Ends with the writer of the pipe."""
    while number := os.read(reader, 1):
        if number[0] in (signal.SIGINT, signal.SIGTERM):
            break
    os.close(reader)
    if not number:
        return
    deadline = threading.Timer(stop_seconds, _exit_late, [128 + number[0]])
    deadline.daemon = True
    deadline.start()
    # the signal may come before this module is imported, or while it is
    stop_all = getattr(sys.modules.get("flows.tasks"), "stop_all", None)
    if stop_all is not None:
        stop_all()


def _exit_late(code: int) -> None:
    """Exit without waiting for anything: no lock of logging, no reader of standard error."""
    with contextlib.suppress(OSError):
        _, writable, _ = select.select([], [STDERR], [], 0)
        if writable:
            os.write(STDERR, RESUME_MESSAGE.encode())
    os._exit(code)


def report_and_exit(interrupted: Interrupted) -> None:
    """Print how to resume, and end the process."""
    sys.stderr.write(RESUME_MESSAGE)
    exit_now(interrupted.exit_code)


def exit_now(code: int) -> None:
    """
    End the process without joining its threads.

    Prefect's threads would hold it for minutes where the server is gone.
    """
    logging.shutdown()
    os._exit(code)
