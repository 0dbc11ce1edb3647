"""
The shots of videos: the record, and their place beside the features of the same frames.

    part-*.parquet    features
    shots-*.json      what the decode processes found, chunk by chunk

Shots found by an earlier `SHOTS_VERSION` are not used: they are found again, without encoding a
frame.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import fingerprint
from pipeline.records import Integers, Seconds
from pipeline.storage import write_bytes

SHOTS_VERSION = 1
"""Increase it if the same frames give other shots: all shots are then found again, and rows with
shots are written again."""
Key = tuple[int, int]
"""The samples [start, stop) of a chunk."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Transition:
    """Where a shot begins that is not the first one."""

    frame_index: int
    """First frame of the shot; in a dissolve the middle one."""
    seconds: float
    """Its presentation time."""
    kind: str
    """`cut`, `dissolve` or `fade`."""
    score: float
    """Probability in [0.5, 1]."""
    duration_seconds: float = 0.0
    """Length of a dissolve or fade."""


@dataclass(frozen=True)
class Shots:
    """The shots of one video: one more than transitions."""

    transitions: tuple[Transition, ...] = ()
    exact: bool = True
    """Whether all frames were examined; otherwise times may be late by one sampling step."""

    @cached_property
    def start_frames(self) -> Integers:
        """Return the first frame of each shot, (S,); that of the first shot is 0."""
        return np.array([0, *(t.frame_index for t in self.transitions)], np.int64)

    @cached_property
    def start_seconds(self) -> Seconds:
        """Return the start of each shot, (S,), ascending; that of the first shot is 0."""
        return np.array([0.0, *(t.seconds for t in self.transitions)])


@dataclass(frozen=True, slots=True)
class FoundShots:
    """What was found in one chunk of a video."""

    video_id: str
    start: int
    """First sample of the chunk."""
    stop: int
    num_samples: int
    """Of the whole video."""
    found: dict[str, Any]
    """JSON values of `pipeline.decode.shot_detector`."""

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


class ShotStore:
    """
    Read and write what was found of the shots of videos. Threads may share it.

    Args:
        folder: of the feature store of the same frames; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._chunks: dict[str, dict[Key, FoundShots]] = defaultdict(dict)
        self._paths: dict[Path, set[str]] = {}
        for path in sorted(folder.glob("shots-*.json")):
            self._load(path)

    def _load(self, path: Path) -> None:
        try:
            content = json.loads(path.read_text())
            if content["version"] == SHOTS_VERSION:
                chunks = [FoundShots(**values) for values in content["chunks"]]
                self._paths[path] = {chunk.video_id for chunk in chunks}
                self._remember(chunks)
        except (OSError, ValueError, KeyError, TypeError) as error:  # they are found again
            logger.warning("%s is damaged and not used: %r", path, error)

    def _remember(self, chunks: Sequence[FoundShots]) -> None:
        for chunk in chunks:
            self._chunks[chunk.video_id][chunk.start, chunk.stop] = chunk

    def has(self, video_id: str) -> bool:
        """Whether all samples of a video have been examined."""
        return self.find(video_id) is not None

    def find(self, video_id: str) -> list[dict[str, Any]] | None:
        """Return what was found in consecutive chunks of a video; None unless they are complete."""
        covers: dict[int, list[dict[str, Any]]] = {0: []}
        total = -1
        for (start, stop), chunk in sorted(self._chunks.get(video_id, {}).items()):
            total = chunk.num_samples
            if start in covers:
                covers.setdefault(stop, [*covers[start], chunk.found])
        return covers.get(total)

    def write(self, chunks: Sequence[FoundShots], keep: Collection[str]) -> None:
        """
        Store what was found in chunks, atomically; a retry replaces the file.

        Args:
            chunks: of one shard.
            keep: ids of the videos that are written to a file; the others are only remembered.
        """
        kept = [chunk for chunk in chunks if chunk.video_id in keep]
        path = None
        if kept:
            name = fingerprint([[chunk.video_id, chunk.start, chunk.stop] for chunk in kept])
            path = self.folder / f"shots-{name}.json"
            _write(path, kept)
        with self._lock:
            if path is not None:
                self._paths[path] = set(keep)
            self._remember(chunks)

    def forget(self, video_ids: Collection[str]) -> None:
        """Remove the shots of videos, for later runs too."""
        with self._lock:
            for video_id in video_ids:
                self._chunks.pop(video_id, None)
            affected = [path for path, ids in self._paths.items() if ids & set(video_ids)]
        for path in affected:
            values = json.loads(path.read_text())["chunks"]
            left = [v for v in values if v["video_id"] not in video_ids]
            _write(path, [FoundShots(**v) for v in left])


def _write(path: Path, chunks: Sequence[FoundShots]) -> None:
    content = {"version": SHOTS_VERSION, "chunks": [chunk.to_json() for chunk in chunks]}
    write_bytes(json.dumps(content).encode(), path)
