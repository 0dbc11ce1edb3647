"""
Killed at any moment: the same command goes on, and the rows are those of a run left in peace.

    python -m pytest -m slow tests/resilience/test_kill.py      # 20 kills, and a full disk
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time

import pytest

from pipeline.config import DecodeOptions, EncodeOptions, RunOptions, Sampling
from pipeline.run.process import process_videos
from tests.resilience.commands import (
    Commands,
    assert_same,
    committed,
    counts,
    tables,
    temporary_files,
    wait_until,
)
from tests.videos import write_video

VIDEOS = 40
SLOW_KILLS = 20


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Enough videos for a few seconds of work in about ten shards."""
    folder = tmp_path_factory.mktemp("killed") / "videos"
    folder.mkdir()
    contents = [write_video(folder / f"{n}.mp4", 90, first=100 * n).read_bytes() for n in range(4)]
    for number in range(VIDEOS):
        content = contents[number % 4] + b"%d" % number  # different content: no copies
        (folder / f"{number}.mp4").write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def command(videos, tiny_recognizer):
    """Return the command that writes to a results folder."""

    def make(out):
        given = ("--recognizer", tiny_recognizer, "--every", 1, "--frames", "--workers", 2)
        return ("run", videos, "-o", out, *given, "--precision", "float32")

    return make


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, videos, tiny_recognizer):
    """Rows of an undisturbed run, in this process and without Prefect."""
    out = tmp_path_factory.mktemp("undisturbed")
    options = RunOptions(
        recognizer=str(tiny_recognizer),
        sampling=Sampling(every=1),
        frames=True,
        decode=DecodeOptions(workers=2),
        encode=EncodeOptions(precision="float32"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(out / "cache"))
        process_videos([str(videos)], out, options)
    return tables(out)


@pytest.fixture(scope="module")
def seconds(tmp_path_factory, session_home, command):
    """Duration of an undisturbed command whose home folder is prepared."""
    commands = Commands(session_home)
    for name in ("first", "second"):
        ended = commands(*command(tmp_path_factory.mktemp(name)))
        assert ended.code == 0, ended.err
    return ended.seconds


def finish(clipline, command, out, rows):
    """Run the command to its end, and compare the results with the undisturbed run."""
    clipline.left()
    names = set(os.listdir("/dev/shm"))
    done = committed(out)

    ended = clipline(*command(out))

    assert ended.code == 0, ended.err
    assert_same(tables(out), rows)
    assert counts(out)["videos_skipped"] == done
    assert counts(out)["videos_done"] == VIDEOS - done
    assert temporary_files(out) == []
    assert set(os.listdir("/dev/shm")) <= names
    assert clipline.left() == {}
    assert list((clipline.home / ".local/state/clipline").glob("run-*")) == []


def wait_for_rows(process, out, before=0):
    """Wait until a run has finished more videos than before, or has ended."""
    wait_until(lambda: committed(out) > before or process.poll() is not None)


def test_killed_twice_and_resumed(clipline, command, undisturbed, tmp_path):
    """During the start, and as soon as rows are written."""
    process = clipline.begin(*command(tmp_path))
    wait_until(lambda: clipline.running("prefect server"))
    clipline.close()

    process = clipline.begin(*command(tmp_path))
    wait_for_rows(process, tmp_path)
    clipline.close()

    assert 0 < committed(tmp_path) < VIDEOS
    finish(clipline, command, tmp_path, undisturbed)


@pytest.mark.slow
def test_server_and_decode_process_killed(clipline, command, undisturbed, tmp_path):
    """The run continues: both are restarted."""
    process = clipline.begin(*command(tmp_path))
    wait_for_rows(process, tmp_path)
    server = clipline.kill("prefect server")
    os.kill(clipline.running("decode.worker")[0], signal.SIGKILL)

    ended = clipline.end(process)

    assert server
    assert ended.code == 0, ended.err
    columns = {"decoder", "attempts"}  # another reader decoded the current video
    rows = {
        name: table.drop(columns=columns, errors="ignore") for name, table in undisturbed.items()
    }
    assert_same(tables(tmp_path, *columns), rows)
    assert clipline.left() == {}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SLOW_KILLS))
def test_killed_at_a_random_moment(clipline, command, undisturbed, seconds, tmp_path, seed):
    """All processes of a command, at a random time between its start and after its end."""
    clipline.begin(*command(tmp_path))

    time.sleep(random.Random(seed).uniform(0, 1.1) * seconds)
    clipline.close()

    finish(clipline, command, tmp_path, undisturbed)


@pytest.fixture
def small_disk(tmp_path):
    """A small file system, and a function that enlarges it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    made = [mount, "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder]
    if not mount or subprocess.run(made, check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount a small file system")
    yield folder, lambda: subprocess.run([mount, "-o", "remount,size=200m", folder], check=True)
    subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_full_disk(clipline, command, undisturbed, small_disk):
    folder, enlarge = small_disk

    ended = clipline(*command(folder / "out"))

    assert ended.code == 1
    assert "No space left on device" in ended.err
    assert "Traceback" not in ended.err
    enlarge()
    finish(clipline, command, folder / "out", undisturbed)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_a_signal_during_the_start(clipline, command, tmp_path, number, code):
    """Stopped before any work: soon, with the exit code and the message of any stop."""
    process = clipline.begin(*command(tmp_path))
    wait_until(lambda: clipline.running("prefect server"))
    begin = time.monotonic()
    process.send_signal(number)

    ended = clipline.end(process)

    assert ended.code == code
    assert time.monotonic() - begin < 5
    assert "goes on from there" in ended.err
    assert "Traceback" not in ended.err
    assert clipline.left() == {}
