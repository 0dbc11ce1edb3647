"""Decoding alone: which frames are decoded, by whom, and how the rates come about."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.bench import decoding
from pipeline.bench.decoding import READERS, decoded_frames, measure_decoding, plan_jobs
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

    def test_what_cannot_be_read_is_left_out(self, clips, backbone, one_worker, tmp_path):
        (tmp_path / "a.mp4").write_text("no video")
        (tmp_path / "b.mp4").symlink_to(clips[0].location)

        found = find_videos([str(tmp_path)])
        planned = plan_jobs(found, EVERY, backbone.geometry, one_worker)

        assert [chunk.video for chunk in planned.chunks] == found[1:]

    def test_long_videos_are_measured_by_their_beginning(
        self, clips, backbone, one_worker, monkeypatch
    ):
        picture = 160 * 96 * 3
        monkeypatch.setattr(decoding, "MOST_BYTES", 20 * picture)
        monkeypatch.setattr(decoding, "decoded_size", lambda height, width, _: (height, width))

        planned = plan_jobs(clips, EVERY, backbone.geometry, one_worker)

        assert [chunk.stop for chunk in planned.chunks] == [20, 20, 20]


class TestMeasure:
    def test_every_reader_is_measured_on_one_core_and_on_all(self, jobs, one_worker, monkeypatch):
        monkeypatch.setattr("pipeline.bench.rates.LEAST_SECONDS", 1e-9)

        found = list(measure_decoding(jobs, one_worker, 1))

        assert (
            [rate.reader for rate in found] == list(READERS) == ["auto", "decord", "opencv", "pyav"]
        )
        assert all(rate.per_core > 0 and rate.all_cores > 0 for rate in found)

    def test_a_core_more_has_as_many_videos_more(self, jobs):
        """Every process gets every video, or the last one would leave a core idle."""
        options = DecodeOptions(workers=2, reader="pyav")
        with DecodePool(options) as pool:
            decoding.warm(pool)
            work = decoding.Decoding(jobs, pool, copies=2)

            assert len(pool.pids()) == 2
            assert work() == 360
            assert {report.decoder for report in work.reports} == {"pyav"}

    @pytest.mark.parametrize(("most_seconds", "stops"), [(1e-9, [1, 1, 1]), (1e9, [60, 60, 60])])
    def test_no_measurement_takes_long(self, jobs, one_worker, monkeypatch, most_seconds, stops):
        """A reader that is slow on these videos shows it on their beginnings."""
        measured = []
        monkeypatch.setattr(decoding, "MOST_SECONDS", most_seconds)
        monkeypatch.setattr(decoding, "measure", lambda work, _: measured.append(work.jobs))

        decoding._measure(jobs, one_worker, 1)

        assert [chunk.stop for chunk in measured[0].chunks] == stops

    def test_a_reader_that_gives_way_has_no_rate(self, jobs, one_worker, monkeypatch):
        measured = Timed(10, (0.5,))
        given = {
            ("auto", 1): measured,
            ("decord", 1): None,
            ("opencv", 1): measured,
            ("pyav", 1): measured,
        }
        monkeypatch.setattr(
            decoding, "_measure", lambda _, options, __: given[options.reader, options.workers]
        )

        assert list(measure_decoding(jobs, one_worker, 1)) == [
            DecodeRate("auto", 20, 20),
            DecodeRate("decord", None, None),
            DecodeRate("opencv", 20, 20),
            DecodeRate("pyav", 20, 20),
        ]


class TestDecodedFrames:
    def test_all_are_kept_where_they_are_few(self, jobs, one_worker):
        batches = decoded_frames(jobs, 1000, one_worker)

        assert [batch.sample_index.tolist() for batch in batches] == [[*range(60)]] * 3
        assert len({batch.images.tobytes() for batch in batches}) == 3

    def test_every_video_gives_the_same_share(self, jobs, one_worker):
        batches = decoded_frames(jobs, 90, one_worker)

        assert [batch.sample_index.tolist() for batch in batches] == [[*range(30)]] * 3
        whole = decoded_frames(jobs, 180, one_worker)
        np.testing.assert_array_equal(batches[2].images, whole[2].images[:30])
