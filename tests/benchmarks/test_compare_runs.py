"""Rows of two runs are compared."""

from __future__ import annotations

import shutil

import pytest

from pipeline.config import ClipWindows, DecodeOptions, RunOptions, ShardOptions
from pipeline.run.process import process_videos
from tests.benchmarks.compare_runs import compare_runs
from tests.videos import write_video


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_recognizer):
    folder = tmp_path_factory.mktemp("same")
    video = str(write_video(folder / "a.mp4", 110, gop=10))

    def process(name, **options):
        given = {"recognizer": str(tiny_recognizer), "decode": DecodeOptions(workers=1)}
        process_videos([video], folder / name, RunOptions(**given, **options))
        return folder / name

    return process


def test_a_video_in_chunks_has_the_rows_of_the_whole(run):
    found = compare_runs(run("whole"), run("chunks", shards=ShardOptions(max_frames=9)))

    assert found["equal"]
    assert found["score_difference"] < 1e-4
    assert found["clips"] == 4
    assert found["segments"] > 0


def test_other_clips_are_not_equal(run):
    found = compare_runs(run("whole"), run("other", clips=ClipWindows(0.5)))

    assert not found["equal"]


def test_the_same_folder_is_equal(run, tmp_path):
    whole = run("whole")
    shutil.copytree(whole, tmp_path / "copy")

    assert compare_runs(whole, tmp_path / "copy")["score_difference"] == 0
