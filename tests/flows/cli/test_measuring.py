"""Whole commands and runs, timed; and what `bench` makes of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flows.cli import cases
from flows.cli.measuring import Runs, end_command, start_command, time_command, without_prefect
from pipeline.bench.roofline import Ran
from pipeline.config import DecodeOptions, EncodeOptions, RunOptions, Sampling
from pipeline.errors import MachineError
from pipeline.results.tables import load
from pipeline.run.load import load_models
from pipeline.sources.discovery import find_videos
from tests.videos import write_video

FEATURES = RunOptions(
    recognizer=None,
    backbone="random:test_resnet",
    sampling=Sampling(fps=8.0),
    decode=DecodeOptions(workers=1),
    encode=EncodeOptions(precision="float32", device="cpu"),
)


class TestCommands:
    def test_a_command_is_timed(self, tmp_path):
        seconds, said = time_command(["--help"], tmp_path)

        assert "Usage" in said
        assert 0 < seconds < 60

    def test_what_a_command_prints_for_machines_is_read(self, tmp_path):
        _, said = time_command(["recognizers", "--json"], tmp_path)

        assert "camera-motion" in str(said)

    def test_a_command_that_fails_is_told_with_its_words(self, tmp_path):
        process = start_command(["run", str(tmp_path / "nothing"), "-o", str(tmp_path)], tmp_path)

        with pytest.raises(MachineError, match="nothing"):
            end_command(process)


def test_every_run_has_results_of_its_own(api, tmp_path):
    write_video(tmp_path / "a.mp4", 12)
    videos = find_videos([str(tmp_path / "a.mp4")])
    runs = Runs(tmp_path / "runs", FEATURES, without_prefect)

    ran = [runs(videos), runs(videos)]

    assert all(one.seconds > 0 and one.startup_seconds > 0 for one in ran)
    assert [one.precision for one in ran] == ["float32", "float32"]
    assert [(one.frames, one.decoded) for one in ran] == [(4, 12), (4, 12)]
    for number in range(2):
        assert load(tmp_path / "runs" / f"out-{number}", "videos").status.tolist() == ["ok"]


def test_jobs_take_turns_every_second_time_backwards():
    class Ran:
        def __init__(self, seconds):
            self.seconds = seconds

    asked, left = [], {"a": [1.0, 9.0, 2.0], "b": [5.0, 4.0, 6.0]}

    def job(name):
        return lambda videos: asked.append((name, videos)) or Ran(left[name].pop(0))

    found = cases._in_turn(3, [(job("a"), ["x"]), (job("b"), ["y"])])

    a, b = ("a", ["x"]), ("b", ["y"])
    assert asked == [a, b, b, a, a, b]
    assert found == [[1.0, 5.0], [9.0, 4.0], [2.0, 6.0]]


def test_recognizers_that_are_measured_read_the_backbone_as_asked(tmp_path, monkeypatch):
    opened = []

    class Loads:
        def __init__(self, folder, options, run):
            self.options = options

        def __call__(self, videos):
            opened.append(load_models(self.options)[1])
            return Ran((12.0, 3.0, 1.0, 2.0)[len(opened) - 1], 0.0, "float32", 0, 0)

    monkeypatch.setattr(cases, "Runs", Loads)

    assert cases._reuse(tmp_path, replace(FEATURES, tap="layer2", grid=2), [], 3) == (12.0, 2.0)
    assert [backbone.feature_size for backbone in opened] == [2 * 2 * 48] * 4


@pytest.mark.slow
class TestCases:
    """The cases of `bench`, in small."""

    @pytest.fixture(autouse=True)
    def _own_cache(self, api, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def test_a_start_is_told_part_by_part(self, tmp_path):
        found = cases.startup([], tmp_path, 1)

        assert found["videos"] == 3
        assert 0 < found["help_seconds"] < found["run_seconds"]
        parts = found["timings_seconds"]["startup"]
        assert {"interpreter", "imports", "engine", "waiting for the API"} <= set(parts)

    def test_scale(self, tmp_path):
        found = cases.scale(tmp_path, FEATURES, 20, 1)

        assert (found["clips"], found["few_clips"], found["clips_growth"]) == (20, 2, 10)
        assert found["growth"] == found["flow_seconds"] / found["few_seconds"]
        share = 1 - found["without_prefect_seconds"] / found["flow_seconds"]
        assert found["prefect_share"] == pytest.approx(share)
        assert found["reuse"] > 0

    def test_a_long_video_has_the_rows_of_one_that_is_not_cut(self, tmp_path):
        found = cases.long(0.02, tmp_path, tmp_path / "memory.png")

        assert found["rows"]["equal"] is True
        assert 0 < found["peak_gib"] < cases.LONG_LIMIT_GIB
        assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")
