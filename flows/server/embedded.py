"""
The embedded Prefect API: private, quiet, on loopback, and gone with the process that started it.

Import nothing of Prefect before `settle`: Prefect reads its environment when it is imported.
With PREFECT_API_URL set, that server is used and none is started.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any

from pipeline.errors import MachineError, OptionError
from pipeline.storage import file_lock, write_json

logger = logging.getLogger(__name__)

START_SECONDS = float(os.environ.get("CLIPLINE_SERVER_SECONDS", "90"))
"""How long to wait for the first answer of the server."""
BUSY_SECONDS = 0.2
"""Between two attempts at a server that has no time."""
RESTARTS = 10
RUNS_KEPT = 100
"""Runs whose history is kept; older ones are deleted when a server starts."""
ONCE = "run-"
"""How folders begin that keep the history of one run beside another."""
_RECORDER = "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_"
ENVIRONMENT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # what matters is said by us, once
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_RUNNER_POLL_FREQUENCY": "2",  # seconds until a triggered run starts
    "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "1 day",
    # One task run at a time, as by default, stores 65 a second and holds up every request.
    _RECORDER + "BATCH_SIZE": "100",
    _RECORDER + "READ_BATCH_SIZE": "100",
    _RECORDER + "FLUSH_INTERVAL": "1",  # below 1 the server spins
}

NOT_FOR_ONE_RUN = (
    "CANCELLATION_CLEANUP",
    "CLEANUP_RECONCILER",
    "FOREMAN",
    "LATE_RUNS",
    "PAUSE_EXPIRATIONS",
    "REPOSSESSOR",
    "SCHEDULER",
    "TRIGGERS",
)
"""Services that look after schedules, workers and automations: half of what an idle server does."""


def state_folder() -> Path:
    """Give the folder for run history and locks, under the user's state directory."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "clipline"


def settle(home: Path) -> None:
    """Set Prefect's environment: no network, no `~/.prefect`. What the user has set stays."""
    os.environ.setdefault("PREFECT_HOME", str(home))
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def chosen_api() -> str | None:
    """Give the URL of the server that the user chose, if any."""
    return os.environ.get("PREFECT_API_URL") or None


class EmbeddedServer:
    """
    A Prefect API process, restarted on its port should it die.

    Args:
        home: folder of its database and log.
        with_ui: serve Prefect's pages as well, and schedules.
    """

    def __init__(self, home: Path, *, with_ui: bool = False) -> None:
        self.home = home
        self._with_ui = with_ui
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._started = threading.Event()
        home.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}/api"
        # The thread that starts the process must live as long: it is what the process dies with.
        self._keeper = threading.Thread(target=self._keep, name="prefect-api", daemon=True)
        self._keeper.start()

    @property
    def pid(self) -> int | None:
        """Process number of the server."""
        return self._process.pid if self._process else None

    def _keep(self) -> None:
        with (self.home / "server.log").open("wb") as log:  # of this run: it must not grow for ever
            for _ in range(RESTARTS):
                self._process = self._start(log)
                self._started.set()
                self._process.wait()
                if self._stopping.wait(0.5):
                    return
                logger.warning("the Prefect API ended by itself; starting it again")

    def _start(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "prefect", "server", "start"]
        command += ["--host", "127.0.0.1", "--port", str(self._port)]
        settings = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": self._database()}
        if not self._with_ui:
            command.append("--no-ui")
            for name in NOT_FOR_ONE_RUN:
                settings[f"PREFECT_SERVER_SERVICES_{name}_ENABLED"] = "false"
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=self.home,  # Prefect reads settings from files of its working directory
            env={**os.environ, **settings},
            preexec_fn=_die_with_parent,  # noqa: PLW1509 (one system call, no Python lock)
            start_new_session=True,
        )

    def _database(self) -> str:
        return f"sqlite+aiosqlite:///{self.home / 'prefect.db'}"

    def wait_until_ready(self, timeout_seconds: float = START_SECONDS) -> None:
        """
        Wait for the first answer.

        Raises:
            MachineError: none came in time.
        """
        end = time.monotonic() + timeout_seconds
        self._started.wait(timeout_seconds)
        while time.monotonic() < end:
            with contextlib.suppress(OSError, ValueError):
                if request(self.url + "/health", timeout_seconds=2) is True:
                    return
            if not self._keeper.is_alive():
                break
            time.sleep(0.05)
        raise MachineError(f"the Prefect API did not start: see {self.home / 'server.log'}")

    def tidy(self) -> None:
        """Close the books of killed runs (we hold the lock: none lives), and forget old ones."""
        lost = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}}
        crashed = {"type": "CRASHED", "name": "Crashed", "message": "the process was killed"}
        for run in request(self.url + "/flow_runs/filter", lost):
            body = {"force": True, "state": crashed}
            request(f"{self.url}/flow_runs/{run['id']}/set_state", body)
        old = {"sort": "EXPECTED_START_TIME_DESC", "offset": RUNS_KEPT, "limit": 200}
        for run in request(self.url + "/flow_runs/filter", old):
            request(f"{self.url}/flow_runs/{run['id']}", method="DELETE")

    def stop(self) -> None:
        """End the server."""
        self._stopping.set()
        self._started.wait(5)
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(3)
            self._process.kill()
        self._keeper.join(5)


def _die_with_parent() -> None:
    # PR_SET_PDEATHSIG; Ctrl-C reaches only the parent, which stops the server when it has drained
    # PR_SET_PDEATHSIG: SIGTERM would let it wait for clients first, and SQLite survives SIGKILL
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def request(
    url: str, body: Any = None, *, method: str | None = None, timeout_seconds: float = 10
) -> Any:
    """
    Ask the API, never through a proxy; again, as long as it says that it is busy.

    Raises:
        OSError: no answer in time, or one that says no.
    """
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    asked = urllib.request.Request(url, data=data, headers=headers, method=method)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + timeout_seconds
    while True:
        try:
            with direct.open(asked, timeout=timeout_seconds) as answer:
                text = answer.read()
            return json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            # with SQLite one write holds up another, and after a while that one is sent away
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() >= end:
                raise
            time.sleep(BUSY_SECONDS)


def running_server(state: Path) -> str | None:
    """Find the server of a `serve` that runs now."""
    try:
        url: str = json.loads((state / "server.json").read_text())["url"]
        return url if request(url + "/health", timeout_seconds=2) is True else None
    except (OSError, ValueError, KeyError):
        return None


@contextlib.contextmanager
def embedded_api(state: Path, *, with_ui: bool = False) -> Iterator[EmbeddedServer | None]:
    """
    Start a server for this process, or use the one that was chosen or that `serve` runs.

    Gives the server as soon as it is on its way: `wait_until_ready` before using it. None where
    another server is used. PREFECT_API_URL is set meanwhile.
    """
    state.mkdir(parents=True, exist_ok=True)
    settle(state / "prefect")
    with contextlib.ExitStack() as stack:
        if chosen_api():
            yield None
            return
        _sweep(state)
        try:
            stack.enter_context(file_lock(state / "server.lock", "the run history"))
            home = state / "prefect"
        except OptionError:
            served = running_server(state)
            if served:
                stack.enter_context(_api_url(served))
                yield None
                return
            # another run keeps the history: this one's is its own, and thrown away
            home = stack.enter_context(_home_for_once(state))
        server = EmbeddedServer(home, with_ui=with_ui)
        stack.callback(server.stop)
        stack.enter_context(_api_url(server.url))
        yield server


@contextlib.contextmanager
def _home_for_once(state: Path) -> Iterator[Path]:
    """Give a folder for the history of one run, held so that nobody sweeps it meanwhile."""
    with tempfile.TemporaryDirectory(dir=state, prefix=ONCE) as folder:
        home = Path(folder)
        with file_lock(home / ".lock", "the history of this run"):
            yield home


def _sweep(state: Path) -> None:
    """Remove what runs that were killed have left: nobody holds it."""
    for home in state.glob(f"{ONCE}*"):
        with contextlib.suppress(OptionError), file_lock(home / ".lock", str(home)):
            shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def _api_url(url: str) -> Iterator[None]:
    os.environ["PREFECT_API_URL"] = url
    try:
        yield
    finally:
        del os.environ["PREFECT_API_URL"]


@contextlib.contextmanager
def announced(state: Path, url: str) -> Iterator[None]:
    """Tell `trigger` where the server is, as long as it runs."""
    path = state / "server.json"
    write_json({"url": url, "pid": os.getpid()}, path)
    try:
        yield
    finally:
        if f'"pid": {os.getpid()},' in path.read_text():  # not another that came after us
            path.unlink()
