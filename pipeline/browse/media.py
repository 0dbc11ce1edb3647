"""
Images and videos for pages: files as they are, and clips and frames that are decoded on demand.

    /videos/N                      the file of video N, with range requests
    /videos/N/image.webp?seconds=S a frame of it
    /videos/N/part.mp4?start=&end= a part of it, converted for browsers
    /clips/N.mp4                   clip N, converted for browsers
    /clips/N/K-of-M.webp           frame K of M frames of clip N

Videos and clips are named by their row, so no path comes from a request.
"""

from __future__ import annotations

import math
import mimetypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from pipeline.browse.clip_decoder import ClipDecoder, encode_webp
from pipeline.browse.media_cache import MediaCache
from pipeline.errors import MachineError, VideoError
from pipeline.records import Video

CACHE_BYTES = 256 << 20
IMAGE_SIDE = 320
"""Longer side of thumbnails and of the frame strip, in pixels."""
MAX_STRIP = 32
"""Frames of a clip that a strip may have."""
PRIVATE = {"Cache-Control": "private, max-age=3600"}


@dataclass(frozen=True, slots=True)
class ClipPart:
    """A clip: a part of a video."""

    video: int
    """Row of the video."""
    start_seconds: float
    end_seconds: float


class ClipSource(Protocol):
    """Clips and videos by their row."""

    @property
    def num_clips(self) -> int:
        """Number of clips."""

    @property
    def num_videos(self) -> int:
        """Number of videos."""

    def clip(self, row: int) -> ClipPart:
        """Return a clip."""

    def video(self, row: int) -> Video:
        """Return the source of a video."""


class Media:
    """Answers requests for images and videos of one source of clips."""

    def __init__(self, clips: ClipSource, decoder: ClipDecoder) -> None:
        self.clips, self.decoder = clips, decoder
        self.cache = MediaCache(CACHE_BYTES)

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/videos/{row:int}", self.video_file),
            Route("/videos/{row:int}/image.webp", self.video_image),
            Route("/videos/{row:int}/part.mp4", self.video_part),
            Route("/clips/{row:int}.mp4", self.clip_file),
            Route("/clips/{row:int}/{number:int}-of-{total:int}.webp", self.clip_image),
        ]

    def video_file(self, request: Request) -> Response:
        """Return the file of a video, or a part of it."""
        path = Path(self.clips.video(self._video(request)).location)
        if not path.is_file():
            raise HTTPException(404, "no such file, or a folder of images")
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return FileResponse(path, media_type=kind, headers=PRIVATE)

    async def video_image(self, request: Request) -> Response:
        """Return a frame from the middle of a video."""
        row = self._video(request)
        video = self.clips.video(row)
        seconds = _seconds(request, "seconds")
        return await self._media(
            request,
            "image/webp",
            ("video", row, seconds),
            lambda: encode_webp(self.decoder.image(video, seconds, IMAGE_SIDE)),
        )

    async def video_part(self, request: Request) -> Response:
        """Return a part of a video as MP4."""
        row = self._video(request)
        start, end = _seconds(request, "start"), _seconds(request, "end")
        if not start < end:
            raise HTTPException(400, "end must be later than start")
        video = self.clips.video(row)
        return await self._media(
            request,
            "video/mp4",
            ("part", row, start, end),
            lambda: self.decoder.mp4(video, start, end),
        )

    async def clip_file(self, request: Request) -> Response:
        """Return a clip as MP4."""
        row = self._clip(request)
        clip = self.clips.clip(row)
        video = self.clips.video(clip.video)
        return await self._media(
            request,
            "video/mp4",
            ("clip", row),
            lambda: self.decoder.mp4(video, clip.start_seconds, clip.end_seconds),
        )

    async def clip_image(self, request: Request) -> Response:
        """Return one of the frames of a clip, at equal distances."""
        row = self._clip(request)
        number, total = int(request.path_params["number"]), int(request.path_params["total"])
        if not 0 <= number < total <= MAX_STRIP:
            raise HTTPException(404, f"frames are 0 to {MAX_STRIP - 1} of at most {MAX_STRIP}")
        clip = self.clips.clip(row)
        video = self.clips.video(clip.video)
        share = (number + 0.5) / total
        seconds = clip.start_seconds + share * (clip.end_seconds - clip.start_seconds)
        return await self._media(
            request,
            "image/webp",
            ("frame", row, number, total),
            lambda: encode_webp(self.decoder.image(video, seconds, IMAGE_SIDE)),
        )

    async def _media(
        self, request: Request, kind: str, key: tuple[object, ...], compute: Callable[[], bytes]
    ) -> Response:
        if await request.is_disconnected():
            return Response(status_code=204)
        try:
            data = await run_in_threadpool(self.cache.get, key, compute)
        except VideoError as error:
            return PlainTextResponse(f"{error.status}: {error}\n", 422)
        except MachineError as error:
            return PlainTextResponse(f"{error}\n", 503)
        return part_of(data, kind, request.headers.get("range"))

    def _clip(self, request: Request) -> int:
        return _row(request, self.clips.num_clips)

    def _video(self, request: Request) -> int:
        return _row(request, self.clips.num_videos)


def _seconds(request: Request, name: str) -> float:
    """Read a time from the query."""
    try:
        value = float(request.query_params.get(name, "0"))
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise HTTPException(400, f"{name} must be seconds, at least 0")
    return value


def _row(request: Request, count: int) -> int:
    row = int(request.path_params["row"])
    if row >= count:
        raise HTTPException(404, f"rows are 0 to {count - 1}")
    return row


def part_of(data: bytes, kind: str, range_header: str | None) -> Response:
    """Answer with data, or with the range [first, last] of it that the request asks for."""
    headers = {**PRIVATE, "Accept-Ranges": "bytes"}
    bounds = parse_range(range_header, len(data))
    if bounds is None:
        return Response(data, media_type=kind, headers=headers)
    first, stop = bounds
    if first >= stop:
        headers["Content-Range"] = f"bytes */{len(data)}"
        return Response(status_code=416, headers=headers)
    headers["Content-Range"] = f"bytes {first}-{stop - 1}/{len(data)}"
    return Response(data[first:stop], 206, media_type=kind, headers=headers)


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the bytes [first, stop) of a header Range; None for everything or several ranges."""
    unit, _, text = (header or "").partition("=")
    first, dash, last = text.partition("-")
    if unit.strip() != "bytes" or not dash or not (first + last).strip().isdigit():
        return None
    if not first.strip():
        return max(0, size - int(last)), size
    stop = min(size, int(last) + 1) if last.strip() else size
    return int(first), stop
