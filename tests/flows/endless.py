"""
Run the command line with a stage that never ends, in native code: what is slow on a large file.

`ENDLESS` names the stage, `REACHED` the file that is written when a thread is in it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any


def never_end(*_: Any, **__: Any) -> None:
    """Run for hours in C, which no Python signal handler and no exception interrupts."""
    Path(os.environ["REACHED"]).touch()
    while True:
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)


def main() -> None:
    """Replace a stage, and run the command line."""
    from flows.cli import app
    from pipeline.run import stages
    from pipeline.run.planner import Planner
    from pipeline.temporal.trainer import Trainer

    name = os.environ["ENDLESS"]
    owner = next(owner for owner in (Planner, stages, Trainer) if hasattr(owner, name))
    setattr(owner, name, never_end)
    app.main()


if __name__ == "__main__":
    main()
