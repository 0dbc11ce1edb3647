"""Requests to a server, and the file by which other commands find it."""

from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from flows.server.api import Api, make_private, publish_api, published_api
from pipeline.errors import OptionError

API = Api("http://127.0.0.1:9/api", "clipline:secret")
"""Where no server listens."""


class TestRequest:
    """To a server with prepared answers."""

    @pytest.fixture
    def url(self):
        statuses = [503, 503, 200]

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(statuses.pop(0) if self.path == "/busy" else 503)
                self.end_headers()
                self.wfile.write(b"true")

            def log_message(self, *_):
                pass

        with HTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()

    def test_is_repeated_while_the_server_is_busy(self, url):
        assert Api(url).request("/busy") is True

    def test_is_not_repeated_for_ever(self, url):
        with pytest.raises(OSError, match="503"):
            Api(url).request("/always", timeout_seconds=0.5)

    def test_of_another_service_is_no_ready_server(self, url, monkeypatch):
        monkeypatch.setattr(Api, "request", lambda *_, **__: True)
        assert not Api(url).is_ready()


class TestPublishedApi:
    def test_is_readable_by_its_user_only_whatever_the_umask(self, tmp_path):
        before = os.umask(0)
        try:
            with publish_api(tmp_path, API) as path:
                assert path.stat().st_mode & 0o777 == 0o600
                assert json.loads(path.read_text())["auth_string"] == "clipline:secret"
        finally:
            os.umask(before)
        assert list(tmp_path.iterdir()) == []

    def test_of_a_later_server_stays(self, tmp_path):
        with publish_api(tmp_path, API) as path:
            path.write_text('{"pid": 1, "url": "x"}')
        assert path.exists()

    @pytest.mark.parametrize(
        "text", [None, "{", "{}", '{"url": "http://127.0.0.1:9/api"}'], ids=str
    )
    def test_of_no_running_server_is_not_used(self, tmp_path, text):
        """Such as one of an earlier version, which was killed."""
        if text is not None:
            (tmp_path / "server.json").write_text(text)
        assert published_api(tmp_path) is None


def test_a_state_folder_of_an_earlier_version_becomes_private(tmp_path):
    state = tmp_path / "state"
    state.mkdir(mode=0o755)

    make_private(state)

    assert state.stat().st_mode & 0o777 == 0o700
    assert list(state.iterdir()) == []


def test_a_state_folder_that_cannot_be_created_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match=r"cannot be written: Not a directory: .*XDG_STATE_HOME"):
        make_private(tmp_path / "file" / "state")
