"""The embedded server: on loopback, with authentication, restarted, ends with its parent."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.server import embedded as module
from flows.server import environment
from flows.server.api import Api, publish_api
from flows.server.embedded import embedded_api
from flows.server.environment import configure_environment, state_folder
from pipeline.errors import MachineError
from pipeline.storage import file_lock

ROOT = Path(__file__).parents[3]


def alive(pid: int) -> bool:
    """Whether a process runs, other than as a zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def wait_for(condition, seconds=120):
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
        from prefect.client.orchestration import get_client
        from prefect.settings import PREFECT_API_URL

        assert PREFECT_API_URL.value() == api.url
        with get_client(sync_client=True) as client:
            assert client.read_flows(limit=1) is not None

    def test_a_request_without_authentication_is_refused(self, api):
        body = {"name": "not ours"}
        with pytest.raises(urllib.error.HTTPError, match="401"):
            Api(api.url).request("/flows/", body)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            Api(api.url, "clipline:guessed").request("/flows/", body)

        assert api.api.request("/flows/", body)["name"] == "not ours"

    def test_the_authentication_is_in_no_arguments_and_in_no_log(self, api):
        secret = api.api.auth_string.partition(":")[2]
        assert len(secret) >= 32
        commands = [path.read_bytes() for path in process_files("cmdline")]
        assert not [command for command in commands if secret.encode() in command]
        assert secret not in (api.home / "server.log").read_text()
        assert secret not in repr(api.api)

    def test_the_state_folder_is_private(self, api):
        assert api.home.parent.stat().st_mode & 0o777 == 0o700

    def test_keeps_its_database_in_its_home(self, api):
        assert (api.home / "prefect.db").exists()

    def test_cleanup_marks_the_runs_of_killed_processes_as_crashed(self, api, monkeypatch):
        """The run of this process, which begins meanwhile, goes on."""
        flow = api.api.request("/flows/", {"name": "lost"})
        body = {"flow_id": flow["id"], "state": {"type": "RUNNING", "name": "Running"}}
        run = api.api.request("/flow_runs/", body)
        monkeypatch.setattr(api, "created", datetime.now(UTC))
        own = api.api.request("/flow_runs/", body)

        api.cleanup_runs()

        assert api.api.request(f"/flow_runs/{run['id']}")["state"]["type"] == "CRASHED"
        assert api.api.request(f"/flow_runs/{own['id']}")["state"]["type"] == "RUNNING"

    def test_cleanup_deletes_old_runs(self, api, monkeypatch):
        monkeypatch.setattr(module, "MAX_RUNS", 2)
        flow = api.api.request("/flows/", {"name": "many"})
        done = {"type": "COMPLETED", "name": "Completed"}
        for _ in range(5):
            api.api.request("/flow_runs/", {"flow_id": flow["id"], "state": done})

        api.cleanup_runs()

        assert api.api.request("/flow_runs/count", {}) == 2

    def test_is_restarted_on_its_port_after_it_was_killed(self, api):
        before = api.pid
        os.kill(before, signal.SIGKILL)

        wait_for(lambda: api.pid != before)
        api.wait_until_ready()

        assert api.api.is_ready()

    def test_a_second_run_beside_it_has_a_temporary_history(self, api, state, monkeypatch):
        monkeypatch.delenv("PREFECT_API_URL")
        with embedded_api(state / "clipline") as second:
            assert second.url != api.url
            assert second.home.parent == state / "clipline"
            home = second.home

        assert not home.exists()

    def test_a_server_that_the_user_selected_is_used_as_it_is(self, state, monkeypatch):
        monkeypatch.setenv("PREFECT_API_URL", "http://example.invalid/api")
        monkeypatch.delenv("PREFECT_API_AUTH_STRING")

        with embedded_api(state / "other") as server:
            assert server is None
            assert "PREFECT_API_AUTH_STRING" not in os.environ

    def test_the_server_of_serve_is_used(self, api, state, monkeypatch):
        monkeypatch.delenv("PREFECT_API_URL")
        monkeypatch.delenv("PREFECT_API_AUTH_STRING")
        with (
            publish_api(state / "clipline", api.api),
            embedded_api(state / "clipline") as server,
        ):
            assert server is None
            assert Api.from_environment() == api.api

    def test_serve_waits_for_the_history_that_a_run_has_locked(
        self, state, monkeypatch, caplog, tmp_path
    ):
        """Its pages and its history must not lie in a temporary folder."""
        monkeypatch.delenv("PREFECT_API_URL")
        homes = []
        monkeypatch.setattr(module, "EmbeddedServer", lambda home, **_: homes.append(home) or Fake)
        with file_lock(tmp_path / "server.lock", "the run history"):
            thread = threading.Thread(target=use_api, args=[tmp_path], daemon=True)
            thread.start()
            wait_for(lambda: "waiting until it ends" in caplog.text)
            assert homes == []
        thread.join(20)

        assert homes == [tmp_path / "prefect"]
        assert f"in use by process {os.getpid()}" in caplog.text


class Fake:
    """A server that does not run."""

    api = Api("http://127.0.0.1:9/api", "user:password")

    @staticmethod
    def stop():
        pass


def use_api(state):
    """Start and stop a server with pages."""
    with embedded_api(state, with_ui=True):
        pass


def process_files(name: str) -> list[Path]:
    """Files of all processes that exist now, such as their command lines."""
    return [path for path in Path("/proc").glob(f"[0-9]*/{name}") if path.exists()]


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


def test_temporary_folders_of_killed_runs_are_removed(tmp_path):
    for name in ("run-killed", "run-living"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "prefect.db").touch()

    with file_lock(tmp_path / "run-living" / ".lock", "it"):
        module._remove_abandoned_homes(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["run-living"]


def test_a_command_that_starts_keeps_the_folder_that_another_creates(tmp_path, monkeypatch):
    """The other removes abandoned folders between the creation of the folder and its lock."""
    created, removed = threading.Event(), threading.Event()
    right = module.tempfile.TemporaryDirectory

    def create(**options):
        folder = right(**options)
        created.set()
        removed.wait(1)  # the other is done by then, unless it waits for us
        return folder

    def other():
        created.wait(20)
        with module._homes_lock(tmp_path):
            module._remove_abandoned_homes(tmp_path)
        removed.set()

    thread = threading.Thread(target=other)
    thread.start()
    monkeypatch.setattr(module.tempfile, "TemporaryDirectory", create)

    with module._temporary_home(tmp_path) as home:
        thread.join(20)
        assert removed.is_set()
        assert home.is_dir()

    assert not home.exists()


def test_the_log_is_overwritten(tmp_path, monkeypatch):
    (tmp_path / "server.log").write_text("of another run")
    monkeypatch.setattr(
        module.EmbeddedServer, "_start", lambda *_: subprocess.Popen(["sleep", "60"])
    )

    module.EmbeddedServer(tmp_path).stop()

    assert (tmp_path / "server.log").read_text() == ""


class TestRestarts:
    """Of a server that ends at once."""

    @pytest.fixture
    def start(self, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "MAX_RESTARTS", 2)
        starts = []

        def _start(*_):
            starts.append(time.monotonic())
            return subprocess.Popen(["false"])

        monkeypatch.setattr(module.EmbeddedServer, "_start", _start)
        return starts

    def test_a_server_that_ends_again_and_again_is_given_up_with_a_message(self, start, tmp_path):
        messages = []
        server = module.EmbeddedServer(tmp_path, on_failure=messages.append)

        wait_for(lambda: messages)

        assert len(start) == 3
        assert "ended 3 times in" in messages[0]
        assert str(tmp_path / "server.log") in messages[0]
        server.stop()

    @pytest.mark.parametrize("beside_another", [False, True])
    def test_the_log_that_is_named_is_kept(self, start, tmp_path, monkeypatch, beside_another):
        """The next command overwrites that of the history, and temporary ones are deleted."""
        monkeypatch.delenv("PREFECT_API_URL", raising=False)
        monkeypatch.setattr(module, "configure_environment", lambda folder: None)
        monkeypatch.setattr(
            module.EmbeddedServer,
            "_start",
            lambda *_: subprocess.Popen("echo broken; false", shell=True, stdout=_[1]),
        )
        with contextlib.ExitStack() as stack:
            if beside_another:
                stack.enter_context(file_lock(tmp_path / "server.lock", "the history"))
            server = stack.enter_context(embedded_api(tmp_path, on_failure=lambda message: None))
            with pytest.raises(MachineError) as caught:
                server.wait_until_ready()
        with embedded_api(tmp_path):
            pass

        log = Path(str(caught.value).partition(": see ")[2])
        assert log.read_text().startswith("broken")

    def test_few_logs_are_kept(self, start, tmp_path):
        for number in range(9):
            path = tmp_path / f"failed-server-{number}.log"
            path.write_text("")
            os.utime(path, (number, number))

        module._new_log(tmp_path)

        assert sorted(path.stem[-1] for path in tmp_path.glob("failed-*")) == list("45678")

    def test_ends_far_apart_are_not_counted_together(self, start, tmp_path, monkeypatch):
        """A service that runs for months restarts its server more often than that."""
        monkeypatch.setattr(module, "RESTART_WINDOW_SECONDS", 0.8)  # two ends are 0.5 s apart
        messages = []
        server = module.EmbeddedServer(tmp_path, on_failure=messages.append)

        wait_for(lambda: len(start) > 5)

        assert messages == []
        server.stop()


@pytest.mark.parametrize("with_ui", [False, True])
def test_only_the_server_of_serve_runs_the_services_for_schedules(tmp_path, monkeypatch, with_ui):
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


def test_every_disabled_service_is_one_of_prefect():
    from prefect.settings.models.server.services import ServerServicesSettings

    known = {name.upper() for name in ServerServicesSettings.model_fields}
    assert set(environment.UNUSED_SERVICES) <= known


def test_variables_that_the_user_has_set_stay(tmp_path, monkeypatch):
    for name in ("PREFECT_HOME", *environment.ENVIRONMENT):
        monkeypatch.setenv(name, "x")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "DEBUG")

    configure_environment(tmp_path)

    assert os.environ["PREFECT_LOGGING_LEVEL"] == "DEBUG"
    assert os.environ["PREFECT_HOME"] == str(tmp_path)
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


def test_the_state_folder_is_in_the_state_directory_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_folder() == tmp_path / "clipline"
