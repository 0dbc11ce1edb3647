"""One writer at a time: other runs refuse or wait, and readers see complete files."""

from __future__ import annotations

import os
import signal

import pandas as pd
import pytest

from tests.resilience.commands import committed, counts, wait_until
from tests.videos import write_video

VIDEOS = 40


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("writer") / "videos"
    folder.mkdir()
    content = write_video(folder / "a.mp4", 90).read_bytes()
    for number in range(VIDEOS - 1):
        (folder / f"{number}.mp4").write_bytes(
            content + b"%d" % number
        )  # different content: no copies
    return folder


def rows_seen(process, out):
    """Read the results repeatedly while a run writes them; return the numbers of rows."""
    seen = [0]
    while process.poll() is None:
        if list(out.glob("videos/part-*")):
            rows = pd.read_parquet(out / "videos")
            clips = pd.read_parquet(out / "clips")
            assert set(rows.video_id) <= set(clips.video_id)  # a finished video has all its rows
            seen.append(len(rows))
    return seen


def test_one_writer_at_a_time(clipline, videos, tiny_recognizer, tmp_path):
    """While the first run is paused in the middle of its work, and after it."""
    command = ("run", videos, "-o", tmp_path, "--recognizer", tiny_recognizer, "--every", 1)
    first = clipline.begin(*command)
    wait_until(lambda: committed(tmp_path) or first.poll() is not None)
    held = clipline.processes()
    for pid in held:
        os.kill(pid, signal.SIGSTOP)
    before = committed(tmp_path)

    refused = clipline(*command)
    fresh = clipline(*command, "--fresh")
    waiting = clipline.begin(*command, "--wait")
    assert f"in use by process {first.pid}; waiting for it" in waiting.stderr.readline()
    assert committed(tmp_path) == before  # nothing was deleted or written
    for pid in held:
        os.kill(pid, signal.SIGCONT)
    seen = rows_seen(first, tmp_path)
    ended, waited = clipline.end(first), clipline.end(waiting)

    assert first.pid in held
    assert 0 < before < VIDEOS
    for other in (refused, fresh):
        assert other.code == 2
        assert f"in use by process {first.pid}; wait for it (--wait), or stop it" in other.err
    assert ended.code == waited.code == 0, waited.err
    assert seen == sorted(seen)
    assert seen[-1] >= before
    assert committed(tmp_path) == VIDEOS
    assert counts(tmp_path)["videos_skipped"] == VIDEOS
    assert clipline.left() == {}


@pytest.mark.slow
def test_state_of_a_killed_run_is_removed(clipline, videos, tiny_recognizer, tmp_path):
    """A second run keeps its history in a temporary folder, which it cannot remove when killed."""
    command = ("--recognizer", tiny_recognizer, "--every", 1)
    first = clipline.begin("run", videos, "-o", tmp_path / "one", *command)
    wait_until(lambda: committed(tmp_path / "one") or first.poll() is not None)
    second = clipline.begin("run", videos, "-o", tmp_path / "two", *command)
    state = clipline.home / ".local/state/clipline"
    wait_until(lambda: list(state.glob("run-*")) or second.poll() is not None)
    assert list(state.glob("run-*"))

    clipline.close()
    ended = clipline("run", videos, "-o", tmp_path / "two", *command)

    assert ended.code == 0, ended.err
    assert list(state.glob("run-*")) == []
