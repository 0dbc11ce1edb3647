"""
The server of `clipline label`: shows one clip after another, and appends answers to LABELS.csv.

    /              the page
    POST /next     the clip to label next, and the state
    POST /label    {row, label, start_seconds, end_seconds}
    POST /skip     {row}
    POST /undo     {row, number}: takes back an answer (number), or a skip (without)
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from pipeline.browse.candidates import Candidates
from pipeline.browse.clip_decoder import ClipDecoder
from pipeline.browse.label_file import Answer, LabelFile
from pipeline.browse.label_queue import MIN_PROBE_LABELS, LabelQueue
from pipeline.browse.media import Media
from pipeline.results.html import COLOURS, read_scripts, render_page
from pipeline.storage import printable

FRESH = {"Cache-Control": "no-store"}
MAX_LABEL_LENGTH = 200
MAX_OVERLAP = 0.5
"""Clips that earlier answers cover by more than this share are not shown again."""


@dataclass(frozen=True)
class Labelling:
    """What is labelled, and where answers go."""

    candidates: Candidates
    file: LabelFile
    labels: tuple[str, ...]
    """Offered from the start; those of the file are added."""
    whole_videos: bool
    """Whether each clip is a video: its row then has no times."""
    train_options: str = ""
    """Of the `train` command that the page shows."""


class Labeller:
    """Answers the requests of the label page."""

    def __init__(self, labelling: Labelling, decoder: ClipDecoder) -> None:
        self.labelling, self.file = labelling, labelling.file
        self.queue = LabelQueue(labelling.candidates)
        self.media = Media(labelling.candidates, decoder)
        self.labels = list(
            dict.fromkeys([*labelling.labels, *(a.label for a in self.file.answers)])
        )
        self._use_earlier_answers(self.file.answers)

    def _use_earlier_answers(self, answers: Sequence[Answer]) -> None:
        """Add the answers that the file has already to the queue."""
        candidates = self.labelling.candidates
        by_location: dict[str, list[int]] = {}
        for row, clip in enumerate(candidates.clips):
            by_location.setdefault(candidates.videos[clip.video].location, []).append(row)
        for answer in answers:
            for row in by_location.get(answer.location, []):
                if self._covers(answer, row):
                    self.queue.label(row, answer.label)

    def _covers(self, answer: Answer, row: int) -> bool:
        clip = self.labelling.candidates.clips[row]
        if answer.start_seconds is None or answer.end_seconds is None:
            return True
        start = max(answer.start_seconds, clip.start_seconds)
        end = min(answer.end_seconds, clip.end_seconds)
        return end - start > MAX_OVERLAP * (clip.end_seconds - clip.start_seconds)

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/", self.page),
            *(
                Route(f"/{name}", handler, methods=["POST"])
                for name, handler in {
                    "next": self.next,
                    "label": self.label,
                    "skip": self.skip,
                    "undo": self.undo,
                }.items()
            ),
            *self.media.routes(),
        ]

    def page(self, request: Request) -> Response:
        """Return the page."""
        page = render_page(
            "label.html.j2",
            styles=("style.css", "explorer/explorer.css", "label/label.css"),
            script=read_scripts("", ("explorer/elements", "explorer/player", "label/label")),
            served=True,
            title=self.file.path.name,
            data={"colours": list(COLOURS)},
        )
        return HTMLResponse(page, headers=FRESH)

    async def next(self, request: Request) -> Response:
        """Return the clip to label next."""
        row = await run_in_threadpool(self.queue.next, time.monotonic())
        return JSONResponse({"clip": self._describe(row), "state": self._state()}, headers=FRESH)

    def _describe(self, row: int | None) -> dict[str, Any] | None:
        if row is None:
            return None
        candidates = self.labelling.candidates
        clip = candidates.clips[row]
        return {
            "row": row,
            "video": clip.video,
            "name": printable(candidates.videos[clip.video].path),
            "start": clip.start_seconds,
            "end": clip.end_seconds,
            "duration": candidates.durations[clip.video],
        }

    def _state(self) -> dict[str, Any]:
        counts = self.queue.counts()
        answers = [answer.label for answer in self.file.answers]
        return {
            "labels": self.labels,
            "counts": {label: answers.count(label) for label in self.labels},
            "answered": len(answers),
            "open": self.queue.num_open,
            "accuracy": self.queue.accuracy,
            "untilProbe": max(0, MIN_PROBE_LABELS - sum(counts.values())),
            "command": self.train_command(),
        }

    def train_command(self) -> str:
        """Return the command that trains on the answers."""
        path = shlex.quote(str(self.file.path))
        options = self.labelling.train_options or "--backbone NAME"
        return f"clipline train {path} -o RECOGNIZER {options}"

    async def label(self, request: Request) -> Response:
        """Append an answer."""
        given = await _read(request)
        row, label = self._row(given), str(given.get("label", "")).strip()
        if not label or len(label) > MAX_LABEL_LENGTH or not label.isprintable() or "|" in label:
            raise HTTPException(400, "a label is printable text without |")
        answer = self._answer(row, label, given)
        number = await run_in_threadpool(self.file.append, answer)
        if label not in self.labels:
            self.labels.append(label)
        await run_in_threadpool(self.queue.label, row, label)
        return JSONResponse({"number": number, "row": row, "label": label}, headers=FRESH)

    def _answer(self, row: int, label: str, given: dict[str, Any]) -> Answer:
        candidates = self.labelling.candidates
        clip = candidates.clips[row]
        location = candidates.videos[clip.video].location
        start = _time(given.get("start_seconds"), clip.start_seconds)
        end = _time(given.get("end_seconds"), clip.end_seconds)
        end = min(end, candidates.durations[clip.video])
        if not start < end:
            raise HTTPException(400, "the end must be later than the start")
        if self.labelling.whole_videos and (start, end) == (clip.start_seconds, clip.end_seconds):
            return Answer(location, label, None, None)
        return Answer(location, label, start, end)

    async def skip(self, request: Request) -> Response:
        """Skip a clip."""
        row = self._row(await _read(request))
        self.queue.skip(row)
        return JSONResponse({"row": row}, headers=FRESH)

    async def undo(self, request: Request) -> Response:
        """Take back an answer or a skip, and show its clip again."""
        given = await _read(request)
        row, number = self._row(given), given.get("number")
        if isinstance(number, int):
            await run_in_threadpool(self.file.undo, number)
        await run_in_threadpool(self.queue.reopen, row)
        return JSONResponse({"clip": self._describe(row), "state": self._state()}, headers=FRESH)

    def _row(self, given: dict[str, Any]) -> int:
        row = given.get("row")
        if not isinstance(row, int) or not 0 <= row < self.labelling.candidates.num_clips:
            raise HTTPException(400, "no such clip")
        return row


async def _read(request: Request) -> dict[str, Any]:
    """Read the JSON object of a request."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise HTTPException(415, "requests are JSON")
    try:
        given = await request.json()
    except ValueError as error:
        raise HTTPException(400, "invalid JSON") from error
    if not isinstance(given, dict):
        raise HTTPException(400, "requests are JSON objects")
    return given


def _time(value: Any, default: float) -> float:
    if value is None:
        return default
    if not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise HTTPException(400, "times are seconds, at least 0")
    return float(value)
