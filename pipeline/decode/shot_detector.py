"""
Find the shots of a video while it is decoded, in whole or in chunks.

A `ShotDetector` sees every decoded frame of a chunk, keeps a limited number of small pictures, and
returns what it found as JSON values, for the message to the parent process. Near the ends of a
chunk within the video nothing can be decided: there it returns the pictures, and `merge_chunks`
decides in the parent, so that chunks give the shots of the undivided video, and no frame is decoded
twice.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.decode.shot_cuts import REACH, Pictures, find_cuts
from pipeline.decode.shot_dissolves import find_gradual, reach_of, step_of
from pipeline.decode.shot_pictures import HEIGHT, WIDTH, Picture

BLOCK = 768
"""Frames that are examined at once."""
Json = dict[str, Any]


@dataclass
class _Run:
    """Consecutive frames of a video."""

    frames: list[int] = field(default_factory=list)
    """Positions among the frames of the video."""
    seconds: list[float] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, part: slice) -> _Run:
        return _Run(self.frames[part], self.seconds[part], self.pictures[part])

    def __add__(self, more: _Run) -> _Run:
        return _Run(
            self.frames + more.frames, self.seconds + more.seconds, self.pictures + more.pictures
        )

    def stack(self) -> Pictures:
        """Return the pictures as one array, (T, 48, 64)."""
        return np.stack(self.pictures) if self.pictures else np.zeros((0, HEIGHT, WIDTH), np.uint8)

    def to_json(self) -> Json:
        data = zlib.compress(self.stack().tobytes(), 1)
        return {
            "frames": self.frames,
            "seconds": self.seconds,
            "pictures": base64.b64encode(data).decode(),
        }

    @classmethod
    def from_json(cls, values: Json) -> _Run:
        data = zlib.decompress(base64.b64decode(values["pictures"]))
        pictures = np.frombuffer(data, np.uint8).reshape(-1, HEIGHT, WIDTH)
        return cls(values["frames"], values["seconds"], list(pictures))


class ShotDetector:
    """
    Finds the shots in the frames of one chunk.

    Args:
        rate: frames per second of the video.
        starts_video: whether the first frame is the first one of the video.
    """

    def __init__(self, rate: float, *, starts_video: bool = True) -> None:
        self._rate = rate
        self._reach = _reach(rate)
        self._run = _Run()
        self._known = 0 if starts_video else self._reach
        """Position in the run from which on nothing is decided yet."""
        self._starts_video = starts_video
        self._head = _Run()
        self._count = 0
        self._events: list[Json] = []

    def add(self, picture: Picture, frame_index: int, seconds: float) -> None:
        """Add the next frame: its small picture, its position in the video, its time."""
        run = self._run
        run.pictures.append(picture)
        run.frames.append(frame_index)
        run.seconds.append(seconds)
        self._count += 1
        if not self._starts_video and self._count <= 2 * self._reach:
            self._head.pictures.append(picture)
            self._head.frames.append(frame_index)
            self._head.seconds.append(seconds)
        if len(run) >= self._known + BLOCK + self._reach:
            self._examine(len(run) - self._reach)

    def _examine(self, stop: int) -> None:
        """Decide up to a position, and forget pictures that are not needed any more."""
        self._events += _find(self._run, self._rate, self._known, stop)
        first = max(0, stop - self._reach)
        self._run, self._known = self._run[first:], stop - first

    def finish(self, *, ends_video: bool = True) -> Json:
        """
        Return what was found, as JSON values for `merge_chunks`.

        Args:
            ends_video: whether the last frame is the last one of the video.
        """
        result: Json = {"rate": self._rate, "count": self._count}
        if self._starts_video and ends_video:
            self._examine(len(self._run))
        elif self._count <= 2 * self._reach:
            # too short to decide anything
            return {**result, "events": [], "all": self._run.to_json()}
        elif ends_video:
            self._examine(len(self._run))
        else:
            self._keep_tail(result)
        if not self._starts_video:
            result["head"] = self._head.to_json()
        return {**result, "events": self._events}

    def _keep_tail(self, result: Json) -> None:
        stop = len(self._run) - self._reach
        if stop > self._known:
            self._events += _find(self._run, self._rate, self._known, stop)
        result["tail"] = self._run[-2 * self._reach :].to_json()


def _reach(rate: float) -> int:
    return max(REACH, reach_of(rate)) + 1


def _find(run: _Run, rate: float, start: int, stop: int) -> list[Json]:
    """Find the events at the positions [start, stop) of a run."""
    pictures = run.stack()
    step = step_of(rate)
    examined = [k for k, frame in enumerate(run.frames) if frame % step == 0]
    events = [
        _event(run, "cut", cut.score, cut.position, cut.position, cut.position)
        for cut in find_cuts(pictures, start, stop)
    ]
    for found in find_gradual(pictures, examined):
        middle = (found.start + found.stop) // 2
        if start <= middle < stop:
            at = found.start + 1 if found.kind == "in" else middle
            events.append(_event(run, found.kind, found.score, at, found.start, found.stop))
    return events


def _event(run: _Run, kind: str, score: float, at: int, start: int, stop: int) -> Json:
    return {
        "frame": run.frames[at],
        "seconds": run.seconds[at],
        "kind": kind,
        "score": round(score, 3),
        "from": run.seconds[start],
        "to": run.seconds[stop],
    }


def merge_chunks(chunks: Sequence[Json]) -> list[Json]:
    """
    Decide what chunks could not decide alone.

    Args:
        chunks: what `ShotDetector.finish` returned for all chunks of a video, in order.

    Returns:
        The events of the whole video, in order of their frames.
    """
    events = [event for chunk in chunks for event in chunk["events"]]
    for run, rate, starts, ends in _runs_between(chunks):
        reach = _reach(rate)
        start, stop = 0 if starts else reach, len(run) if ends else len(run) - reach
        if stop > start:
            events += _find(run, rate, start, stop)
    return sorted(events, key=lambda event: (event["frame"], event["kind"]))


def _runs_between(chunks: Sequence[Json]) -> Iterator[tuple[_Run, float, bool, bool]]:
    """Yield the frames around each boundary of chunks; whether they start or end the video."""
    run, starts = _Run(), True
    for number, chunk in enumerate(chunks):
        if "all" in chunk:
            run += _Run.from_json(chunk["all"])
            continue
        if number or run.frames:
            yield run + _Run.from_json(chunk["head"]), chunk["rate"], starts, False
        starts = False
        run = _Run.from_json(chunk["tail"]) if "tail" in chunk else _Run()
    if run.frames and len(chunks) and "all" in chunks[-1]:
        yield run, chunks[-1]["rate"], starts, True
