"""
Ctrl-C and SIGTERM: a command ends soon and cleanly, and says how to go on.

Nothing heavy is imported here: signals are handled from the first moment of a command.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

BROKEN, USAGE, SOME_FAILED = 1, 2, 3
"""Exit codes beside 0, and 128 with the signal that stopped a command."""
LATEST_SECONDS = 4.0
"""A stop that takes longer, in native code or in a library that let nothing pass, is cut short."""
WORDS = "stopped; what is finished stays. The same command goes on from there.\n"

Handler = Callable[[int, Any], Any] | int | None
PYTHONS_OWN: Mapping[int, Handler] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}


class Stopped(BaseException):
    """The user, or the system, asked to stop."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.exit_code = 128 + signal_number


@contextlib.contextmanager
def handling(handlers: Mapping[int, Handler]) -> Iterator[None]:
    """Handle signals in other ways until the end of the block."""
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_on_signals() -> contextlib.AbstractContextManager[None]:
    """Turn SIGINT and SIGTERM into `Stopped`, after telling the pipelines, which must not wait."""
    return handling({signal.SIGINT: _stop, signal.SIGTERM: _stop})


def _stop(number: int, frame: object) -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    stopped = Stopped(number)
    late = threading.Timer(LATEST_SECONDS, say_and_leave, [stopped])
    late.daemon = True
    late.start()
    # a signal may come while this is not imported yet, or only in part
    workshop = getattr(sys.modules.get("flows.tasks"), "workshop", None)
    if workshop is not None:
        workshop.stop()
    raise stopped


def say_and_leave(stopped: Stopped) -> None:
    """Say how to go on, and end the process."""
    sys.stderr.write(WORDS)
    leave(stopped.exit_code)


def leave(code: int) -> None:
    """
    End the process at once.

    Prefect's threads would hold it for minutes where the server is gone.
    """
    logging.shutdown()
    os._exit(code)
