"""
The embedded Prefect server: on loopback, with authentication, ends with the process that starts it.

With PREFECT_API_URL set, that server is used and none is started. Import nothing of Prefect before
`embedded_api`: it reads its environment when it is imported.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import fcntl
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from flows.server.api import Api, make_private, published_api
from flows.server.environment import UNUSED_SERVICES, configure_environment, selected_url
from pipeline.errors import MachineError, OptionError
from pipeline.storage import file_lock

logger = logging.getLogger(__name__)

START_SECONDS = float(os.environ.get("CLIPLINE_SERVER_SECONDS", "90"))
"""How long to wait for the first answer of the server."""
MAX_RESTARTS, RESTART_WINDOW_SECONDS = 10, 600.0
"""A server that ends more often than this within the window is not restarted again."""
MAX_RUNS = 100
"""Runs whose history is kept; older ones are deleted when a server starts."""
FAILED, MAX_LOGS = "failed-server-", 5
"""Prefix of the logs of servers that failed, and how many of them are kept."""
TEMPORARY = "run-"
"""Prefix of folders with the history of one run beside another."""


class EmbeddedServer:
    """
    A Prefect server process, restarted on the same port if it ends by itself.

    Args:
        home: folder of its database and log.
        with_ui: serve Prefect's pages and schedules as well.
        on_failure: called by a thread with a message when the server is not restarted any more.
        kept_log: where the log is kept if the server fails, as the history may be a temporary
            folder; where it is by default.
    """

    def __init__(
        self,
        home: Path,
        *,
        with_ui: bool = False,
        on_failure: Callable[[str], None] = logger.error,
        kept_log: Path | None = None,
    ) -> None:
        self.home = home
        self._log = home / "server.log"
        self._kept_log = kept_log or self._log
        self._with_ui = with_ui
        self._on_failure = on_failure
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._started = threading.Event()
        self.created = datetime.now(UTC)
        """Runs of this process begin later."""
        home.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        auth_string = os.environ.get("PREFECT_SERVER_API_AUTH_STRING")  # chosen by the user
        self.api = Api(
            f"http://127.0.0.1:{self._port}/api",
            auth_string or f"clipline:{secrets.token_urlsafe(24)}",
        )
        # The server gets SIGKILL when the thread ends that started it, so this one stays alive.
        self._supervisor = threading.Thread(
            target=self._supervise, name="prefect-server", daemon=True
        )
        self._supervisor.start()

    @property
    def url(self) -> str:
        """URL of the API."""
        return self.api.url

    @property
    def pid(self) -> int | None:
        """Process id of the server."""
        return self._process.pid if self._process else None

    def _supervise(self) -> None:
        ends: collections.deque[float] = collections.deque(maxlen=MAX_RESTARTS + 1)
        with self._log.open("wb") as log:  # overwritten, so that it stays small
            while True:
                self._process = self._start(log)
                self._started.set()
                self._process.wait()
                if self._stopping.wait(0.5):
                    return
                ends.append(time.monotonic())
                if len(ends) > MAX_RESTARTS and ends[-1] - ends[0] < RESTART_WINDOW_SECONDS:
                    break
                logger.warning("the Prefect server ended by itself; restarting it")
        self._on_failure(
            f"the Prefect server ended {len(ends)} times in {ends[-1] - ends[0]:.0f} s and is "
            f"not restarted: see {self._keep_log()}"
        )

    def _start(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "prefect", "server", "start"]
        command += ["--host", "127.0.0.1", "--port", str(self._port)]
        settings = {
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": self._database(),
            # in the environment, which only this user may read; arguments are public
            "PREFECT_SERVER_API_AUTH_STRING": self.api.auth_string or "",
        }
        if not self._with_ui:
            command.append("--no-ui")
            for name in UNUSED_SERVICES:
                settings[f"PREFECT_SERVER_SERVICES_{name}_ENABLED"] = "false"
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=self.home,  # Prefect reads settings from files of its working directory
            env={**os.environ, **settings},
            preexec_fn=_die_with_parent,  # noqa: PLW1509 (one system call, no Python lock)
            start_new_session=True,  # Ctrl-C reaches the parent only, which stops the server
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
            if self.api.is_ready():
                return
            if not self._supervisor.is_alive():
                break
            time.sleep(0.05)
        raise MachineError(f"the Prefect server did not start: see {self._keep_log()}")

    def _keep_log(self) -> Path:
        """Copy the log to where it is kept. Returns its path."""
        if self._kept_log == self._log:
            return self._log
        try:
            shutil.copyfile(self._log, self._kept_log)
        except OSError:  # for example a full disk
            return self._log
        return self._kept_log

    def cleanup_runs(self) -> None:
        """
        Mark the runs of killed processes as crashed, and delete old runs.

        The caller holds the lock of the history, so that runs of before are of no living process;
        its own run may begin meanwhile.
        """
        unfinished = {
            "flow_runs": {
                "state": {"type": {"any_": ["RUNNING", "PENDING"]}},
                "expected_start_time": {"before_": self.created.isoformat()},
            }
        }
        crashed = {"type": "CRASHED", "name": "Crashed", "message": "the process was killed"}
        for run in self.api.request("/flow_runs/filter", unfinished):
            body = {"force": True, "state": crashed}
            self.api.request(f"/flow_runs/{run['id']}/set_state", body)
        old = {"sort": "EXPECTED_START_TIME_DESC", "offset": MAX_RUNS, "limit": 200}
        for run in self.api.request("/flow_runs/filter", old):
            self.api.request(f"/flow_runs/{run['id']}", method="DELETE")

    def stop(self) -> None:
        """End the server."""
        self._stopping.set()
        self._started.wait(5)
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(3)
            self._process.kill()
        self._supervisor.join(5)


def _die_with_parent() -> None:
    # PR_SET_PDEATHSIG: SIGTERM would let it wait for clients first, and SQLite survives SIGKILL
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


@contextlib.contextmanager
def embedded_api(
    state: Path,
    *,
    with_ui: bool = False,
    on_failure: Callable[[str], None] = logger.error,
) -> Iterator[EmbeddedServer | None]:
    """
    Start a server for this process, or use the one that the user selected or that `serve` runs.

    Gives the server while it starts: call `wait_until_ready` before using it. Gives None where
    another server is used. PREFECT_API_URL and PREFECT_API_AUTH_STRING are set in the block.

    Args:
        state: folder of the run history.
        with_ui: serve Prefect's pages and schedules as well, with the history of all runs: wait for
            it while another command has it. Without, such a command does not delay this one, which
            keeps a temporary history of its own.
        on_failure: see `EmbeddedServer`.

    Raises:
        OptionError: the state folder cannot be written.
    """
    make_private(state)
    configure_environment(state / "prefect")
    if selected_url():
        yield None
        return
    with contextlib.ExitStack() as stack:
        found = _find_home(stack, state, wait=with_ui)
        if isinstance(found, Api):
            stack.enter_context(found.environment())
            yield None
            return
        kept_log = _new_log(state)
        server = EmbeddedServer(found, with_ui=with_ui, on_failure=on_failure, kept_log=kept_log)
        stack.callback(server.stop)
        stack.enter_context(server.api.environment())
        yield server


def _new_log(state: Path) -> Path:
    """Name the log of a server that fails, and delete all but the newest of those of before."""
    with contextlib.suppress(FileNotFoundError):  # another command deletes them, too
        logs = sorted(state.glob(f"{FAILED}*.log"), key=lambda path: path.stat().st_mtime)
        for path in logs[:-MAX_LOGS]:
            path.unlink()
    return state / f"{FAILED}{os.getpid()}.log"


def _find_home(stack: contextlib.ExitStack, state: Path, *, wait: bool) -> Path | Api:
    """Lock the run history and return its folder, or a temporary one, or the server of `serve`."""
    warned = False
    while True:
        try:
            stack.enter_context(file_lock(state / "server.lock", "the run history"))
        except OptionError as error:
            served = published_api(state)
            if served is not None:
                return served
            if not wait:
                return stack.enter_context(_temporary_home(state))
            if not warned:
                logger.warning("%s; waiting until it ends", str(error).partition(";")[0])
                warned = True
            time.sleep(0.2)
        else:
            with _homes_lock(state):
                _remove_abandoned_homes(state)
            return state / "prefect"


@contextlib.contextmanager
def _temporary_home(state: Path) -> Iterator[Path]:
    """Give a folder for the history of one run, locked so that no other command removes it."""
    with contextlib.ExitStack() as stack:
        with _homes_lock(state):
            _remove_abandoned_homes(state)
            folder = tempfile.TemporaryDirectory(dir=state, prefix=TEMPORARY)
            home = Path(stack.enter_context(folder))
            stack.enter_context(file_lock(home / ".lock", "the history of this run"))
        yield home


@contextlib.contextmanager
def _homes_lock(state: Path) -> Iterator[None]:
    """Hold the lock under which temporary homes are created and abandoned ones removed."""
    with (state / "homes.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_abandoned_homes(state: Path) -> None:
    """Remove the temporary homes that nobody locks: their processes were killed."""
    for home in state.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OptionError), file_lock(home / ".lock", str(home)):
            shutil.rmtree(home, ignore_errors=True)
