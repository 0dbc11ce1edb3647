"""What follows from what was measured."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest

from pipeline.bench.rates import DecodeRate, EngineRate, Roofline, Timed, measure

FOUND = Roofline(
    name="two videos",
    videos=2,
    frames=100,
    decoded=400,
    video_seconds=50.0,
    cores=2,
    shared=True,
    decode=(DecodeRate("decord", 900, 1600), DecodeRate("pyav", 500, 1000)),
    engines=(EngineRate("openvino on cpu", "float32", 100, 120, 1.0, 1.0),),
    reader=1600.0,
    engine=100.0,
    run=72.0,
    run_spread=0.02,
    naive=6.0,
    startup_seconds=10.0,
    precision="float32",
)


class TestRoofline:
    def test_the_reader_counts_in_sampled_frames(self):
        assert FOUND.decode_rate == 400  # of 1600 decoded, every fourth is sampled

    def test_on_shared_cores_times_add_up(self):
        assert FOUND.floor == pytest.approx(1 / (1 / 400 + 1 / 100))
        assert FOUND.efficiency == pytest.approx(0.9)

    def test_beside_an_accelerator_the_slower_one_bounds(self):
        assert replace(FOUND, shared=False).floor == 100
        assert replace(FOUND, shared=False, engine=5000.0).floor == 400

    @pytest.mark.parametrize(
        ("shared", "engine", "said"),
        [
            (True, 100.0, "the engine: 80% of the work of the 2 cores"),
            (True, 1600.0, "decoding: 80% of the work of the 2 cores"),
            (False, 100.0, "the engine: 4.0 times slower than the other"),
            (False, 800.0, "decoding: 2.0 times slower than the other"),
        ],
    )
    def test_the_bottleneck_is_told(self, shared, engine, said):
        assert replace(FOUND, shared=shared, engine=engine).bottleneck == said

    def test_hours_are_predicted_start_included(self):
        # two sampled frames a second of video, 72 a second of the run
        assert FOUND.hours(36) == pytest.approx(36 * 2 / 72 + 10 / 3600)

    def test_it_is_plain_json_with_what_follows(self):
        said = json.loads(json.dumps(FOUND.to_json()))

        assert said["efficiency"] == pytest.approx(0.9)
        assert said["share_of_engine"] == pytest.approx(0.72)
        assert said["share_of_reader"] == pytest.approx(0.18)
        assert said["times_naive"] == pytest.approx(12)
        assert said["decode"][0]["reader"] == "decord"


class TestMeasure:
    def test_the_median_counts(self):
        assert Timed(60, (1.0, 2.0, 6.0)).rate == 30
        assert Timed(60, (1.0, 2.0, 6.0)).spread == 2.5

    def test_short_work_is_repeated_and_the_first_is_not_counted(self, monkeypatch):
        now, calls = [0.0], []
        monkeypatch.setattr(time, "perf_counter", lambda: now[0])

        def work():
            now[0] += 5.0 if not calls else 0.125
            calls.append(1)
            return 7

        found = measure(work, repeats=3)

        assert found.rate == pytest.approx(56)
        assert found.frames == 7 * 4  # four times 0.125 s are at least 0.4 s
        assert len(calls) == 2 + 3 * 4
