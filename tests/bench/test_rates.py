"""What follows from measured rates, by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pipeline.bench import rates
from pipeline.bench.rates import DecodeRate, EngineRate, Roofline, Timed, measure

FOUND = Roofline(
    name="drawn",
    videos=2,
    frames=1000,
    decoded=1000,
    video_seconds=100.0,
    cores=2,
    shared=True,
    decode=(
        DecodeRate("decord", 300.0, 600.0),
        DecodeRate("opencv", 250.0, 400.0),
        DecodeRate("pyav", None, None),
    ),
    engines=(EngineRate("torch on cpu", "float32", 40.0, 50.0, 1.0, 1.0),),
    engine=200.0,
    run=120.0,
    run_spread=0.1,
    naive=10.0,
    startup_seconds=6.0,
    precision="float32",
)
"""Two cores decode a frame in 1/600 s, and encode it in 1/200 s."""


class Clock:
    """A clock that only work moves on."""

    def __init__(self, *steps):
        self.now, self.steps = 0.0, list(steps)

    def perf_counter(self):
        return self.now

    def work(self):
        self.now += self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        return 10


class TestTimed:
    def test_the_rate_is_that_of_the_median(self):
        assert Timed(30, (1.0, 2.0, 10.0)).rate == 15

    def test_the_spread_is_a_share_of_the_median(self):
        assert Timed(30, (1.0, 2.0, 3.0)).spread == 1


class TestMeasure:
    def test_the_first_call_is_not_counted(self, monkeypatch):
        clock = Clock(100.0, 1.0)
        monkeypatch.setattr(rates, "time", clock)

        assert measure(clock.work, 3) == Timed(10, (1.0, 1.0, 1.0))

    def test_what_takes_next_to_no_time_is_done_often(self, monkeypatch):
        clock = Clock(0.125)
        monkeypatch.setattr(rates, "time", clock)

        found = measure(clock.work, 2)

        assert found == Timed(40, (0.5, 0.5))
        assert found.rate == 80


class TestFloor:
    def test_on_shared_cores_times_add_up(self):
        assert FOUND.floor == pytest.approx(150)  # 1 / (1/600 + 1/200)

    def test_on_a_device_of_its_own_the_slower_part_counts(self):
        assert replace(FOUND, shared=False).floor == pytest.approx(200)
        assert replace(FOUND, shared=False, engine=5000.0).floor == pytest.approx(600)

    def test_it_takes_the_fastest_reader_that_reads_the_videos(self):
        without_decord = (DecodeRate("decord", None, None), *FOUND.decode[1:])

        assert FOUND.decode_rate == 600
        assert replace(FOUND, decode=without_decord).decode_rate == 400

    def test_frames_that_are_decoded_for_nothing_cost_as_much(self):
        assert replace(FOUND, decoded=4000).decode_rate == 150

    def test_efficiency_is_the_share_that_a_run_makes_of_it(self):
        assert FOUND.efficiency == pytest.approx(0.8)


class TestBottleneck:
    def test_on_shared_cores_it_is_a_share_of_their_work(self):
        assert FOUND.bottleneck == "the engine: 75% of the work of the 2 cores"
        assert replace(FOUND, engine=1800.0).bottleneck == (
            "decoding: 75% of the work of the 2 cores"
        )

    def test_on_a_device_of_its_own_it_is_compared_with_the_other(self):
        alone = replace(FOUND, shared=False)

        assert alone.bottleneck == "the engine: 3.0 times slower than the other"
        assert replace(alone, engine=1500.0).bottleneck == (
            "decoding: 2.5 times slower than the other"
        )


class TestHours:
    def test_they_are_those_of_the_frames_and_of_one_start(self):
        # 36,000 frames at 120 a second are 300 seconds, and the start 6
        assert FOUND.hours(1.0) == pytest.approx(306 / 3600)

    def test_twice_the_video_has_one_start_too(self):
        assert FOUND.hours(2.0) == pytest.approx(606 / 3600)


class TestJson:
    def test_it_tells_what_was_measured_and_what_follows(self):
        said = json.loads(json.dumps(FOUND.to_json()))

        assert said["decode"][2] == {"reader": "pyav", "per_core": None, "all_cores": None}
        assert said["engines"][0]["network"] == 50
        assert said["floor"] == pytest.approx(150)
        assert said["efficiency"] == pytest.approx(0.8)
        assert said["share_of_engine"] == pytest.approx(0.6)
        assert said["times_naive"] == pytest.approx(12)
        assert said["bottleneck"].startswith("the engine")

    def test_without_the_naive_loop_nothing_is_compared_with_it(self):
        assert replace(FOUND, naive=None).to_json()["times_naive"] is None
