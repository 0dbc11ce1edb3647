"""
Who may use a local server: only who has its token, and only from its own pages.

The first request carries the token in its address and gets a cookie, which other sites cannot send
(SameSite). Requests for another host are refused, so that a foreign name that resolves to this
machine reads nothing (DNS rebinding), and so are requests from pages of another origin.
"""

from __future__ import annotations

import secrets
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
"""Names in the header Host. Any port is allowed: SSH may forward another one."""
COOKIE = "clipline"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def make_token() -> str:
    """Make a random token."""
    return secrets.token_urlsafe(32)


class LocalAccess(BaseHTTPMiddleware):
    """
    Checks host, origin and token of every request.

    Args:
        app: the application.
        token: required, as cookie or in the address.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        super().__init__(app)
        self._token = token

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        """Answer a request, or refuse it."""
        refused = self._refuse(request)
        if refused is not None:
            return refused
        response = await call_next(request)
        response.headers.update(HEADERS)
        return response

    def _refuse(self, request: Request) -> Response | None:
        """Return the answer to a request that is not allowed, or that brings the token."""
        if not is_local(request.headers):
            return PlainTextResponse("this server answers requests to this machine only\n", 403)
        given = request.query_params.get("token", "")
        if request.url.path == "/" and self._is_token(given):
            response = RedirectResponse("/", 303)
            response.set_cookie(COOKIE, self._token, httponly=True, samesite="strict")
            return response
        if self._is_token(request.cookies.get(COOKIE, "")):
            return None
        return PlainTextResponse("open the address that the command printed\n", 403)

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self._token.encode())


def is_local(headers: Headers) -> bool:
    """Whether a request is for a loopback name, and comes from a page of this server, if any."""
    host = headers.get("host", "")
    if urlsplit(f"//{host}").hostname not in LOOPBACK_NAMES:
        return False
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == host
