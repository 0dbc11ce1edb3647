"""SIGINT and SIGTERM on a large file, and on stages that never end: within 5 s, at any moment."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.resilience.commands import Commands, Ended, counts, temporary_files, wait_until
from tests.videos import repeat_video, write_video

SECONDS = 5
"""What the README promises."""
FRAMES = 4800
"""Of the large file: one shard, decoded in 20 seconds or more."""
SIGNALS = pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"]
)


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Path:
    """Home folder of all commands: caches of the first one are used by the next."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def commands(home):
    """Run commands; their remaining processes are killed at the end."""
    made = Commands(home)
    yield made
    made.close()


@pytest.fixture(scope="module")
def large_file(tmp_path_factory) -> Path:
    """One long 1080p H.264 file."""
    folder = tmp_path_factory.mktemp("large")
    short = write_video(folder / "short.mp4", 60, size=(1920, 1080), gop=30)
    return repeat_video(short, folder / "large.mp4", FRAMES // 60)


@pytest.fixture
def run(large_file, tiny_recognizer, tmp_path):
    """Give the arguments of a run on the large file."""
    given = ("--recognizer", tiny_recognizer, "--every", 1, "--precision", "float32")
    return ("run", large_file, "-o", tmp_path / "out", *given, "--workers", 2)


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def features(out: Path) -> list[Path]:
    return list(out.glob("features/**/part-*.parquet"))


def decoding(commands: Commands, out: Path) -> bool:
    """Whether a decode process has used seconds more than its start takes, without a result."""
    busy = [cpu_seconds(pid) > 2.0 for pid in commands.running("decode.worker")]
    return any(busy) and not features(out)


def stop(commands: Commands, process, number: int) -> Ended:
    """Send a signal, and require an end in time that leaves no process behind."""
    begin = time.monotonic()
    process.send_signal(number)
    ended = commands.end(process, timeout=60)
    assert time.monotonic() - begin < SECONDS
    assert "Traceback" not in ended.err, ended.err
    assert "goes on from" in ended.err
    assert commands.left() == {}
    return ended


@SIGNALS
def test_a_signal_in_the_middle_of_a_decode(commands, run, tmp_path, number, code):
    out = tmp_path / "out"
    process = commands.begin(*run)
    wait_until(lambda: decoding(commands, out) or process.poll() is not None)

    assert stop(commands, process, number).code == code

    assert not list(out.glob("videos/*.parquet"))


@pytest.mark.slow
@SIGNALS
def test_the_same_command_resumes_after_a_signal(commands, run, tmp_path, number, code):
    out = tmp_path / "out"
    process = commands.begin(*run)
    wait_until(lambda: features(out) or process.poll() is not None)

    assert stop(commands, process, number).code == code
    again = commands(*run)

    assert again.code == 0, again.err
    assert pd.read_parquet(out / "videos").frames_sampled.tolist() == [FRAMES]
    assert counts(out)["frames_encoded"] < FRAMES
    assert temporary_files(out) == []


@pytest.mark.slow
def test_two_signals(commands, run, tmp_path):
    """The second one arrives while the first is being handled; the first gives the exit code."""
    process = commands.begin(*run)
    wait_until(lambda: decoding(commands, tmp_path / "out") or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)

    assert stop(commands, process, signal.SIGTERM).code == 130


@pytest.mark.parametrize(
    "stage",
    [
        "encode",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("plan", "recognize", "write")),
    ],
)
def test_a_stage_that_never_ends(commands, tiny_recognizer, tmp_path, stage):
    write_video(tmp_path / "a.mp4", 12)
    given = ("run", tmp_path / "a.mp4", "-o", tmp_path / "out", "--recognizer", tiny_recognizer)

    assert stop_in(commands, stage, tmp_path, *given).code == 143


def stop_in(commands: Commands, stage: str, folder: Path, *arguments) -> Ended:
    """Run a command whose stage never ends, and stop it there by SIGTERM."""
    reached = folder / "reached"
    process = commands.begin(
        *arguments, module="tests.flows.endless", ENDLESS=stage, REACHED=str(reached)
    )
    wait_until(lambda: reached.exists() or process.poll() is not None)
    return stop(commands, process, signal.SIGTERM)


@pytest.fixture
def labels(tmp_path) -> Path:
    """A folder of labelled clips."""
    for number in range(4):
        folder = tmp_path / "labels" / ("left", "right")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        write_video(folder / f"{number}.mp4", 12, first=100 * number)
    return tmp_path / "labels"


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["encode", "run_epoch"])
def test_a_training_that_never_ends(commands, labels, tmp_path, stage):
    given = ("train", labels, "-o", tmp_path / "made", "--backbone", "random:test_resnet")

    assert stop_in(commands, stage, tmp_path, *given, "--grid", 3).code == 143


@pytest.mark.slow
def test_an_evaluation_that_never_ends(commands, labels, plain_recognizer, tmp_path):
    given = ("evaluate", plain_recognizer, labels, "-o", tmp_path / "found")

    assert stop_in(commands, "encode", tmp_path, *given).code == 143


@pytest.fixture
def served_run(commands, run):
    """Serve a job, and trigger a run of it; give the process of `serve`."""
    serve = commands.begin("serve", *run[1:], "--name", "nightly")
    assert serve.stdout.readline().startswith("serving nightly")
    triggered = commands("trigger")
    assert triggered.code == 0, triggered.err
    return serve


def test_serve_with_a_run_in_flight(commands, served_run, tmp_path):
    wait_until(lambda: decoding(commands, tmp_path / "out"))

    assert stop(commands, served_run, signal.SIGTERM).code == 143


@pytest.mark.slow
def test_a_served_run_that_begins_ends_with_a_serve_that_was_killed(commands, served_run):
    """It waited for the server for ever, and ignored SIGTERM."""
    wait_until(lambda: commands.running("multiprocessing.spawn"))

    served_run.kill()

    assert commands.left(60) == {}
