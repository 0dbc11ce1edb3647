"""
Run the command line with faults: the name of a video defines its fault, and how often it happens.

`encode-fails-once.mp4` lets the stage encode raise the first time that it is given this video;
what goes wrong inside decode processes is in faults/sitecustomize.py. Every video is a shard of its
own, so that a fault affects no other video.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

STAGES = ("decode", "encode", "recognize", "write")


def due(name: str, memory: Path) -> bool:
    """Whether a fault is due now; for `once`, a file records that it happened."""
    if "-always" in name:
        return True
    try:
        (memory / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _names(stage: str, given: tuple[Any, ...]) -> list[str]:
    """Return the names of the videos that a stage processes."""
    if stage == "write":
        return [os.path.basename(row.video.path) for row in given[0]]
    shard = given[0].shard if stage == "encode" else given[0]
    return [os.path.basename(chunk.video.path) for chunk in shard.chunks]


def failing(stage: str, right: Callable[..., Any], memory: Path) -> Callable[..., Any]:
    """Let a stage fail for videos with the name of a fault."""
    from pipeline.errors import EngineError

    def run(session: Any, *given: Any) -> Any:
        for name in _names(stage, given):
            if name.startswith(f"{stage}-fails") and due(name, memory):
                raise EngineError(f"{stage} failed over {name}")
            if name.startswith(f"{stage}-full") and due(name, memory):
                raise OSError(28, "No space left on device")
            if name.startswith(f"{stage}-wrong") and due(name, memory):
                raise ValueError(f"{stage} cannot do {name}")
        return right(session, *given)

    return run


def main() -> None:
    """Install the faults, and run the command line."""
    from flows.cli import app
    from flows.server import launch
    from pipeline.config import ShardOptions

    right = launch.run_once

    def run_once(sources: Any, out: Any, options: Any, watch: Any, **given: Any) -> Any:
        from pipeline.run import stages

        for stage in STAGES:
            memory = Path(os.environ["FAULTS"])
            setattr(stages, stage, failing(stage, getattr(stages, stage), memory))
        alone = replace(options, shards=ShardOptions(max_videos=1, window=4))
        return right(sources, out, alone, watch, **given)

    launch.run_once = run_once
    app.main()


if __name__ == "__main__":
    main()
