"""Chromium without a display, controlled with the Chrome DevTools Protocol."""

from __future__ import annotations

import base64
import collections
import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import time

import pytest
from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0")


def find_chromium():
    """Return the path of Chromium; without it skip the test, but fail on a CI machine."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing(f"no browser: none of {', '.join(NAMES)} is installed")
    return found


class Page:
    """One tab of a browser."""

    def __init__(self, socket):
        self._socket = socket
        self._ids = itertools.count()
        self._session = None
        self._events = collections.deque(maxlen=1000)
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self._call("Page.enable")

    def _call(self, method, **parameters):
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv(timeout=30))
            if "method" in answer:
                self._events.append(answer)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, path, width, scheme="light", height=900, address=""):
        """Show a file in a window of this width in CSS pixels, in a `light` or `dark` scheme."""
        self._call("Page.navigate", url="about:blank")  # a new document, not a new fragment
        self.resize(width, height)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self._call("Emulation.setEmulatedMedia", features=[feature])
        self._call("Page.navigate", url=path.as_uri() + address)
        while self.evaluate("document.readyState") != "complete":
            pass

    def resize(self, width, height=900):
        """Set the size of the window, in CSS pixels."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def evaluate(self, expression):
        """Return the value of a JavaScript expression."""
        found = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression, seconds=30):
        """Wait until a JavaScript expression is true."""
        deadline = time.monotonic() + seconds
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, f"still false: {expression}"
            time.sleep(0.02)

    def record_requests(self, action):
        """Return the addresses that are requested during an action."""
        self._call("Network.enable")
        self._events.clear()
        action()
        self._call("Network.disable")
        return [
            event["params"]["request"]["url"]
            for event in self._events
            if event["method"] == "Network.requestWillBeSent"
            and event["params"]["request"]["url"] != "about:blank"
        ]

    def screenshot(self, path):
        """Write the page, also what is outside of the window, as a PNG image."""
        found = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))


@contextlib.contextmanager
def open_browser(profile):
    """Start Chromium with a new profile in a folder; yields a page."""
    command = [find_chromium(), *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stderr:
                found = re.search(r"DevTools listening on (ws://\S+)", line)
                if found:
                    break
            else:
                pytest.fail(f"{command[0]} did not start")
            with connect(found[1], max_size=None) as socket:
                yield Page(socket)
        finally:
            process.kill()
