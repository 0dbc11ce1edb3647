"""Decoders, engines and the naive loop, each measured alone on drawn videos."""

from __future__ import annotations

import pytest

from pipeline.bench import encoding, naive, rates
from pipeline.bench.decoding import READERS, decoded_frames, measure_decoding, plan_jobs
from pipeline.bench.encoding import Frames, measure_engines
from pipeline.bench.naive import NaiveLoop
from pipeline.bench.roofline import Ran, Setup, survey
from pipeline.config import DecodeOptions, EncodeOptions, Sampling
from pipeline.encode.backbone import load_backbone
from pipeline.errors import SourceError
from pipeline.opening import Workbench
from pipeline.sources import find_videos
from tests.videos import write_video

pytestmark = pytest.mark.slow  # some fail on a busy machine: see the changelog

ONE = DecodeOptions(workers=1)
EVERY = Sampling(every=1)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "a.mp4", 20)
    write_video(folder / "b.mp4", 12, first=100)
    (folder / "text.mp4").write_text("no video")
    return find_videos([str(folder)])


@pytest.fixture(scope="module")
def workbench(engine_cache):
    backbone = load_backbone("random:test_resnet")
    return Workbench(backbone, EncodeOptions(device="cpu"), engine_cache)


@pytest.fixture
def jobs(videos, workbench):
    return plan_jobs(videos, EVERY, workbench.backbone.geometry, ONE)


@pytest.fixture(autouse=True)
def _briefly(monkeypatch):
    monkeypatch.setattr(rates, "LEAST_SECONDS", 0.0)


class TestDecoding:
    def test_jobs_are_what_can_be_read(self, jobs):
        assert [segment.stop for segment in jobs.segments] == [20, 12]
        assert jobs.frames == 32

    def test_every_reader_is_measured(self, jobs):
        found = list(measure_decoding(jobs, ONE, repeats=1))

        assert (
            [rate.reader for rate in found]
            == list(READERS)
            == [
                "auto",
                "decord",
                "opencv",
                "pyav",
            ]
        )
        assert all(rate.per_core > 0 and rate.all_cores > 0 for rate in found)

    def test_a_reader_that_gives_way_to_another_has_no_rate(self, tmp_path, workbench):
        write_video(tmp_path / "a.mp4", 8, codec="ffv1", container="matroska")
        jobs = plan_jobs(find_videos([str(tmp_path)]), EVERY, workbench.backbone.geometry, ONE)

        found = {rate.reader: rate for rate in measure_decoding(jobs, ONE, repeats=1)}

        assert found["pyav"].per_core
        assert found["auto"].per_core

    @pytest.mark.parametrize(("most", "counts"), [(5, [5]), (25, [20, 5]), (99, [20, 12])])
    def test_frames_are_kept_up_to_a_number(self, jobs, most, counts):
        batches = decoded_frames(jobs, most, ONE)

        assert [len(batch.pictures) for batch in batches] == counts


class TestEngines:
    def test_each_is_held_against_torch_in_float32(self, jobs, workbench):
        frames = Frames(tuple(decoded_frames(jobs, 8, ONE)))

        reference, *others = measure_engines(workbench, frames, repeats=1)

        assert (reference.engine, reference.precision) == ("torch on cpu", "float32")
        assert reference.cosine_min == pytest.approx(1)
        assert {"float32", "bfloat16"} == {rate.precision for rate in others}
        assert all(rate.cosine_min > 0.99 for rate in others)
        assert all(rate.rate > 0 and rate.network > 0 for rate in (reference, *others))

    def test_the_first_frames_are_taken(self, jobs):
        frames = Frames(tuple(decoded_frames(jobs, 32, ONE)))

        assert frames.first(25).count == 25
        assert frames.first(99).count == frames.count == 32

    def test_measuring_leaves_the_network_as_it_was(self, jobs, workbench):
        before = workbench.backbone.module
        list(encoding.candidates(workbench))

        weight = next(p for p in before.parameters() if p.ndim == 4)
        assert weight.is_contiguous()


class TestNaive:
    def test_it_encodes_every_frame(self, jobs, workbench):
        assert NaiveLoop(workbench.backbone, jobs.segments, stride=1, most=99)() == 32

    def test_it_takes_as_many_as_are_sampled(self, jobs, workbench):
        assert NaiveLoop(workbench.backbone, jobs.segments, stride=4, most=99)() == 5 + 3

    def test_it_stops_after_so_many(self, jobs, workbench, monkeypatch):
        monkeypatch.setattr(naive, "BATCH", 4)

        assert NaiveLoop(workbench.backbone, jobs.segments, stride=1, most=22)() == 22


class TestSurvey:
    def test_parts_and_runs_are_measured_together(self, videos, workbench):
        ran = []

        def run(given):
            ran.append(given)
            return Ran(seconds=0.5, startup_seconds=2.0, precision="float32")

        found = survey("drawn", videos, Setup(workbench, EVERY, ONE, repeats=2), run)

        assert ran == 3 * [videos]  # once unmeasured
        assert (found.videos, found.frames, found.decoded) == (3, 32, 32)
        assert found.video_seconds == pytest.approx(32 / 30, abs=0.01)
        assert found.run == 64
        assert found.startup_seconds == 2
        assert found.engine > 0
        assert 0 < found.floor < found.engine

    def test_videos_without_a_frame_fail(self, tmp_path, workbench):
        (tmp_path / "text.mp4").write_text("no video")
        videos = find_videos([str(tmp_path)])
        with pytest.raises(SourceError, match="no frame of nothing can be decoded"):
            survey("nothing", videos, Setup(workbench, EVERY, ONE), lambda given: None)
