"""A served job: found by `trigger`, and run on its schedule."""

from __future__ import annotations

import time

import pandas as pd
import pytest

from flows.server.api import published_api
from pipeline.errors import OptionError
from pipeline.results.tables import read_run
from tests.flows.server.test_embedded import wait_for
from tests.flows.test_schedules import ACCEPTED
from tests.videos import write_video


@pytest.fixture
def served(start, home, tiny_recognizer, tmp_path):
    """Serve a job with a schedule of every 20 s; give its API, its videos and its results."""
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    write_video(videos / "a.mp4", 24, fps=24)
    process = start(
        *("serve", videos, "-o", out, "--recognizer", tiny_recognizer, "--name", "nightly"),
        *("--cron", "* * * * * */20"),
    )
    line = process.stdout.readline()
    assert line.startswith("serving nightly"), process.communicate()
    assert process.stdout.readline().startswith("run it now: clipline trigger nightly")
    state = home / ".local/state/clipline"
    assert str(state / "server.json") in process.stdout.readline()
    api = published_api(state)
    assert api.url == line.split()[-1] + "/api"
    return api, videos, out


def test_the_schedule_and_trigger_start_runs(served, clipline):
    api, videos, out = served
    end = time.monotonic() + 90
    while not read_run(out) and time.monotonic() < end:
        time.sleep(0.5)

    assert len(pd.read_parquet(out / "clips")) == 1
    runs = api.request("/flow_runs/filter", {})
    assert "auto-scheduled" in {tag for run in runs for tag in run["tags"]}

    write_video(videos / "b.mp4", 24, fps=24, first=50)
    ended = clipline("trigger", "--wait", own_server=True)

    assert ended.code == 0, ended.err
    triggered = api.request(f"/flow_runs/{ended.out.strip()}")
    assert triggered["state_name"] == "Completed"
    assert len(pd.read_parquet(out / "clips")) == 2
    secret = api.auth_string.partition(":")[2]
    assert secret not in ended.out + ended.err
    results = [path for path in out.rglob("*") if path.is_file()]
    assert [path for path in results if secret.encode() in path.read_bytes()] == []


def test_the_flow_can_be_pickled_for_the_process_of_a_served_run(api):
    import cloudpickle

    from flows.process_folder import process_folder

    assert cloudpickle.loads(cloudpickle.dumps(process_folder)).name == process_folder.name


def test_trigger_names_what_is_served(served, clipline):
    ended = clipline("trigger", "weekly", own_server=True)

    assert ended.code == 2
    assert "no job 'weekly' is served (served: nightly)" in ended.err


@pytest.fixture
def registered(api):
    """Register a deployment of a flow, as `serve` does, without a process that serves it."""
    flows = []

    def register(name, flow="process-folder"):
        made = api.api.request("/flows/", {"name": flow})
        flows.append(made["id"])
        job = {"name": name, "flow_id": made["id"], "entrypoint": "flows.process_folder"}
        return api.api.request("/deployments/", job)["id"]

    yield register
    for flow in set(flows):
        api.api.request(f"/flows/{flow}", method="DELETE")


def test_only_jobs_that_are_served_can_be_triggered(api, registered, monkeypatch):
    from flows import deployments

    def poll(job):
        """Ask for runs, as the process does that serves a job."""
        body = {"deployment_ids": [job]}
        api.api.request("/deployments/get_scheduled_flow_runs", body)
        wait_for(lambda: api.api.request(f"/deployments/{job}")["status"] == "READY")

    monkeypatch.setattr(deployments, "READY_SECONDS", 0.0)
    ours = registered("weekly")
    poll(registered("other", flow="no-flow-of-ours"))
    with pytest.raises(OptionError, match=r"which job\? \(served: none\)"):
        deployments.trigger(None)
    with pytest.raises(OptionError, match=r"no job 'weekly' is served \(served: none\)"):
        deployments.trigger("weekly")

    poll(ours)

    assert deployments.list_deployments() == ["weekly"]
    with pytest.raises(OptionError, match=r"no job 'other' is served \(served: weekly\)"):
        deployments.trigger("other")
    assert deployments.trigger(None)[1] == "weekly"


def test_a_schedule_that_is_not_valid_is_refused(api):
    from flows.deployments import schedule_of

    assert {schedule_of(cron, "Europe/Berlin").timezone for cron in ACCEPTED} == {"Europe/Berlin"}
    with pytest.raises(OptionError, match="0 2 \\* \\* \\*"):
        schedule_of("at night", "UTC")
    with pytest.raises(OptionError, match="'Mars' is not a time zone"):
        schedule_of("0 2 * * *", "Mars")
