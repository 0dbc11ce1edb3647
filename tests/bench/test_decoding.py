"""Decoding alone: which frames are decoded, by which reader, and how rates are measured."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.bench import decoding
from pipeline.bench.decoding import (
    READERS,
    decode_frames,
    decode_work,
    find_share,
    measure_reader,
    plan_jobs,
)
from pipeline.bench.rates import DecodeRate, Timed
from pipeline.config import DecodeOptions, Sampling
from pipeline.decode.process_pool import DecodePool
from pipeline.sources.discovery import find_videos

EVERY = Sampling(every=1)


@pytest.fixture(scope="module")
def jobs(clips, backbone, one_worker):
    return plan_jobs(clips, EVERY, backbone.geometry, one_worker)


class TestPlan:
    def test_jobs_are_whole_videos(self, jobs):
        assert [(s.start, s.stop, s.num_samples) for s in jobs.chunks] == [(0, 60, 60)] * 3
        assert jobs.frames == 180

    def test_only_sampled_frames_count(self, clips, backbone, one_worker):
        assert plan_jobs(clips, Sampling(fps=5), backbone.geometry, one_worker).frames == 30

    def test_unreadable_videos_are_left_out(self, clips, backbone, one_worker, tmp_path):
        (tmp_path / "a.mp4").write_text("no video")
        (tmp_path / "b.mp4").symlink_to(clips[0].location)

        found = find_videos([str(tmp_path)])
        planned = plan_jobs(found, EVERY, backbone.geometry, one_worker)

        assert [chunk.video for chunk in planned.chunks] == found[1:]

    def test_of_long_videos_the_beginning_is_measured(
        self, clips, backbone, one_worker, monkeypatch
    ):
        image_bytes = 160 * 96 * 3
        monkeypatch.setattr(decoding, "MAX_BYTES", 20 * image_bytes)
        monkeypatch.setattr(decoding, "decoded_size", lambda height, width, _: (height, width))

        planned = plan_jobs(clips, EVERY, backbone.geometry, one_worker)

        assert [chunk.stop for chunk in planned.chunks] == [20, 20, 20]


class TestMeasure:
    def test_every_reader_is_measured_on_one_core_and_on_all(self, jobs, one_worker, monkeypatch):
        monkeypatch.setattr("pipeline.bench.rates.MIN_SECONDS", 1e-9)

        found = [measure_reader(reader, jobs, one_worker, 1, 60.0) for reader in READERS]

        assert (
            [rate.reader for rate in found] == list(READERS) == ["auto", "decord", "opencv", "pyav"]
        )
        assert all(rate.per_core > 0 and rate.all_cores > 0 for rate in found)

    def test_each_process_decodes_every_video(self, jobs):
        """Otherwise a core would be idle while the last video is decoded."""
        options = DecodeOptions(workers=2, reader="pyav")
        with DecodePool(options) as pool:
            decoding.warm_up(pool)
            work = decoding.DecodeWork(jobs, pool, copies=2)

            assert len(pool.pids()) == 2
            assert work() == 360
            assert {report.decoder for report in work.reports} == {"pyav"}

    @pytest.mark.parametrize(("seconds", "stops"), [(1e-9, [1, 1, 1]), (1e9, [60, 60, 60])])
    def test_as_much_of_each_video_is_decoded_as_time_allows(
        self, jobs, one_worker, seconds, stops
    ):
        with decode_work(jobs, one_worker, seconds) as work:
            assert [chunk.stop for chunk in work.jobs.chunks] == stops

    def test_a_reader_that_refuses_a_video_has_no_rate(self, jobs, one_worker, monkeypatch):
        measured = Timed(10, (0.5,))
        given = {("decord", 1): None, ("pyav", 1): measured}
        monkeypatch.setattr(
            decoding, "_measure", lambda _, options, *__: given[options.reader, options.workers]
        )

        assert measure_reader("decord", jobs, one_worker, 1, 60.0) == DecodeRate(
            "decord", None, None
        )
        assert measure_reader("pyav", jobs, one_worker, 1, 60.0) == DecodeRate("pyav", 20, 20)


class TestShare:
    @pytest.fixture
    def decode(self, jobs, monkeypatch):
        """Find the share of videos whose frames each take a given time; also returns all calls."""
        calls = []

        def find(seconds_per_frame, seconds, min_decoded=0):
            monkeypatch.setattr(decoding, "MIN_DECODED_FRAMES", min_decoded)
            monkeypatch.setattr(decoding, "seconds_of", lambda frames: seconds_per_frame * frames)

            def make(part):
                calls.append(part.frames)
                return part.frames

            return find_share(jobs, make, seconds), calls

        return find

    def test_fast_readers_decode_everything(self, decode):
        assert decode(0.001, 10.0) == (1.0, [3, 12, 45, 180])

    def test_slow_readers_decode_what_fits(self, decode):
        share, calls = decode(0.1, 6.0)

        assert calls == [3, 12, 45]
        assert share == pytest.approx(6.0 / 4.5 / 4)

    def test_not_too_few_frames_are_decoded(self, decode):
        assert decode(0.1, 6.0, min_decoded=90) == (0.5, [90])
        assert decode(0.1, 3.0, min_decoded=90)[0] == 0.5
        assert decode(0.1, 0.1, min_decoded=90)[0] == pytest.approx(4 * 0.5 * 0.1 / 9.0)

    def test_very_slow_readers_stop_at_once(self, decode):
        share, calls = decode(10.0, 1.0)

        assert calls == [3]
        assert share < 1 / 64


class TestDecodeFrames:
    def test_all_are_kept_where_they_are_few(self, jobs, one_worker):
        batches = decode_frames(jobs, 1000, one_worker)

        assert [batch.sample_index.tolist() for batch in batches] == [[*range(60)]] * 3
        assert len({batch.images.tobytes() for batch in batches}) == 3

    def test_every_video_gives_the_same_share(self, jobs, one_worker):
        batches = decode_frames(jobs, 90, one_worker)

        assert [batch.sample_index.tolist() for batch in batches] == [[*range(30)]] * 3
        whole = decode_frames(jobs, 180, one_worker)
        np.testing.assert_array_equal(batches[2].images, whole[2].images[:30])
