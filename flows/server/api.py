"""
Requests to the API of a Prefect server of ours, before Prefect is imported and without it.

The file `server.json` in the state folder publishes the URL and the authentication of the server
of `clipline serve`. Only its user may read it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from pipeline.errors import OptionError

BUSY_SECONDS = 0.2
"""Pause before a request is repeated that a busy server has refused."""
PUBLISHED = "server.json"


@dataclass(frozen=True, slots=True)
class Api:
    """URL of an API, and the string `user:password` of its basic authentication."""

    url: str
    auth_string: str | None = field(default=None, repr=False)

    def request(
        self,
        path: str,
        body: Any = None,
        *,
        method: str | None = None,
        timeout_seconds: float = 10,
    ) -> Any:
        """
        Send a request, never through a proxy; repeat it while the server answers that it is busy.

        Raises:
            OSError: no answer in time, or one with an error status.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data=data, headers=self._headers(), method=method
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        end = time.monotonic() + timeout_seconds
        while True:
            try:
                with opener.open(request, timeout=timeout_seconds) as answer:
                    text = answer.read()
                return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                # SQLite has one writer at a time; a request that waits too long gets this status
                if error.code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() >= end:
                    raise
                time.sleep(BUSY_SECONDS)

    def _headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json"}
        if self.auth_string:
            token = base64.b64encode(self.auth_string.encode()).decode()
            headers["authorization"] = f"Basic {token}"
        return headers

    def is_ready(self) -> bool:
        """Whether a Prefect server answers that accepts the authentication."""
        try:
            # unlike /health, this path requires the authentication
            return isinstance(self.request("/admin/version", timeout_seconds=2), str)
        except (OSError, ValueError):
            return False

    @contextlib.contextmanager
    def environment(self) -> Iterator[None]:
        """Let Prefect clients in this process and its children use this API, in the block."""
        before = {name: os.environ.get(name) for name in self._variables()}
        self.set_environment()
        try:
            yield
        finally:
            _set_environment(before)

    def set_environment(self) -> None:
        """Let Prefect clients in this process and its children use this API from now on."""
        _set_environment(self._variables())

    def _variables(self) -> dict[str, str | None]:
        return {"PREFECT_API_URL": self.url, "PREFECT_API_AUTH_STRING": self.auth_string}

    @classmethod
    def from_environment(cls) -> Api:
        """Return the API that Prefect clients of this process use."""
        return cls(os.environ["PREFECT_API_URL"], os.environ.get("PREFECT_API_AUTH_STRING"))


def _set_environment(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def make_private(state: Path) -> None:
    """
    Create the state folder, which only its user may enter.

    Raises:
        OptionError: this user cannot write there.
    """
    try:
        state.mkdir(parents=True, exist_ok=True)
        if state.stat().st_mode & 0o077:
            state.chmod(0o700)
        with tempfile.TemporaryFile(dir=state):
            pass
    except OSError as error:
        raise OptionError(
            f"the run history cannot be written: {error.strerror}: {state}; set XDG_STATE_HOME"
        ) from error


@contextlib.contextmanager
def publish_api(state: Path, api: Api) -> Iterator[Path]:
    """Tell other commands of this user in the block where the server is; give the file."""
    path = state / PUBLISHED
    value = {"url": api.url, "auth_string": api.auth_string, "pid": os.getpid()}
    descriptor, name = tempfile.mkstemp(dir=state, prefix=f".{PUBLISHED}-")  # mode 0600
    with os.fdopen(descriptor, "w") as file:
        json.dump(value, file, indent=2)
    os.replace(name, path)
    try:
        yield path
    finally:
        with contextlib.suppress(OSError, ValueError, KeyError):
            if json.loads(path.read_text())["pid"] == os.getpid():  # not of a later server
                path.unlink()


def published_api(state: Path) -> Api | None:
    """Return the API of a `serve` that is running now."""
    try:
        value = json.loads((state / PUBLISHED).read_text())
        api = Api(value["url"], value.get("auth_string"))
    except (OSError, ValueError, KeyError):
        return None
    return api if api.is_ready() else None
