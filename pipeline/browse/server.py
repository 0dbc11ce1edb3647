"""
The server of `clipline view`: the page of a results folder, with images and videos.

    /                          the page
    /videos/N                  the file of video N, with range requests
    /videos/N/image.webp       a frame from its middle
    /clips/N.mp4               clip N, converted for browsers
    /clips/N/K-of-M.webp       frame K of M frames of clip N
    /clips/N                   scores of all labels, and similar clips, as JSON

Videos and clips are named by their row, so no path comes from a request. All requests only read.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
)
from starlette.routing import Route

from pipeline.browse.access import LocalAccess
from pipeline.browse.clip_decoder import ClipDecoder, encode_webp
from pipeline.browse.media_cache import MediaCache
from pipeline.browse.results_view import ResultsView
from pipeline.errors import MachineError, VideoError

CACHE_BYTES = 256 << 20
IMAGE_SIDE = 320
"""Longer side of thumbnails and of the frame strip, in pixels."""
MAX_STRIP = 32
"""Frames of a clip that a strip may have."""
PRIVATE = {"Cache-Control": "private, max-age=3600"}


class Viewer:
    """Answers the requests about one results folder."""

    def __init__(self, results: ResultsView, decoder: ClipDecoder) -> None:
        self.results, self.decoder = results, decoder
        self.cache = MediaCache(CACHE_BYTES)
        self._page = results.page()

    def page(self, request: Request) -> Response:
        """Return the page."""
        return HTMLResponse(self._page, headers={"Cache-Control": "no-store"})

    def video_file(self, request: Request) -> Response:
        """Return the file of a video, or a part of it."""
        path = Path(self.results.video(self._video(request)).location)
        if not path.is_file():
            raise HTTPException(404, "no such file, or a folder of images")
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return FileResponse(path, media_type=kind, headers=PRIVATE)

    async def video_image(self, request: Request) -> Response:
        """Return a frame from the middle of a video."""
        row = self._video(request)
        video = self.results.video(row)
        seconds = float(request.query_params.get("seconds", 0.0))
        return await self._media(
            request,
            "image/webp",
            ("video", row, seconds),
            lambda: encode_webp(self.decoder.image(video, seconds, IMAGE_SIDE)),
        )

    async def clip_file(self, request: Request) -> Response:
        """Return a clip as MP4."""
        row = self._clip(request)
        clip = self.results.clip(row)
        video = self.results.video(clip.video)
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
        clip = self.results.clip(row)
        video = self.results.video(clip.video)
        share = (number + 0.5) / total
        seconds = clip.start_seconds + share * (clip.end_seconds - clip.start_seconds)
        return await self._media(
            request,
            "image/webp",
            ("frame", row, number, total),
            lambda: encode_webp(self.decoder.image(video, seconds, IMAGE_SIDE)),
        )

    def clip_details(self, request: Request) -> Response:
        """Return the scores of a clip, and the clips that are similar to it."""
        row = self._clip(request)
        details = {"scores": self.results.scores(row), "similar": self.results.similar(row)}
        return JSONResponse(details, headers={"Cache-Control": "no-store"})

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
        return _row(request, self.results.num_clips)

    def _video(self, request: Request) -> int:
        return _row(request, self.results.num_videos)


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


def make_app(viewer: Viewer, token: str) -> Starlette:
    """Make the application; every request needs the token."""
    routes = [
        Route("/", viewer.page),
        Route("/videos/{row:int}", viewer.video_file),
        Route("/videos/{row:int}/image.webp", viewer.video_image),
        Route("/clips/{row:int}.mp4", viewer.clip_file),
        Route("/clips/{row:int}/{number:int}-of-{total:int}.webp", viewer.clip_image),
        Route("/clips/{row:int}", viewer.clip_details),
    ]
    return Starlette(routes=routes, middleware=[Middleware(LocalAccess, token=token)])
