"""`clipline run` as a user runs it, and its summary."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext

import pandas as pd
import pytest

from flows.cli import console
from flows.cli.run import print_timings
from flows.server import launch
from flows.signals import SOME_FAILED, USAGE
from pipeline.config import RunOptions
from pipeline.errors import InputError
from pipeline.results.tables import lock_results
from tests.flows.conftest import environment
from tests.videos import write_images

SUMMARY = {
    "counts": {"frames_encoded": 500, "bytes_pictures": 3 << 20, "bytes_features": 1 << 19},
    "timings_seconds": {
        "run": 10.0,
        "stages": {"decode": 4.0, "encode": 7.5, "recognize": 1.0, "write": 0.5},
        "startup": {"imports": 1.25, "engine": 0.5},
        "engine_busy": 7.0,
        "engine_idle": 2.0,
    },
}


@pytest.fixture
def lines(monkeypatch):
    """Print timings, and return the cells of the table by the first one of each row."""
    printed = []
    monkeypatch.setattr(console, "print_line", lambda text="": None)
    monkeypatch.setattr(console, "print_table", lambda head, rows: printed.extend(rows))
    monkeypatch.setattr(launch, "process_age_seconds", lambda: 15.0)

    def show(summary):
        print_timings(summary)
        return {what: (seconds, note) for what, seconds, note in printed}

    return show


def test_each_part_has_its_seconds_and_a_note(lines):
    assert lines(SUMMARY) == {
        "start: imports": ("1.25", ""),
        "start: engine": ("0.50", ""),
        "run: from the first shard to the last": ("10.00", "50 frames/s"),
        "run: decode": ("4.00", "3.0 MiB of output"),
        "run: encode": ("7.50", "0.5 MiB of output"),
        "run: recognize": ("1.00", ""),
        "run: write": ("0.50", ""),
        "run: engine computes": ("7.00", "70% of the run"),
        "run: engine waits": ("2.00", "20% of the run"),
        "whole command": ("15.00", ""),
    }


def test_a_run_without_frames_has_no_rates(lines):
    nothing = {**SUMMARY["timings_seconds"], "run": 0.0, "engine_busy": 0.0, "engine_idle": 0.0}

    shown = lines({**SUMMARY, "timings_seconds": nothing})

    assert shown["run: from the first shard to the last"] == ("0.00", "")
    assert shown["run: engine waits"] == ("0.00", "")


def test_a_folder_becomes_rows_that_pandas_reads(clipline, clips_folder, tiny_recognizer, tmp_path):
    command = ("run", clips_folder, "-o", tmp_path / "out", "--recognizer", tiny_recognizer)
    ended = clipline(*command, own_server=True)

    assert ended.code == 0, ended.err
    assert "2 videos; 2 rows: 2 ok" in ended.out
    clips = pd.read_parquet(tmp_path / "out" / "clips")
    assert clips.start_seconds.tolist() == [0.0, 1.0, 0.0, 1.0]
    assert clips.end_seconds.tolist() == [1.0, 2.0, 1.0, 2.0]
    assert clips.num_frames.tolist() == [8, 8, 8, 8]
    assert (tmp_path / "out" / "report.html").exists()


def test_the_same_command_again_does_nothing(clipline, clips_folder, tiny_recognizer, tmp_path):
    command = ("run", clips_folder, "-o", tmp_path, "--recognizer", tiny_recognizer, "--json")
    first = clipline(*command)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/*.parquet")}

    again = clipline(*command)

    assert (first.code, again.code) == (0, 0)
    assert first.json["counts"]["frames_encoded"] == 32
    assert again.json["counts"]["videos_skipped"] == 2
    assert again.json["counts"]["frames_encoded"] == 0
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/*.parquet")} == before


def test_fresh_starts_over(clipline, clips_folder, tiny_recognizer, tmp_path):
    command = ("run", clips_folder, "-o", tmp_path, "--recognizer", tiny_recognizer, "--json")
    clipline(*command)

    ended = clipline(*command, "--fresh")

    assert ended.json["counts"]["frames_encoded"] == 32


class TestFresh:
    """Results are deleted by the run that holds the results folder, and only by it."""

    @pytest.fixture
    def out(self, tmp_path):
        """A results folder with a file of an earlier run."""
        out = tmp_path / "out"
        (out / "clips").mkdir(parents=True)
        (out / "clips" / "part-1.parquet").write_bytes(b"rows")
        return out

    def test_nothing_is_deleted_if_no_video_is_found(self, clipline, out):
        ended = clipline("run", out / "nowhere.mp4", "-o", out, "--fresh")

        assert ended.code == 2
        assert (out / "clips" / "part-1.parquet").exists()

    def test_nothing_is_deleted_while_another_run_holds_the_folder(
        self, clipline, clips_folder, out
    ):
        with lock_results(out):
            ended = clipline("run", clips_folder, "-o", out, "--fresh")

        assert ended.code == 2
        assert (out / "clips" / "part-1.parquet").exists()

    def test_no_other_run_can_start_between_deletion_and_run(self, clips_folder, out, monkeypatch):
        class ServerStarts(Exception):
            pass

        def embedded_api(state):
            assert not (out / "clips" / "part-1.parquet").exists()
            with pytest.raises(InputError, match="is in use"), lock_results(out):
                pass
            raise ServerStarts

        monkeypatch.setattr(launch, "embedded_api", embedded_api)

        with pytest.raises(ServerStarts):
            launch.run_once([str(clips_folder)], out, RunOptions(), nullcontext, fresh=True)


def test_a_bad_video_ends_with_3_and_a_command_that_lists_it(
    clipline, mixed_folder, tiny_recognizer, tmp_path
):
    out = tmp_path / "out"
    ended = clipline("run", mixed_folder, "-o", out, "--recognizer", tiny_recognizer)

    assert ended.code == SOME_FAILED
    assert f"clipline inspect {out} --failures" in ended.err
    listed = clipline("inspect", out, "--failures")
    assert "empty.mp4\tnot_video" in listed.out


def test_options_reach_the_rows(clipline, clips_folder, tiny_recognizer, tmp_path):
    ended = clipline(
        *("run", clips_folder, "-o", tmp_path, "--recognizer", tiny_recognizer, "--frames"),
        *("--embeddings", "--sample-fps", "4", "--clip-seconds", "2", "--reader", "pyav"),
    )

    assert ended.code == 0, ended.err
    clips = pd.read_parquet(tmp_path / "clips")
    assert clips.num_frames.tolist() == [8, 8]
    assert [len(e) for e in clips.embedding] == [8, 8]
    frames = pd.read_parquet(tmp_path / "frames")
    assert frames.frame_index.tolist() == [*range(0, 48, 6)] * 2
    assert set(pd.read_parquet(tmp_path / "videos").decoder) == {"pyav"}


def test_image_sequences_need_a_rate(clipline, tiny_recognizer, tmp_path):
    write_images(tmp_path / "images", range(1, 13))
    command = ("run", tmp_path / "images", "-o", tmp_path / "out", "--recognizer")

    refused = clipline(*command, tiny_recognizer)
    ended = clipline(*command, tiny_recognizer, "--image-fps", "12")

    assert refused.code == USAGE
    assert "--image-fps" in refused.err
    assert ended.code == 0, ended.err
    assert pd.read_parquet(tmp_path / "out" / "clips").end_seconds.tolist() == [1.0]


def test_quiet_prints_nothing(clipline, clips_folder, tiny_recognizer, tmp_path):
    ended = clipline("run", clips_folder, "-o", tmp_path, "--recognizer", tiny_recognizer, "-q")

    assert (ended.code, ended.out, ended.err) == (0, "", "")


def test_files_of_the_user_are_not_touched(clipline, clips_folder, tiny_recognizer, tmp_path, home):
    command = ("run", clips_folder, "-o", tmp_path, "--recognizer", tiny_recognizer)
    clipline(*command, own_server=True)

    assert not (home / ".prefect").exists()
    assert sorted(p.name for p in home.iterdir()) == [".cache", ".local"]


def test_without_a_server_videos_are_still_processed(clips_folder, tiny_recognizer, tmp_path):
    """A database that cannot be made keeps the server from starting."""
    home = tmp_path / "home"
    (home / ".local/state/clipline/prefect/prefect.db").mkdir(parents=True)
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "flows.cli.app", "run", clips_folder, "-o", tmp_path / "out"),
            *("--recognizer", tiny_recognizer),
        ],
        env={**environment(home), "CLIPLINE_SERVER_SECONDS": "3"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    assert "continuing without a run history" in ended.stderr
    assert len(pd.read_parquet(tmp_path / "out" / "clips")) == 4
