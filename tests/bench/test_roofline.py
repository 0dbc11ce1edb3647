"""A survey: what is measured in turn, on which videos, and what becomes of the figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.bench import roofline
from pipeline.bench.decoding import Decoding
from pipeline.bench.encoding import Encoding
from pipeline.bench.naive import NaiveLoop
from pipeline.bench.rates import DecodeRate, EngineRate
from pipeline.bench.roofline import Ran, Setup, survey
from pipeline.config import EncodeOptions, Sampling
from pipeline.errors import SourceError
from pipeline.run.choose_precision import EngineFactory
from pipeline.sources.discovery import find_videos


@pytest.fixture
def setup(backbone, one_worker, engine_cache, monkeypatch):
    """Everything but the rates is real."""
    encode = EncodeOptions(device="cpu", precision="float32", batch_size=8)
    bench = EngineFactory(backbone, encode, engine_cache)
    decode = [DecodeRate("pyav", 300.0, 600.0)]
    engines = [EngineRate("torch on cpu", "float32", 40.0, 50.0, 1.0, 1.0)]
    monkeypatch.setattr(roofline, "measure_decoding", lambda *_: iter(decode))
    monkeypatch.setattr(roofline, "measure_engines", lambda *_: iter(engines))
    return Setup(bench, Sampling(every=2), one_worker, repeats=3)


class Running:
    """Stands in for whole runs."""

    def __init__(self, *seconds):
        self.seconds, self.videos = list(seconds), []

    def __call__(self, videos):
        self.videos.append(videos)
        return Ran(self.seconds[len(self.videos) - 1], 1.5, "float32", frames=80, decoded=160)


def test_a_survey_counts_what_runs_gave(setup, clips):
    """Not what containers promise."""
    run = Running(99, 2, 1, 4)

    found = survey("three", clips, setup, run)

    assert (found.name, found.videos, found.cores, found.shared) == ("three", 3, 1, True)
    assert (found.frames, found.decoded, found.video_seconds) == (80, 160, pytest.approx(6))
    assert found.decode_rate == found.reader / 2 > 0  # every second frame is sampled
    assert found.run == 40  # the median of all but the first, which warms up
    assert found.run_spread == 1.5
    assert (found.startup_seconds, found.precision) == (1.5, "float32")
    assert found.naive > 0
    assert found.engine > 0
    assert run.videos == [clips] * 4


def test_all_that_is_compared_takes_turns(setup, clips, monkeypatch):
    order = []
    run = Running(1, 1, 1, 1)
    kinds = {Decoding: "reader", Encoding: "engine", NaiveLoop: "naive"}
    monkeypatch.setattr(roofline, "seconds_of", lambda work: order.append(kinds[type(work)]) or 0.5)

    found = survey("three", clips, setup, lambda videos: order.append("run") or run(videos))

    assert order == ["run", *3 * ["reader", "engine", "naive", "run"]]
    assert found.reader == 180 / 0.5


def test_the_fastest_reader_takes_turns_with_the_run(setup, clips, monkeypatch):
    chosen = []
    rates = [
        DecodeRate("auto", 1.0, 2.0),
        DecodeRate("opencv", 1.0, None),  # gave way to another
        DecodeRate("pyav", 2.0, 3.0),
    ]
    take = roofline.decoding
    monkeypatch.setattr(roofline, "measure_decoding", lambda *_: iter(rates))
    monkeypatch.setattr(
        roofline, "decoding", lambda jobs, options: chosen.append(options) or take(jobs, options)
    )

    survey("three", clips, setup, Running(1, 1, 1, 1))

    assert chosen == [replace(setup.decode, reader="pyav")]


def test_of_many_videos_some_spread_over_all_are_decoded(setup, clips, monkeypatch):
    seen = []
    monkeypatch.setattr(roofline, "MOST_VIDEOS", 2)
    monkeypatch.setattr(
        roofline,
        "measure_decoding",
        lambda jobs, *_: seen.append(jobs) or [DecodeRate("pyav", 1.0, 1.0)],
    )

    found = survey("three", clips, setup, Running(1, 1, 1, 1))

    assert [chunk.video for chunk in seen[0].chunks] == [clips[0], clips[2]]
    assert (found.videos, found.frames) == (3, 80)  # of all


def test_videos_without_a_frame_fail(setup, tmp_path):
    (tmp_path / "a.mp4").write_text("no video")

    with pytest.raises(SourceError, match="nothing to measure: no frame of bad can be decoded"):
        survey("bad", find_videos([str(tmp_path)]), setup, Running())
