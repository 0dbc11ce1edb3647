"""Which parts are measured in turn, on which videos, and what follows."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from pipeline.bench import roofline
from pipeline.bench.decoding import DecodeWork
from pipeline.bench.encoding import EncodeWork
from pipeline.bench.rates import DecodeRate, EngineRate, Roofline
from pipeline.bench.roofline import BenchConfig, RunTiming, run_roofline, spread
from pipeline.config import EncodeOptions, Sampling
from pipeline.errors import SourceError
from pipeline.run.choose_precision import EngineFactory
from pipeline.sources.discovery import find_videos

PYAV = DecodeRate("pyav", 300.0, 600.0)
ENGINE = EngineRate("torch on cpu", "float32", 40.0, 50.0, 1.0, 1.0)


@pytest.fixture
def config(backbone, one_worker, engine_cache, monkeypatch):
    """Everything but the rates is real."""
    encode = EncodeOptions(device="cpu", precision="float32", batch_size=8)
    engines = EngineFactory(backbone, encode, engine_cache)
    monkeypatch.setattr(roofline, "READERS", ["pyav"])
    monkeypatch.setattr(roofline, "measure_reader", lambda *_: PYAV)
    monkeypatch.setattr(roofline, "candidates", lambda factory: [factory.make("float32")])
    monkeypatch.setattr(roofline, "EngineMeasurement", lambda *_: lambda engine: ENGINE)
    return BenchConfig(engines, Sampling(every=2), one_worker, repeats=3, seconds=60.0)


class FakeRuns:
    """Stands in for whole runs, which take given seconds."""

    def __init__(self, *seconds):
        self.seconds, self.videos = list(seconds), []

    def __call__(self, videos):
        self.videos.append(videos)
        return RunTiming(self.seconds[len(self.videos) - 1], 1.5, "float32", 80, 160)


def measure(name, clips, config, run):
    """Return everything that is measured."""
    return list(run_roofline(name, clips, config, run))


def test_rates_follow_from_the_frames_of_runs(config, clips):
    """Not from what containers claim."""
    run = FakeRuns(99, 2, 1, 4)

    *_, found = measure("three", clips, config, run)

    assert (found.name, found.videos, found.cores, found.shared) == ("three", 3, 1, True)
    assert (found.frames, found.decoded, found.video_seconds) == (80, 160, pytest.approx(6))
    assert found.decode_rate == found.reader / 2 > 0  # every second frame is sampled
    assert found.run == 40  # the median of all but the first, which warms up
    assert found.run_spread == 1.5
    assert (found.startup_seconds, found.precision) == (1.5, "float32")
    assert found.engine > 0
    assert run.videos == [clips] * 4


def test_each_rate_is_given_as_soon_as_it_is_measured(config, clips):
    found = measure("three", clips, config, FakeRuns(99, 2, 1, 4))

    assert found[:2] == [PYAV, ENGINE]
    assert [type(one) for one in found[2:]] == [Roofline] * 3
    assert [one.run for one in found[2:]] == [40, 80 / 1.5, 40]  # medians so far


def test_it_reports_what_is_measured_next(config, clips):
    lines = []

    measure("three", clips, replace(config, report=lines.append), FakeRuns(1, 1, 1, 1))

    assert "three: decoding with pyav" in lines
    assert "three: encoding with openvino on cpu in float32" in lines
    assert lines[-1] == "three: reader, engine and whole run in turn, 3 of 3"


def test_all_parts_are_measured_in_turn(config, clips, monkeypatch):
    order = []
    run = FakeRuns(1, 1, 1, 1)
    kinds = {DecodeWork: "reader", EncodeWork: "engine"}
    monkeypatch.setattr(roofline, "seconds_of", lambda work: order.append(kinds[type(work)]) or 0.5)

    *_, found = measure("three", clips, config, lambda videos: order.append("run") or run(videos))

    assert order == ["run", *3 * ["reader", "engine", "run"]]
    assert found.reader == 180 / 0.5


def test_repetitions_end_with_the_time_limit(config, clips, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(roofline, "encode_work", lambda *_: lambda: 9)
    monkeypatch.setattr(roofline, "seconds_of", lambda work: 0.5)
    monkeypatch.setattr("pipeline.bench.decoding.find_share", lambda *_: 1.0)
    run = FakeRuns(*[200] * 4)

    def slow_run(videos):
        now[0] += 200  # the limit is 6 times 60 s
        return run(videos)

    found = measure("three", clips, config, slow_run)

    assert len(run.videos) == 2  # a warm-up, and one repetition
    assert len([one for one in found if isinstance(one, Roofline)]) == 1


def test_the_fastest_reader_is_measured_in_turn(config, clips, monkeypatch):
    chosen = []
    rates = {
        "auto": DecodeRate("auto", 1.0, 2.0),
        "opencv": DecodeRate("opencv", 1.0, None),  # refused a video
        "pyav": DecodeRate("pyav", 2.0, 30.0),
    }
    real = roofline.decode_work
    monkeypatch.setattr(roofline, "READERS", list(rates))
    monkeypatch.setattr(roofline, "measure_reader", lambda reader, *_: rates[reader])
    monkeypatch.setattr(
        roofline,
        "decode_work",
        lambda jobs, options, seconds: chosen.append(options) or real(jobs, options, seconds),
    )

    measure("three", clips, config, FakeRuns(1, 1, 1, 1))

    assert chosen == [replace(config.decode, reader="pyav")]


def test_of_many_videos_some_spread_over_all_are_decoded(config, clips, monkeypatch):
    seen = []
    monkeypatch.setattr(roofline, "MAX_VIDEOS", 2)
    monkeypatch.setattr(roofline, "measure_reader", lambda _, jobs, *__: seen.append(jobs) or PYAV)

    *_, found = measure("three", clips, config, FakeRuns(1, 1, 1, 1))

    assert [chunk.video for chunk in seen[0].chunks] == [clips[0], clips[2]]
    assert (found.videos, found.frames) == (3, 80)  # of all


@pytest.mark.parametrize(("seconds", "count"), [(0.1, 1), (1.0, 2), (2.0, 3)])
def test_as_many_videos_are_run_as_time_allows(config, clips, seconds, count):
    """A run over all takes 90 / 40 + 180 / 600 s; twice the time limit is allowed."""
    run = FakeRuns(*[1.0] * 4)

    *_, found = measure("three", clips, replace(config, seconds=seconds), run)

    assert found.videos == len(run.videos[0]) == count
    assert found.video_seconds == pytest.approx(2 * count)


def test_spread():
    assert spread([1, 2, 3, 4, 5], 2) == (1, 4)
    assert spread([1, 2, 3], 3) == (1, 2, 3)
    assert spread([], 3) == ()


def test_videos_without_a_frame_fail(config, tmp_path):
    (tmp_path / "a.mp4").write_text("no video")

    with pytest.raises(SourceError, match="nothing to measure: no frame of bad can be decoded"):
        measure("bad", find_videos([str(tmp_path)]), config, FakeRuns())
