"""The embedded API: private, supervised, and gone with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from flows.server import embedded as module
from flows.server.embedded import (
    announced,
    embedded_api,
    request,
    running_server,
    settle,
    state_folder,
)
from pipeline.storage import file_lock

ROOT = Path(__file__).parents[3]


def alive(pid: int) -> bool:
    """Whether a process runs, other than as a zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def wait_for(condition, seconds=20):
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.05)
    pytest.fail(f"did not happen within {seconds} s")


def listening(pid: int) -> list[str]:
    """Addresses on which the processes of a session listen, as the kernel writes them."""
    inodes = {
        os.readlink(fd)[8:-1]
        for process in Path("/proc").glob("[0-9]*")
        if process.name == str(pid)
        for fd in process.glob("fd/*")
        if os.path.lexists(fd) and os.readlink(fd).startswith("socket:")
    }
    lines = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return [f[1].split(":")[0] for f in lines if f[3] == "0A" and f[9] in inodes]


class TestEmbeddedServer:
    """One server serves all of these."""

    def test_listens_on_loopback_only(self, api):
        assert listening(api.pid) == ["0100007F"]  # 127.0.0.1, as the kernel writes it

    def test_is_set_for_prefect(self, api):
        from prefect.settings import PREFECT_API_URL

        assert PREFECT_API_URL.value() == api.url
        assert request(api.url + "/health") is True

    def test_keeps_its_database_in_its_home(self, api):
        assert (api.home / "prefect.db").exists()

    def test_tidy_closes_the_books_of_killed_runs(self, api):
        flow = request(api.url + "/flows/", {"name": "lost"})
        running = {"type": "RUNNING", "name": "Running"}
        run = request(api.url + "/flow_runs/", {"flow_id": flow["id"], "state": running})

        api.tidy()

        assert request(f"{api.url}/flow_runs/{run['id']}")["state"]["type"] == "CRASHED"

    def test_tidy_forgets_old_runs(self, api, monkeypatch):
        monkeypatch.setattr(module, "RUNS_KEPT", 2)
        flow = request(api.url + "/flows/", {"name": "many"})
        done = {"type": "COMPLETED", "name": "Completed"}
        for _ in range(5):
            request(api.url + "/flow_runs/", {"flow_id": flow["id"], "state": done})

        api.tidy()

        assert request(api.url + "/flow_runs/count", {}) == 2

    def test_comes_back_on_its_port_after_it_was_killed(self, api):
        before = api.pid
        os.kill(before, signal.SIGKILL)

        wait_for(lambda: api.pid != before)
        api.wait_until_ready()

        assert request(api.url + "/health") is True

    def test_a_second_one_beside_it_is_its_own_and_leaves_nothing(self, api, state, monkeypatch):
        monkeypatch.delenv("PREFECT_API_URL")
        with embedded_api(state / "clipline") as second:
            assert second.url != api.url
            assert second.home.parent == state / "clipline"
            home = second.home

        assert not home.exists()

    def test_a_chosen_server_is_used(self, state, monkeypatch):
        monkeypatch.setenv("PREFECT_API_URL", "http://example.invalid/api")

        with embedded_api(state / "other") as server:
            assert server is None

    def test_a_served_one_is_used(self, api, state, monkeypatch):
        monkeypatch.delenv("PREFECT_API_URL")
        with announced(state / "clipline", api.url), embedded_api(state / "clipline") as server:
            assert server is None
            assert os.environ["PREFECT_API_URL"] == api.url


def test_the_server_dies_with_a_parent_that_was_killed(tmp_path):
    script = (
        "import sys, time; from pathlib import Path\n"
        "from flows.server.embedded import embedded_api\n"
        "with embedded_api(Path(sys.argv[1])) as server:\n"
        "    server._started.wait(); print(server.pid, flush=True); time.sleep(60)"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    pid = int(parent.stdout.readline())
    assert alive(pid)

    parent.kill()
    parent.communicate()

    wait_for(lambda: not alive(pid))


def test_what_killed_runs_left_is_removed_and_what_lives_stays(tmp_path):
    for name in ("run-killed", "run-living"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "prefect.db").touch()

    with file_lock(tmp_path / "run-living" / ".lock", "it"):
        module._sweep(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["run-living"]


def test_its_log_is_of_one_run_only(tmp_path, monkeypatch):
    (tmp_path / "server.log").write_text("of another run")
    monkeypatch.setattr(
        module.EmbeddedServer, "_start", lambda *_: subprocess.Popen(["sleep", "60"])
    )

    module.EmbeddedServer(tmp_path).stop()

    assert (tmp_path / "server.log").read_text() == ""


@pytest.mark.parametrize("with_ui", [False, True])
def test_only_a_server_that_serves_looks_after_schedules(tmp_path, monkeypatch, with_ui):
    started = []

    def start(command, **how):
        started.append((command, how["env"]))
        return popen(["sleep", "60"])

    popen = subprocess.Popen
    monkeypatch.setattr(module.subprocess, "Popen", start)

    module.EmbeddedServer(tmp_path, with_ui=with_ui).stop()

    [(command, env)] = started
    assert ("--no-ui" in command) is not with_ui
    assert ("PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED" in env) is not with_ui


def test_every_service_that_is_switched_off_is_one_of_prefect():
    from prefect.settings.models.server.services import ServerServicesSettings

    known = {name.upper() for name in ServerServicesSettings.model_fields}
    assert set(module.NOT_FOR_ONE_RUN) <= known


def test_no_server_is_found_where_none_runs(tmp_path):
    assert running_server(tmp_path) is None
    (tmp_path / "server.json").write_text('{"url": "http://127.0.0.1:9/api"}')
    assert running_server(tmp_path) is None


def test_the_announcement_goes_with_the_server(tmp_path):
    with announced(tmp_path, "http://127.0.0.1:1/api"):
        assert (tmp_path / "server.json").exists()
    assert not (tmp_path / "server.json").exists()


def test_the_announcement_of_another_stays(tmp_path):
    with announced(tmp_path, "http://127.0.0.1:1/api"):
        (tmp_path / "server.json").write_text('{"pid": 1, "url": "x"}')
    assert (tmp_path / "server.json").exists()


def test_settle_keeps_what_the_user_has_set(tmp_path, monkeypatch):
    for name in ("PREFECT_HOME", *module.ENVIRONMENT):
        monkeypatch.setenv(name, "x")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "DEBUG")

    settle(tmp_path)

    assert os.environ["PREFECT_LOGGING_LEVEL"] == "DEBUG"
    assert os.environ["PREFECT_HOME"] == str(tmp_path)
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


def test_state_is_kept_where_the_user_wants_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_folder() == tmp_path / "clipline"


class TestRequest:
    """Against a server that answers what it is told to."""

    @pytest.fixture
    def url(self):
        answers = [503, 503, 200]

        class Answering(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(answers.pop(0) if self.path == "/busy" else 503)
                self.end_headers()
                self.wfile.write(b"true")

            def log_message(self, *_):
                pass

        with HTTPServer(("127.0.0.1", 0), Answering) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()

    def test_a_busy_server_is_asked_again(self, url):
        assert request(url + "/busy") is True

    def test_one_that_stays_busy_is_not_asked_for_ever(self, url):
        with pytest.raises(OSError, match="503"):
            request(url + "/always", timeout_seconds=0.5)
