"""Measurements, and what is derived from them."""

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
    startup_seconds=10.0,
    precision="float32",
)


class TestRoofline:
    def test_the_rate_of_the_reader_is_in_sampled_frames(self):
        assert FOUND.decode_rate == 400  # of 1600 decoded, every fourth is sampled

    def test_on_shared_cores_times_add_up(self):
        assert FOUND.bound == pytest.approx(1 / (1 / 400 + 1 / 100))
        assert FOUND.efficiency == pytest.approx(0.9)

    def test_beside_an_accelerator_the_slower_one_is_the_bound(self):
        assert replace(FOUND, shared=False).bound == 100
        assert replace(FOUND, shared=False, engine=5000.0).bound == 400

    @pytest.mark.parametrize(
        ("shared", "engine", "found"),
        [
            (True, 100.0, "the engine: 80% of the work of the 2 cores"),
            (True, 1600.0, "decoding: 80% of the work of the 2 cores"),
            (False, 100.0, "the engine: 4.0 times slower than the other"),
            (False, 800.0, "decoding: 2.0 times slower than the other"),
        ],
    )
    def test_the_bottleneck_is_described(self, shared, engine, found):
        assert replace(FOUND, shared=shared, engine=engine).bottleneck == found

    def test_predicted_hours_include_the_start(self):
        # two sampled frames a second of video, 72 a second of the run
        assert FOUND.hours(36) == pytest.approx(36 * 2 / 72 + 10 / 3600)

    def test_json_has_derived_values(self):
        found = json.loads(json.dumps(FOUND.to_json()))

        assert found["efficiency"] == pytest.approx(0.9)
        assert found["share_of_engine"] == pytest.approx(0.72)
        assert found["share_of_reader"] == pytest.approx(0.18)
        assert found["decode"][0]["reader"] == "decord"


class TestMeasure:
    def test_rate_and_spread_are_relative_to_the_median(self):
        assert Timed(60, (1.0, 2.0, 6.0)).rate == 30
        assert Timed(60, (1.0, 2.0, 6.0)).spread == 2.5

    @pytest.fixture
    def work(self, monkeypatch):
        """Work whose calls take given seconds of a fake clock; the last one repeats."""
        now = [0.0]
        monkeypatch.setattr(time, "perf_counter", lambda: now[0])

        def make(*seconds):
            left = list(seconds)

            def call():
                call.count += 1
                now[0] += left.pop(0) if len(left) > 1 else left[0]
                return 7

            call.count = 0
            return call

        return make

    def test_short_work_is_repeated_and_the_first_call_is_a_warm_up(self, work):
        short = work(5.0, 0.125)

        found = measure(short, repeats=3, seconds=100.0)

        assert found == Timed(7, (0.125,) * 10)  # 10 times 0.125 s are at least 3 times 0.4 s
        assert short.count == 11

    def test_the_time_limit_has_priority(self, work):
        slow = work(4.0)

        assert measure(slow, repeats=9, seconds=10.0) == Timed(7, (4.0, 4.0))
        assert slow.count == 3

    def test_of_very_slow_work_the_warm_up_is_the_result(self, work):
        very_slow = work(60.0)

        assert measure(very_slow, repeats=3, seconds=10.0) == Timed(7, (60.0,))
        assert very_slow.count == 1
