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
    litter,
    tables,
    wait_until,
)
from tests.videos import write_video

VIDEOS = 40
SLOW_KILLS = 20


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Videos enough for a few seconds of work in some ten shards."""
    folder = tmp_path_factory.mktemp("killed") / "videos"
    folder.mkdir()
    drawn = [write_video(folder / f"{n}.mp4", 90, first=100 * n).read_bytes() for n in range(4)]
    for number in range(VIDEOS):
        content = drawn[number % 4] + b"%d" % number  # else they were copies
        (folder / f"{number}.mp4").write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def command(videos, tiny_recognizer):
    """Give the command that writes to a results folder."""

    def make(out):
        given = ("--recognizer", tiny_recognizer, "--every", 1, "--frames", "--workers", 2)
        return ("run", videos, "-o", out, *given, "--precision", "float32")

    return make


@pytest.fixture(scope="module")
def peaceful(tmp_path_factory, videos, tiny_recognizer):
    """Rows of a run that nobody disturbed, in this process and without Prefect."""
    out = tmp_path_factory.mktemp("peaceful")
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
    """How long a command takes that nobody disturbs, once its home is prepared."""
    commands = Commands(session_home)
    for name in ("first", "second"):
        ended = commands(*command(tmp_path_factory.mktemp(name)))
        assert ended.code == 0, ended.err
    return ended.seconds


def finish(clipline, command, out, rows):
    """Run the command to its end, and hold what is there then to a run in peace."""
    clipline.left()
    names = set(os.listdir("/dev/shm"))
    done = committed(out)

    ended = clipline(*command(out))

    assert ended.code == 0, ended.err
    assert_same(tables(out), rows)
    assert counts(out)["videos_skipped"] == done
    assert counts(out)["videos_done"] == VIDEOS - done
    assert litter(out) == []
    assert set(os.listdir("/dev/shm")) <= names
    assert clipline.left() == {}
    assert list((clipline.home / ".local/state/clipline").glob("run-*")) == []


def wait_for_rows(process, out, before=0):
    """Wait until a run has finished more videos than before, or has ended."""
    wait_until(lambda: committed(out) > before or process.poll() is not None)


def test_killed_twice_and_finished(clipline, command, peaceful, tmp_path):
    """While it starts, and as soon as rows are there."""
    process = clipline.begin(*command(tmp_path))
    wait_until(lambda: clipline.running("prefect server"))
    clipline.close()

    process = clipline.begin(*command(tmp_path))
    wait_for_rows(process, tmp_path)
    clipline.close()

    assert 0 < committed(tmp_path) < VIDEOS
    finish(clipline, command, tmp_path, peaceful)


@pytest.mark.slow
def test_server_and_decode_process_killed_alone(clipline, command, peaceful, tmp_path):
    """The run goes on to its end: another takes the place of each."""
    process = clipline.begin(*command(tmp_path))
    wait_for_rows(process, tmp_path)
    server = clipline.kill("prefect server")
    os.kill(clipline.running("decode.worker")[0], signal.SIGKILL)

    ended = clipline.end(process)

    assert server
    assert ended.code == 0, ended.err
    said = {"decoder", "attempts"}  # of the one video at hand: another reader took over
    rows = {name: table.drop(columns=said, errors="ignore") for name, table in peaceful.items()}
    assert_same(tables(tmp_path, *said), rows)
    assert clipline.left() == {}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SLOW_KILLS))
def test_killed_at_a_random_moment(clipline, command, peaceful, seconds, tmp_path, seed):
    """Every process of a command at once, at any time from its start to after its end."""
    clipline.begin(*command(tmp_path))

    time.sleep(random.Random(seed).uniform(0, 1.1) * seconds)
    clipline.close()

    finish(clipline, command, tmp_path, peaceful)


@pytest.fixture
def small_disk(tmp_path):
    """A file system that soon is full, and a way to make it larger."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    made = [mount, "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder]
    if not mount or subprocess.run(made, check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount a small file system")
    yield folder, lambda: subprocess.run([mount, "-o", "remount,size=200m", folder], check=True)
    subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up(clipline, command, peaceful, small_disk):
    folder, enlarge = small_disk

    ended = clipline(*command(folder / "out"))

    assert ended.code == 1
    assert "No space left on device" in ended.err
    assert "Traceback" not in ended.err
    enlarge()
    finish(clipline, command, folder / "out", peaceful)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_a_signal_while_it_starts(clipline, command, tmp_path, number, code):
    """Stopped before anything was done: soon, with the exit code and the words of any stop."""
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
