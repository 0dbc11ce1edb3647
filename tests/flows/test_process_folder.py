"""The flow: every stage a task run that is retried, a bad video a row, a bad shard reported."""

from __future__ import annotations

import pandas as pd
import pytest

from pipeline.config import RunOptions, ShardOptions
from pipeline.errors import EngineError, RecognizerError, VideoError
from pipeline.results.tables import load, read_run
from pipeline.run import stages
from tests.videos import write_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three good videos and one that is none."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(3):
        write_video(folder / f"clip{number}.mp4", 24, fps=24, first=100 * number)
    (folder / "bad.mp4").write_bytes(b"not a video")
    return folder


@pytest.fixture
def run_flow(api, folder, tiny_recognizer, tmp_path, monkeypatch):
    """Run the flow on the folder, with pauses between attempts that are not felt."""
    from flows import tasks
    from flows.process_folder import process_folder

    for task in (tasks.decode, tasks.encode, tasks.recognize, tasks.write):
        monkeypatch.setattr(task, "retry_delay_seconds", 0.01)

    def run(max_videos=2, window=2, out=tmp_path / "out"):
        shards = ShardOptions(max_videos=max_videos, window=window)
        options = RunOptions(recognizer=str(tiny_recognizer), shards=shards)
        return process_folder([str(folder)], str(out), options.to_json(), return_state=True)

    return run


def fail(monkeypatch, stage, error, times):
    """Let a stage fail the first times that it is called; give a list that counts the calls."""
    right = getattr(stages, stage)
    calls = []

    def stumble(*arguments):
        calls.append(1)
        if len(calls) <= times:
            raise error
        return right(*arguments)

    monkeypatch.setattr(stages, stage, stumble)
    return calls


def task_runs(api, flow_run_id, count):
    """Wait until so many task runs of a flow run are stored, and give them by name."""
    from tests.flows.server.test_embedded import wait_for

    body = {"flow_runs": {"id": {"any_": [flow_run_id]}}}
    wait_for(lambda: api.api.request("/task_runs/count", body) >= count)
    runs = api.api.request("/task_runs/filter", body)
    return pd.DataFrame(
        [
            {"name": r["name"].rsplit("-", 1)[0], "state": r["state_name"], "runs": r["run_count"]}
            for r in runs
        ]
    )


def test_every_stage_of_every_shard_is_a_task_run(run_flow, api, tmp_path):
    state = run_flow()

    assert state.is_completed()
    run = read_run(tmp_path / "out")
    assert run["counts"]["videos_done"] == 4
    names = ("process-shard", "decode", "encode", "recognize", "write")
    runs = task_runs(api, run["flow_run_id"], len(names) * run["counts"]["shards"])
    assert runs.name.value_counts().to_dict() == dict.fromkeys(names, run["counts"]["shards"])


def test_a_bad_video_is_a_row(run_flow, tmp_path):
    run_flow()

    videos = load(tmp_path / "out", "videos").set_index("video")
    assert sorted(videos.status) == ["not_video", "ok", "ok", "ok"]
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize("stage", ["decode", "encode", "recognize", "write"])
def test_a_stage_that_fails_once_is_tried_again(run_flow, api, monkeypatch, tmp_path, stage):
    calls = fail(monkeypatch, stage, EngineError("lost the machine"), times=1)

    state = run_flow()

    assert state.is_completed()
    run = read_run(tmp_path / "out")
    assert len(calls) == run["counts"]["shards"] + 1
    assert len(load(tmp_path / "out", "videos")) == 4


@pytest.mark.parametrize("stage", ["decode", "encode", "recognize", "write"])
def test_a_stage_that_always_fails_is_reported_and_the_rest_goes_on(
    run_flow, monkeypatch, tmp_path, stage
):
    attempts = 1 + 3  # of the first shard, where one is in flight at a time
    calls = fail(monkeypatch, stage, EngineError("lost the machine"), times=attempts)

    state = run_flow(window=1)

    assert state.is_failed()
    assert "lost the machine" in state.message
    assert len(calls) == attempts + 1
    assert len(read_run(tmp_path / "out")["failures"]) == 1
    assert len(load(tmp_path / "out", "videos")) == 2


def test_after_a_failure_the_same_run_finishes(run_flow, monkeypatch, tmp_path):
    with monkeypatch.context() as broken:
        fail(broken, "encode", EngineError("lost the machine"), times=100)
        assert run_flow().is_failed()

    assert run_flow().is_completed()
    assert len(load(tmp_path / "out", "videos")) == 4


@pytest.mark.parametrize("error", [ValueError("a bug"), VideoError("not_video", "permanent")])
def test_what_another_attempt_would_repeat_is_not_retried(run_flow, monkeypatch, error):
    calls = fail(monkeypatch, "encode", error, times=100)

    state = run_flow()

    assert state.is_failed()
    assert len(calls) == 2  # one a shard


def test_input_that_cannot_be_used_ends_the_run_before_any_work(api, folder, tmp_path):
    from flows.process_folder import process_folder

    options = RunOptions(recognizer=str(tmp_path / "nothing"))
    sources, out = [str(folder)], str(tmp_path / "out")
    state = process_folder(sources, out, options.to_json(), return_state=True)
    assert state.is_failed()
    with pytest.raises(RecognizerError, match="no recognizer"):
        state.result()
    assert not (tmp_path / "out" / "videos").exists()


@pytest.mark.parametrize("written", ["{}/", "{}/./", "{}//"])
def test_one_run_opens_one_pipeline_however_its_folder_is_written(
    run_flow, monkeypatch, tmp_path, written
):
    from flows import process_folder

    opened, right = [], process_folder.open_session
    monkeypatch.setattr(
        process_folder, "open_session", lambda *a, **named: opened.append(a) or right(*a, **named)
    )

    assert run_flow(out=written.format(tmp_path / "out")).is_completed()
    assert len(opened) == 1
    assert read_run(tmp_path / "out")["counts"]["videos_done"] == 4


def test_unknown_options_are_refused(api, tmp_path):
    from flows.process_folder import process_folder

    state = process_folder(["."], str(tmp_path), {"speed": "high"}, return_state=True)

    assert state.is_failed()
    with pytest.raises(ValueError, match="speed"):
        state.result()
