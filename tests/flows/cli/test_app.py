"""The command line as a user runs it: help, usage errors, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest

from flows.cli import app
from flows.signals import USAGE
from tests.videos import write_video


class TestStop:
    @pytest.mark.parametrize(
        ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
    )
    def test_a_signal_stops_soon_and_cleanly(
        self, start, clipline, tiny_recognizer, tmp_path, number, code
    ):
        videos, out = tmp_path / "videos", tmp_path / "out"
        videos.mkdir()
        whole = write_video(videos / "clip0.mp4", 600, fps=30).read_bytes()
        for copy in range(1, 150):
            (videos / f"clip{copy}.mp4").write_bytes(whole + b"%d" % copy)
        process = start("run", videos, "-o", out, "--recognizer", tiny_recognizer, "--every", "1")
        end = time.monotonic() + 300
        while not list(out.glob("videos/*.parquet")) and time.monotonic() < end:
            time.sleep(0.05)
        children = descendants(process.pid)
        assert len(children) >= 3  # the server and the decode processes

        begin = time.monotonic()
        process.send_signal(number)
        _, printed = process.communicate(timeout=60)

        assert process.returncode == code
        assert time.monotonic() - begin < 5
        assert "goes on from there" in printed
        assert "Traceback" not in printed
        assert not [pid for pid in children if os.path.exists(f"/proc/{pid}")]
        assert not list(out.glob("**/.*.new"))


def descendants(pid: int) -> list[int]:
    """Processes that a process has started, and those that they have."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            children = [int(child) for child in file.read().split()]
        for task in os.listdir(f"/proc/{pid}/task"):
            if task != str(pid):
                with open(f"/proc/{pid}/task/{task}/children") as file:
                    children += [int(child) for child in file.read().split()]
    except FileNotFoundError:
        return []
    return children + [below for child in children for below in descendants(child)]


class TestUsage:
    """Usage errors are reported before any work, with exit code 2."""

    @pytest.fixture
    def mistake(self, capsys, monkeypatch):
        def run(*arguments):
            monkeypatch.setattr(sys, "argv", ["clipline", *map(str, arguments)])
            with mock.patch.dict(os.environ), pytest.raises(SystemExit) as ended:
                app.main()
            assert ended.value.code == USAGE
            return capsys.readouterr().err

        return run

    def test_no_such_path(self, clipline, tiny_recognizer, tmp_path):
        nowhere = tmp_path / "nowhere"
        ended = clipline("run", nowhere, "-o", tmp_path / "out", "--recognizer", tiny_recognizer)

        assert ended.code == USAGE
        assert f"no such file or folder: {nowhere}" in ended.err
        assert "Traceback" not in ended.err

    def test_empty_folder(self, clipline, tiny_recognizer, tmp_path):
        (tmp_path / "empty").mkdir()
        ended = clipline(
            *("run", tmp_path / "empty", "-o", tmp_path / "out", "--recognizer", tiny_recognizer)
        )

        assert ended.code == USAGE
        assert "holds no videos" in ended.err

    def test_results_folder_that_cannot_be_written(self, clipline, clips_folder, tiny_recognizer):
        ended = clipline("run", clips_folder, "-o", "/proc/out", "--recognizer", tiny_recognizer)

        assert ended.code == USAGE
        assert "/proc/out cannot be written" in ended.err

    def test_no_such_recognizer(self, clipline, clips_folder, tmp_path):
        ended = clipline("run", clips_folder, "-o", tmp_path, "--recognizer", tmp_path / "none")

        assert ended.code == USAGE
        assert "no recognizer" in ended.err
        assert "camera-motion" in ended.err

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                ["--reader", "magic"],
                'Invalid value "magic" for --reader. Choose from: "auto", "decord"',
            ),
            (["--device", "tpu"], 'Invalid value "tpu" for --device. Choose from: "auto", "cpu"'),
            (["--sample-fps", "0"], "fps must be a number above 0, got 0"),
            (["--sample-fps", "8", "--every", "2"], "set one of fps and every"),
            (["--stride-seconds", "1"], "stride_seconds needs clip_seconds"),
            (["--frame-timeout", "-1"], "frame_timeout_seconds must be a number above 0"),
        ],
    )
    def test_options(self, mistake, tmp_path, arguments, message):
        assert message in mistake("run", tmp_path, "-o", tmp_path, *arguments)

    def test_unknown_option(self, mistake, tmp_path):
        assert "Unknown option: --speed" in mistake(
            "run", tmp_path, "-o", tmp_path, "--speed", "high"
        )

    def test_inspect_without_results(self, mistake, tmp_path):
        assert "holds no results" in mistake("inspect", tmp_path)

    def test_retry_without_results(self, mistake, tmp_path):
        assert "holds no results" in mistake("retry", tmp_path)

    def test_retry_without_the_working_folder_of_the_last_run(self, mistake, tmp_path):
        (tmp_path / "out").mkdir()
        last = {"sources": ["a.mp4"], "working_folder": "/nowhere", "options": {}}
        (tmp_path / "out" / "run.json").write_text(json.dumps(last))

        assert "relative to /nowhere, which does not exist" in mistake("retry", tmp_path / "out")

    def test_trigger_without_a_server(self, mistake, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        monkeypatch.delenv("PREFECT_API_URL", raising=False)
        assert "start clipline serve" in mistake("trigger")


@pytest.mark.parametrize("command", [[], ["run"], ["train"], ["evaluate"], ["bench"]])
def test_help_imports_nothing_heavy(command):
    """Torch alone takes seconds to import; help is to be printed in half a second."""
    code = (
        "import sys\n"
        "from flows.cli.app import run_command\n"
        f"assert run_command({[*command, '--help']}) == 0\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )

    assert ended.stdout.startswith("Usage: clipline")
    imported = {name.split(".")[0] for name in ended.stderr.split()}
    heavy = {"torch", "prefect", "pydantic", "pandas", "pyarrow", "numpy", "cv2", "av"}
    assert imported & {*heavy, "openvino", "timm", "matplotlib", "sklearn", "jinja2"} == set()


def test_version(clipline):
    assert clipline("--version").out.strip() == "0.1.0"
