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
from contextvars import ContextVar
from typing import Any, NoReturn

BROKEN, USAGE, SOME_FAILED = 1, 2, 3
"""Exit codes beside 0, and 128 plus the number of the signal that stopped a command."""
STOP_SECONDS = 3.0
"""Time for an orderly end after a signal; then the process exits, whatever it is doing."""
RESUME_MESSAGE = "stopped; what is finished stays. The same command goes on from there.\n"
STDERR = 2

Callbacks = list[Callable[[], None]]
_ON_STOP: ContextVar[Callbacks | None] = ContextVar("on_stop", default=None)
"""What to call when a signal arrives, of the command that handles signals in this context."""

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


class SignalWatch:
    """
    Stops the work of this process at the first SIGINT or SIGTERM, and exits some seconds later.

    Works beside any Python handler, whoever installs it: the C handler of the interpreter writes
    the number of the signal to a pipe, from which a thread reads.

    Args:
        stop_seconds: time for an orderly end.
    """

    def __init__(self, stop_seconds: float) -> None:
        self._stop_seconds = stop_seconds
        self.first: int | None = None
        """Number of the signal that arrived first."""
        self._raised = False
        self._callbacks: Callbacks = []

    def start(self) -> None:
        """Watch for signals until the process ends, or until `close`. Main thread only."""
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        threading.Thread(target=self._read, args=[reader], name="signals", daemon=True).start()
        self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._token = _ON_STOP.set(self._callbacks)

    def close(self) -> None:
        """Stop watching."""
        _ON_STOP.reset(self._token)
        signal.set_wakeup_fd(self._before)
        os.close(self._writer)

    def __enter__(self) -> SignalWatch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, reader: int) -> None:
        stopping = False
        while number := os.read(reader, 1):  # until the writer is closed
            if number[0] in (signal.SIGINT, signal.SIGTERM) and not stopping:
                stopping = True
                self._stop(number[0])
        os.close(reader)

    def _stop(self, number: int) -> None:
        self.first = self.first or number
        deadline = threading.Timer(self._stop_seconds, _exit_late, [128 + self.first])
        deadline.daemon = True
        deadline.start()
        for callback in list(self._callbacks):
            callback()

    def raise_interrupted(self) -> NoReturn:
        """Raise `Interrupted`, after code of others has handled a signal and returned."""
        raise Interrupted(self.first or signal.SIGTERM)

    def interrupt(self, number: int, frame: object) -> None:
        """Raise `Interrupted` for the first signal, as a signal handler; ignore further ones."""
        self.first = self.first or number
        if not self._raised:
            self._raised = True
            raise Interrupted(self.first)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """
    Turn SIGINT and SIGTERM into `Interrupted`, with a deadline for the end of the process.

    Raises:
        Interrupted: also for what another exception would report after the signal, such as a lost
            connection or a stopped decode process.
    """
    watch = SignalWatch(STOP_SECONDS)
    handlers: dict[int, Handler] = dict.fromkeys((signal.SIGINT, signal.SIGTERM), watch.interrupt)
    with watch, signal_handlers(handlers):
        try:
            yield
        except BaseException as error:
            if watch.first is None or isinstance(error, Interrupted):
                raise
            raise Interrupted(watch.first) from error


@contextlib.contextmanager
def on_stop(callback: Callable[[], None]) -> Iterator[None]:
    """
    Call a function when a signal arrives during the block, in another thread.

    Does nothing where signals are not handled by `stop_on_signals`.
    """
    callbacks = _ON_STOP.get()
    if callbacks is None:
        yield
        return
    callbacks.append(callback)
    try:
        yield
    finally:
        callbacks.remove(callback)


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
