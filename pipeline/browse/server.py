"""The server of `clipline view`: the page of a results folder, with images and videos."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from pipeline.browse.access import LocalAccess
from pipeline.browse.clip_decoder import ClipDecoder
from pipeline.browse.media import Media
from pipeline.browse.results_view import ResultsView

FRESH = {"Cache-Control": "no-store"}


class Viewer:
    """Answers the requests about one results folder; all requests only read."""

    def __init__(self, results: ResultsView, decoder: ClipDecoder) -> None:
        self.results = results
        self.media = Media(results, decoder)
        self._page = results.page()

    def routes(self) -> list[Route]:
        """Return the routes: the page, details of clips, and their media."""
        return [
            Route("/", self.page),
            Route("/clips/{row:int}", self.clip_details),
            *self.media.routes(),
        ]

    def page(self, request: Request) -> Response:
        """Return the page."""
        return HTMLResponse(self._page, headers=FRESH)

    def clip_details(self, request: Request) -> Response:
        """Return the scores of a clip, and the clips that are similar to it."""
        row = int(request.path_params["row"])
        if row >= self.results.num_clips:
            raise HTTPException(404, f"there are {self.results.num_clips} clips")
        details = {"scores": self.results.scores(row), "similar": self.results.similar(row)}
        return JSONResponse(details, headers=FRESH)


def make_app(routes: list[Route], token: str) -> Starlette:
    """Make an application in which every request needs the token."""
    return Starlette(routes=routes, middleware=[Middleware(LocalAccess, token=token)])
