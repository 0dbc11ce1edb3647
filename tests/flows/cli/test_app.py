"""The command line as a user runs it: what it prints, what it leaves, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from flows.cli import app
from flows.signals import SOME_FAILED, USAGE
from pipeline.results.tables import load
from tests.flows.conftest import environment
from tests.videos import write_images, write_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two good videos of two seconds."""
    folder = tmp_path_factory.mktemp("clips")
    write_video(folder / "a.mp4", 48, fps=24)
    write_video(folder / "b.mp4", 48, fps=24, first=200)
    return folder


@pytest.fixture
def bad(tmp_path, folder):
    """A folder with one file that is no video beside a good one."""
    made = tmp_path / "mixed"
    made.mkdir()
    (made / "a.mp4").write_bytes((folder / "a.mp4").read_bytes())
    (made / "empty.mp4").touch()
    return made


class TestRun:
    def test_a_folder_becomes_rows_that_pandas_reads(
        self, clipline, folder, tiny_recognizer, tmp_path
    ):
        command = ("run", folder, "-o", tmp_path / "out", "--recognizer", tiny_recognizer)
        ended = clipline(*command, own_server=True)

        assert ended.code == 0, ended.err
        assert "2 videos; 2 rows: 2 ok" in ended.out
        clips = pd.read_parquet(tmp_path / "out" / "clips")
        assert clips.start_seconds.tolist() == [0.0, 1.0, 0.0, 1.0]
        assert clips.end_seconds.tolist() == [1.0, 2.0, 1.0, 2.0]
        assert clips.num_frames.tolist() == [8, 8, 8, 8]
        assert (tmp_path / "out" / "report.html").exists()

    def test_the_same_command_again_does_nothing(self, clipline, folder, tiny_recognizer, tmp_path):
        command = ("run", folder, "-o", tmp_path, "--recognizer", tiny_recognizer, "--json")
        first = clipline(*command)
        before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/*.parquet")}

        again = clipline(*command)

        assert (first.code, again.code) == (0, 0)
        assert first.json["counts"]["frames_encoded"] == 32
        assert again.json["counts"]["videos_skipped"] == 2
        assert again.json["counts"]["frames_encoded"] == 0
        assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/*.parquet")} == before

    def test_fresh_starts_over(self, clipline, folder, tiny_recognizer, tmp_path):
        command = ("run", folder, "-o", tmp_path, "--recognizer", tiny_recognizer, "--json")
        clipline(*command)

        ended = clipline(*command, "--fresh")

        assert ended.json["counts"]["frames_encoded"] == 32

    def test_a_bad_video_ends_with_3_and_says_how_to_list_it(
        self, clipline, bad, tiny_recognizer, tmp_path
    ):
        out = tmp_path / "out"
        ended = clipline("run", bad, "-o", out, "--recognizer", tiny_recognizer)

        assert ended.code == SOME_FAILED
        assert f"clipline inspect {out} --failures" in ended.err
        listed = clipline("inspect", out, "--failures")
        assert "empty.mp4\tnot_video" in listed.out

    def test_options_reach_the_rows(self, clipline, folder, tiny_recognizer, tmp_path):
        ended = clipline(
            *("run", folder, "-o", tmp_path, "--recognizer", tiny_recognizer, "--frames"),
            *("--embeddings", "--sample-fps", "4", "--clip-seconds", "2", "--reader", "pyav"),
        )

        assert ended.code == 0, ended.err
        clips = pd.read_parquet(tmp_path / "clips")
        assert clips.num_frames.tolist() == [8, 8]
        assert [len(e) for e in clips.embedding] == [8, 8]
        frames = pd.read_parquet(tmp_path / "frames")
        assert frames.frame_index.tolist() == [*range(0, 48, 6)] * 2
        assert set(pd.read_parquet(tmp_path / "videos").decoder) == {"pyav"}

    def test_image_sequences_need_a_rate(self, clipline, tiny_recognizer, tmp_path):
        write_images(tmp_path / "images", range(1, 13))
        command = ("run", tmp_path / "images", "-o", tmp_path / "out", "--recognizer")

        refused = clipline(*command, tiny_recognizer)
        ended = clipline(*command, tiny_recognizer, "--image-fps", "12")

        assert refused.code == USAGE
        assert "--image-fps" in refused.err
        assert ended.code == 0, ended.err
        assert pd.read_parquet(tmp_path / "out" / "clips").end_seconds.tolist() == [1.0]

    def test_quiet_prints_nothing(self, clipline, folder, tiny_recognizer, tmp_path):
        ended = clipline("run", folder, "-o", tmp_path, "--recognizer", tiny_recognizer, "-q")

        assert (ended.code, ended.out, ended.err) == (0, "", "")

    def test_nothing_of_the_user_is_touched(
        self, clipline, folder, tiny_recognizer, tmp_path, home
    ):
        command = ("run", folder, "-o", tmp_path, "--recognizer", tiny_recognizer)
        clipline(*command, own_server=True)

        assert not (home / ".prefect").exists()
        assert sorted(p.name for p in home.iterdir()) == [".cache", ".local"]

    def test_without_a_server_the_data_goes_on(self, folder, tiny_recognizer, tmp_path):
        """A database that cannot be made keeps the server from starting."""
        home = tmp_path / "home"
        (home / ".local/state/clipline/prefect/prefect.db").mkdir(parents=True)
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "flows.cli.app", "run", folder, "-o", tmp_path / "out"),
                *("--recognizer", tiny_recognizer),
            ],
            env={**environment(home), "CLIPLINE_SERVER_SECONDS": "3"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

        assert ended.returncode == 0, ended.stderr
        assert "going on without a run history" in ended.stderr
        assert len(pd.read_parquet(tmp_path / "out" / "clips")) == 4


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
        end = time.monotonic() + 60
        while not list(out.glob("videos/*.parquet")) and time.monotonic() < end:
            time.sleep(0.05)
        children = descendants(process.pid)
        assert len(children) >= 3  # the server and the decode processes

        begin = time.monotonic()
        process.send_signal(number)
        _, said = process.communicate(timeout=20)

        assert process.returncode == code
        assert time.monotonic() - begin < 5
        assert "goes on from there" in said
        assert "Traceback" not in said
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
    """Mistakes are told before any work, with exit code 2."""

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

    def test_results_folder_that_cannot_be_written(self, clipline, folder, tiny_recognizer):
        ended = clipline("run", folder, "-o", "/proc/out", "--recognizer", tiny_recognizer)

        assert ended.code == USAGE
        assert "/proc/out cannot be written" in ended.err

    def test_no_such_recognizer(self, clipline, folder, tmp_path):
        ended = clipline("run", folder, "-o", tmp_path, "--recognizer", tmp_path / "none")

        assert ended.code == USAGE
        assert "no recognizer" in ended.err
        assert "camera-motion" in ended.err

    @pytest.mark.parametrize(
        ("arguments", "said"),
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
    def test_options(self, mistake, tmp_path, arguments, said):
        assert said in mistake("run", tmp_path, "-o", tmp_path, *arguments)

    def test_unknown_option(self, mistake, tmp_path):
        assert "Unknown option: --speed" in mistake(
            "run", tmp_path, "-o", tmp_path, "--speed", "high"
        )

    def test_inspect_without_results(self, mistake, tmp_path):
        assert "holds no results" in mistake("inspect", tmp_path)

    def test_retry_without_results(self, mistake, tmp_path):
        assert "holds no results" in mistake("retry", tmp_path)

    def test_retry_where_the_folder_of_the_last_run_is_gone(self, mistake, tmp_path):
        (tmp_path / "out").mkdir()
        last = {"sources": ["a.mp4"], "working_folder": "/nowhere", "options": {}}
        (tmp_path / "out" / "run.json").write_text(json.dumps(last))

        assert "relative to /nowhere, which does not exist" in mistake("retry", tmp_path / "out")

    def test_trigger_without_a_server(self, mistake, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        monkeypatch.delenv("PREFECT_API_URL", raising=False)
        assert "start clipline serve" in mistake("trigger")


class TestRetry:
    def test_only_what_failed_is_done_again(self, clipline, bad, tiny_recognizer, tmp_path):
        """From wherever it is called: what the run named counts from where that was started."""
        out = bad.parent / "out"
        clipline("run", bad.name, "-o", "out", "--recognizer", tiny_recognizer, cwd=bad.parent)
        write_video(bad / "mended.mp4", 24, fps=24)
        os.replace(bad / "mended.mp4", bad / "empty.mp4")

        ended = clipline("retry", out, "--json")

        assert ended.code == 0, ended.err
        assert sorted(pd.read_parquet(out / "videos").video) == ["mixed/a.mp4", "mixed/empty.mp4"]
        assert ended.json["counts"]["videos_done"] == 1
        assert ended.json["statuses"] == {"ok": 2}

    def test_other_limits_may_be_given(self, clipline, folder, tiny_recognizer, tmp_path):
        out = tmp_path / "out"
        refused = clipline(
            *("run", folder, "-o", out, "--recognizer", tiny_recognizer, "--max-pixels", 100)
        )
        assert refused.code == SOME_FAILED

        ended = clipline("retry", out, "--status", "too_large", "--max-pixels", 10**6, "--json")

        assert ended.code == 0, ended.err
        assert ended.json["statuses"] == {"ok": 2}
        assert ended.json["options"]["decode"]["max_pixels"] == 10**6

    def test_other_statuses_are_left_alone(self, clipline, bad, tiny_recognizer, tmp_path):
        out = tmp_path / "out"
        clipline("run", bad, "-o", out, "--recognizer", tiny_recognizer)

        ended = clipline("retry", out, "--status", "decode_timeout,partial", "--json")

        assert ended.code == SOME_FAILED
        assert ended.json["counts"]["videos_done"] == 0

    def test_unknown_statuses_are_refused(self, clipline, bad, tiny_recognizer, tmp_path):
        clipline("run", bad, "-o", tmp_path / "out", "--recognizer", tiny_recognizer)
        ended = clipline("retry", tmp_path / "out", "--status", "sad")

        assert ended.code == USAGE
        assert "no status sad; there are ok, partial" in ended.err


class TestOthers:
    def test_features_only(self, clipline, folder, tmp_path):
        ended = clipline(
            *("features", folder, "-o", tmp_path, "--backbone", "random:test_resnet", "--json")
        )

        assert ended.code == 0, ended.err
        assert ended.json["counts"]["frames_encoded"] == 32
        stored = pd.read_parquet(tmp_path / "features")
        assert len(stored) == 32
        loaded = load(tmp_path, "features")
        assert loaded.video.unique().tolist() == load(tmp_path, "videos").video.tolist()
        assert np.stack(loaded.feature).tolist() == np.stack(stored.feature).tolist()
        assert len(stored.feature[0]) == ended.json["configuration"]["feature_size"]

    def test_doctor_tells_what_files_hold(self, clipline, bad):
        ended = clipline("doctor", bad, "--json")

        assert ended.code == SOME_FAILED
        good, empty = ended.json
        assert (good["status"], good["frames_decoded"]) == ("ok", 48)
        assert (empty["status"], empty["frames_decoded"]) == ("not_video", 0)

    def test_doctor_prints_a_line_a_file(self, clipline, folder):
        lines = clipline("doctor", folder).out.splitlines()

        assert lines[0].startswith("video\tstatus\treader\tcodec")
        assert lines[1].split("\t")[1] == "ok"
        assert lines[1].split("\t")[4:7] == ["96×64", "48 of 48 claimed", "24/s"]

    def test_recognizers_shows_the_bundled_one(self, clipline):
        ended = clipline("recognizers")

        assert ended.code == 0
        assert "camera-motion" in ended.out
        assert "pan_left" in ended.out

    def test_recognizers_shows_a_folder(self, clipline, tiny_recognizer):
        said = clipline("recognizers", tiny_recognizer, "--json").json

        assert said[0]["labels"] == ["left", "right", "still"]

    def test_inspect_counts_labels(self, clipline, folder, tiny_recognizer, tmp_path):
        clipline("run", folder, "-o", tmp_path, "--recognizer", tiny_recognizer)
        said = clipline("inspect", tmp_path, "--json").json

        assert said["videos"] == 2
        assert sum(said["labels"].values()) == said["clips"] == 4
        assert said["failures"] == []

    @pytest.mark.parametrize("command", [[], ["run"], ["train"], ["evaluate"], ["bench"]])
    def test_help_imports_nothing_heavy(self, command):
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

    def test_version(self, clipline):
        assert clipline("--version").out.strip() == "0.1.0"
