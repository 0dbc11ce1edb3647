"""`clipline bench` as a user runs it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from flows.cli import bench
from flows.cli.bench import conclusions
from flows.signals import USAGE
from pipeline.bench.rates import DecodeRate, EngineRate
from pipeline.bench.synthetic import make_video
from pipeline.config import RunOptions, Sampling
from tests.bench.test_rates import FOUND

BENCH = ("bench", "--backbone", "random:test_resnet", "--workers", "1", "--repeats", "1")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A second of generated video."""
    return make_video(tmp_path_factory.mktemp("generated") / "a.mp4", (96, 64), 1.0)


@pytest.mark.slow
def test_a_video_is_measured(clipline, video, tmp_path):
    ended = clipline(*BENCH, video, "--json", "--hours", "2", "--plot", tmp_path / "bars.png")

    assert ended.code == 0, ended.err
    (found,) = ended.json
    assert (found["frames"], found["decoded"], found["cores"]) == (30, 30, 1)
    readers = {rate["reader"] for rate in found["decode"]}
    assert {"decord", "opencv", "pyav"} <= readers
    assert found["efficiency"] == pytest.approx(found["run"] / found["bound"])
    assert found["bound"] < min(found["decode_rate"], found["engine"])
    assert found["hours_for"] == 2
    assert found["hours"] == pytest.approx(
        (30 * 7200 / found["run"] + found["startup_seconds"]) / 3600
    )
    assert "1 videos: decoding with pyav" in ended.err
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")


def test_conclusions_are_rows_of_a_table():
    rows = dict(conclusions(FOUND, 36))

    assert rows["whole run"].startswith("72 frames/s in ")
    assert rows["efficiency"] == "90% of the bound"
    assert rows["share of the engine alone"] == "72%"
    assert rows["share of the fastest reader alone"] == "18%"


def test_a_rate_below_ten_keeps_two_digits():
    """Sparse samples of long videos give such rates."""
    rows = dict(conclusions(replace(FOUND, run=1.84), 36))

    assert rows["whole run"].startswith("1.8 frames/s")


READER = DecodeRate("pyav", 300.0, None)
ENGINE = EngineRate("torch on cpu", "bfloat16", 2.7, None, 0.9, 0.95)


class Stopped(BaseException):
    """Stands for Ctrl-C."""


def interrupted(*parts):
    """Give what is measured of one group, until the command is interrupted."""

    def measure():
        yield from parts
        raise Stopped

    return iter([("three videos", measure())])


class TestInterrupted:
    """What was measured before Ctrl-C is printed."""

    def test_rates_of_parts(self, capsys):
        with pytest.raises(Stopped):
            bench._show_tables(interrupted(READER, ENGINE), 3.0)

        lines = capsys.readouterr().out.splitlines()
        assert "pyav\t300\t-" in lines
        assert "torch on cpu, bfloat16\t2.7\t-\t0.90000\t0.95000" in lines
        assert not any("whole run" in line for line in lines)

    def test_repetitions_of_whole_runs(self, capsys):
        with pytest.raises(Stopped):
            bench._show_tables(interrupted(READER, ENGINE, replace(FOUND, run=60.0), FOUND), 3.0)

        out = capsys.readouterr().out
        assert out.count("whole run") == 1
        assert "whole run\t72 frames/s in float32" in out

    def test_as_json(self, capsys):
        with pytest.raises(Stopped):
            bench._show_json(interrupted(READER, ENGINE), 3.0)

        (found,) = json.loads(capsys.readouterr().out)
        assert found["name"] == "three videos"
        assert found["decode"] == [{"reader": "pyav", "per_core": 300, "all_cores": None}]
        assert found["engines"][0]["rate"] == 2.7

    def test_whole_runs_as_json(self, capsys):
        with pytest.raises(Stopped):
            bench._show_json(interrupted(READER, ENGINE, FOUND), 36.0)

        (found,) = json.loads(capsys.readouterr().out)
        assert (found["run"], found["hours_for"]) == (72, 36)

    def test_without_any_measurement_nothing_is_printed(self, capsys):
        with pytest.raises(Stopped):
            bench._show_json(interrupted(), 3.0)

        assert capsys.readouterr().out == ""


def test_rates_are_printed_as_soon_as_they_are_measured(capsys):
    printed = []

    def measure():
        for part in (READER, ENGINE, FOUND):
            yield part
            printed.append(capsys.readouterr().out)

    found = bench._show_tables([("three videos", measure())], 3.0)

    assert found == [FOUND]
    assert "pyav\t300" in printed[0]
    assert "torch on cpu, bfloat16" in printed[1]
    assert "efficiency" in capsys.readouterr().out


def test_no_group_is_started_after_the_time_limit(tmp_path, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("pipeline.run.load.load_models", lambda options: (None, None))
    monkeypatch.setattr("pipeline.bench.roofline.run_roofline", lambda name, *_: iter([]))
    sizes = ("small", "medium", "large")
    monkeypatch.setattr(bench, "_generate", lambda *_: ((size, []) for size in sizes))
    options = RunOptions(recognizer=None, backbone="none", sampling=Sampling(every=1))

    names = []
    for name, _ in bench.measure_groups([], tmp_path, options, 1, 1.0):
        names.append(name)
        now[0] += 80

    assert names == ["small", "medium"]
    assert "large and larger: not measured" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--case", "startup"], ["--clips", "10"], ["--seconds", "0"]])
def test_other_options_fail(clipline, option):
    assert clipline("bench", *option).code == USAGE
