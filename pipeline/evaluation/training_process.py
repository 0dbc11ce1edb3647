"""
The training process: runs one training at a time, until its parent ends.

Run as `python -m pipeline.evaluation.training_process FD` by `side_by_side`.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection

from pipeline.temporal.training_loop import single_thread


def main() -> None:
    """Receive a function and its shared argument, then tasks; send the result of each."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    connection = Connection(int(sys.argv[1]))
    with single_thread(), suppress(EOFError):  # the parent has closed the connection
        train, shared = connection.recv()
        while True:
            task = connection.recv()
            try:
                answer = True, train(shared, task)
            except Exception as error:
                error.add_note(traceback.format_exc())
                answer = False, error
            connection.send(answer)


def _exit_with_parent() -> None:
    """Exit when the other end of standard input is closed."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
