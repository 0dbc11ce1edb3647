"""Imported by Python at the start of every process: wraps the readers of decode processes."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

HANG_SECONDS = 1000


def trigger(name: str) -> None:
    """Trigger the fault named by a video."""
    if name.startswith("reader-hangs"):
        time.sleep(HANG_SECONDS)
    elif name.startswith("reader-exits"):
        os._exit(3)
    elif name.startswith("reader-segfaults"):
        os.kill(os.getpid(), signal.SIGSEGV)
    elif name.startswith("reader-starves"):
        raise MemoryError
    elif name.startswith("reader-throws"):
        raise RuntimeError("unexpected error")


def install(memory: Path) -> None:
    """Wrap the readers of this process."""
    from pipeline.decode.readers.choose import READERS
    from tests.resilience.faulty import due

    def faulty(right):
        def make(request):
            name = os.path.basename(request.location)
            if name.startswith("reader-") and due(name, memory):
                trigger(name)
            return right(request)

        return make

    READERS.update({name: faulty(right) for name, right in READERS.items()})


if "pipeline.decode.worker" in sys.orig_argv and "FAULTS" in os.environ:
    install(Path(os.environ["FAULTS"]))
