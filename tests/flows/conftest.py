"""A Prefect API for all flow tests, and the command line as a user runs it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.server.embedded import embedded_api


@pytest.fixture(scope="session")
def state(tmp_path_factory) -> Path:
    """State folder of all flow tests: its database is migrated once."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="session")
def api(state):
    """
    A running server, and Prefect set to it.

    Prefect reads its environment when it is imported: tests import flows inside their functions.
    """
    assert "prefect" not in sys.modules, "a test file imports prefect at the top"
    with embedded_api(state / "clipline") as server:
        server.wait_until_ready()
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            yield server


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


def environment(home: Path) -> dict[str, str]:
    """An environment whose home is empty, so that nothing of the user's is used or touched."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "XDG_"))}
    return {**kept, "HOME": str(home), "COLUMNS": "200"}


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Path:
    """Home of all commands: what the first one prepares, the next one finds."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def clipline(home, api):
    """Run a command to its end, with the server of all tests unless it shall start its own."""

    def run(*arguments, cwd=None, timeout=600, own_server=False) -> Ended:
        command = [sys.executable, "-m", "flows.cli.app", *map(str, arguments)]
        server = {"PREFECT_API_URL": api.url, "PREFECT_API_AUTH_STRING": api.api.auth_string}
        ended = subprocess.run(
            command,
            cwd=cwd or Path(__file__).parents[2],
            env={
                **environment(home),
                "PYTHONPATH": str(Path(__file__).parents[2]),
                **({} if own_server else server),
            },
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    return run


@pytest.fixture
def start(home):
    """Start a command and give the process; whatever is left of it is killed afterwards."""
    started = []

    def begin(*arguments) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli.app", *map(str, arguments)],
            cwd=Path(__file__).parents[2],
            env=environment(home),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        # the group as well: a run that a served job has just begun would wait for its server
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
