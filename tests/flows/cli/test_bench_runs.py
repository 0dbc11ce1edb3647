"""Whole runs are timed, each with its own results."""

from __future__ import annotations

from flows.cli.bench_runs import TimedRuns
from pipeline.config import DecodeOptions, EncodeOptions, RunOptions, Sampling
from pipeline.results.tables import load
from pipeline.sources.discovery import find_videos
from tests.videos import write_video

OPTIONS = RunOptions(
    recognizer=None,
    backbone="random:test_resnet",
    sampling=Sampling(fps=8.0),
    decode=DecodeOptions(workers=1),
    encode=EncodeOptions(precision="float32", device="cpu"),
)


def test_every_run_has_results_of_its_own(api, tmp_path):
    write_video(tmp_path / "a.mp4", 12)
    videos = find_videos([str(tmp_path / "a.mp4")])
    runs = TimedRuns(tmp_path / "runs", OPTIONS)

    timings = [runs(videos), runs(videos)]

    assert all(one.seconds > 0 and one.startup_seconds > 0 for one in timings)
    assert [one.precision for one in timings] == ["float32", "float32"]
    assert [(one.frames, one.decoded) for one in timings] == [(4, 12), (4, 12)]
    for number in range(2):
        assert load(tmp_path / "runs" / f"out-{number}", "videos").status.tolist() == ["ok"]
