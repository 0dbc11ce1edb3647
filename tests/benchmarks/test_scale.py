"""Runs over many clips: order of the measurements, and what is computed from them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.bench.roofline import RunTiming
from pipeline.config import DecodeOptions, EncodeOptions, RunOptions, Sampling
from pipeline.run.load import load_models
from tests.benchmarks import scale
from tests.benchmarks.scale import measure_reuse, measure_scale, run_in_turn

OPTIONS = RunOptions(
    recognizer=None,
    backbone="random:test_resnet",
    sampling=Sampling(fps=8.0),
    decode=DecodeOptions(workers=1),
    encode=EncodeOptions(precision="float32", device="cpu"),
)


def timing(seconds):
    return RunTiming(seconds, 0.0, "float32", 0, 0)


def test_jobs_run_in_turn_every_second_time_in_reverse_order():
    calls, left = [], {"a": [1.0, 9.0, 2.0], "b": [5.0, 4.0, 6.0]}

    def job(name):
        return lambda videos: calls.append((name, videos)) or timing(left[name].pop(0))

    found = run_in_turn(3, [(job("a"), ["x"]), (job("b"), ["y"])])

    a, b = ("a", ["x"]), ("b", ["y"])
    assert calls == [a, b, b, a, a, b]
    assert found == [[1.0, 5.0], [9.0, 4.0], [2.0, 6.0]]


def test_recognizers_read_the_backbone_with_the_given_options(tmp_path, monkeypatch):
    opened = []

    class FakeRuns:
        def __init__(self, folder, options):
            self.options = options

        def __call__(self, videos):
            opened.append(load_models(self.options)[1])
            return timing((12.0, 3.0, 1.0, 2.0)[len(opened) - 1])

    monkeypatch.setattr(scale, "TimedRuns", FakeRuns)

    assert measure_reuse(tmp_path, replace(OPTIONS, tap="layer2", grid=2), [], 3) == (12.0, 2.0)
    assert [backbone.feature_size for backbone in opened] == [2 * 2 * 48] * 4


@pytest.mark.slow
def test_ratios_follow_from_the_seconds(api, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    found = measure_scale(tmp_path, OPTIONS, 20, 1)

    assert (found["clips"], found["few_clips"], found["clips_growth"]) == (20, 2, 10)
    assert found["growth"] == found["flow_seconds"] / found["few_seconds"]
    share = 1 - found["without_prefect_seconds"] / found["flow_seconds"]
    assert found["prefect_share"] == pytest.approx(share)
    assert found["reuse"] > 0
