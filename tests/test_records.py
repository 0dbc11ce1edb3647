from __future__ import annotations

import dataclasses
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import (
    STATUSES,
    TRANSIENT,
    Chunk,
    DecodeReport,
    FrameBatch,
    FrameFeatures,
    Video,
    VideoIndex,
    merge_reports,
)

VIDEO = Video("a.mp4", "/a.mp4", "file", "0123", 100)


def index(pts, **values):
    """Create an index with these times."""
    facts = {
        "format": "mp4",
        "codec": "h264",
        "pixel_format": "yuv420p",
        "width": 96,
        "height": 64,
        "rotation": 0,
        "mirrored": False,
        "interlaced": False,
        "stream": 0,
        "video_streams": 1,
        "time_base": (1, 1000),
        "pts": np.asarray(pts, np.int64),
        "last_duration": 0,
        "start_ticks": 0,
        "packets": len(pts),
        "packets_discarded": 0,
        "frames_from_header": None,
    }
    return VideoIndex(**{**facts, **values})


def batch(count=3, **values):
    arrays = {
        "images": np.zeros((count, 4, 6, 3), np.uint8),
        "sample_index": np.arange(count),
        "frame_index": np.arange(count),
        "pts_seconds": np.arange(count) / 8,
    }
    chunk = Chunk(VIDEO, None, 0, count, count)
    return FrameBatch(chunk=chunk, report=DecodeReport("ok"), **{**arrays, **values})


def features(count=3, **values):
    arrays = {
        "values": np.zeros((count, 5), np.float16),
        "sample_index": np.arange(count),
        "frame_index": np.arange(count),
        "pts_seconds": np.arange(count) / 8,
    }
    report = DecodeReport("ok")
    return FrameFeatures("0123", 0, count, count, report=report, **{**arrays, **values})


class TestVideoIndex:
    def test_times_count_from_the_first_displayed_frame(self):
        late = index([500, 540, 580], start_ticks=500)

        np.testing.assert_allclose(late.seconds, [0, 0.04, 0.08])
        assert late.tick_seconds == 0.001

    def test_the_last_frame_has_the_duration_of_the_container(self):
        assert index([0, 40, 80], last_duration=100).duration_seconds == pytest.approx(0.18)

    def test_the_last_frame_has_the_median_duration_if_unknown(self):
        assert index([0, 40, 80]).duration_seconds == pytest.approx(0.12)
        assert index([0, 40, 80, 1080]).duration_seconds == pytest.approx(1.12)

    def test_a_single_frame_of_unknown_duration_has_no_rate(self):
        lone = index([7])

        assert (lone.duration_seconds, lone.frame_rate, lone.frame_seconds) == (0, None, 0)
        assert index([7], last_duration=40).frame_rate == pytest.approx(25)

    def test_without_displayed_frames_the_duration_is_zero(self):
        empty = index([])

        assert empty.duration_seconds == 0
        assert empty.frame_rate is None
        assert len(empty.seconds) == 0
        assert empty.longest_gap_seconds == 0

    def test_the_rate_is_frames_over_duration(self):
        assert index([0, 40, 80, 120]).frame_rate == pytest.approx(25)

    @pytest.mark.parametrize(
        ("pts", "variable"),
        [
            ([0, 40, 80, 120], False),
            ([0, 33, 67, 100, 133], False),  # 30 a second, rounded to milliseconds
            ([0, 42, 83, 125], False),  # 24 a second
            ([0, 40, 80, 160], True),
            ([0, 40], False),
            ([0], False),
        ],
    )
    def test_rounded_ticks_are_no_variable_rate(self, pts, variable):
        assert index(pts).variable_frame_rate is variable

    def test_the_longest_gap(self):
        assert index([0, 40, 540, 580]).longest_gap_seconds == pytest.approx(0.5)

    def test_repeated_times_are_not_steady(self):
        assert index([0, 40, 80]).steady
        assert not index([0, 40, 40, 80]).steady

    @pytest.mark.parametrize(
        ("claimed", "truncated"), [(None, False), (2, False), (3, False), (4, True)]
    )
    def test_fewer_packets_than_claimed_is_truncated(self, claimed, truncated):
        assert index([0, 40, 80], frames_from_header=claimed).truncated is truncated

    def test_json_round_trip(self):
        original = index(
            [0, 40, 80], rotation=90, frames_from_header=3, timed=False, problem="broke"
        )

        back = VideoIndex.from_json(json.loads(json.dumps(original.to_json())))

        for field in dataclasses.fields(VideoIndex):
            one, other = getattr(original, field.name), getattr(back, field.name)
            np.testing.assert_array_equal(one, other)
        assert back.pts.dtype == np.int64
        assert back.time_base == (1, 1000)

    @given(gaps=st.lists(st.integers(1, 5000), min_size=1, max_size=50), first=st.integers(-99, 99))
    def test_frames_lie_inside_the_duration(self, gaps, first):
        original = index(first + np.cumsum([0, *gaps]))

        assert original.seconds[0] == 0
        assert original.duration_seconds > original.seconds[-1]
        assert original.longest_gap_seconds >= original.frame_seconds


class TestDecodeReport:
    def test_every_status_has_a_meaning(self):
        for status, meaning in STATUSES.items():
            assert DecodeReport(status).status == status
            assert len(meaning) > 10

    def test_an_unknown_status_fails(self):
        with pytest.raises(ValueError, match=r"status must be one of ok, partial, .* got 'fine'"):
            DecodeReport("fine")

    def test_transient_statuses(self):
        transient = {status for status in STATUSES if DecodeReport(status).transient}

        assert transient == TRANSIENT
        assert transient == {"decode_timeout", "decode_crash", "out_of_memory", "unreadable"}

    def test_json_round_trip(self):
        report = DecodeReport("partial", "why", attempts=("a: b", "c"), width=96, frame_rate=29.97)

        assert DecodeReport.from_json(json.loads(json.dumps(report.to_json()))) == report

    def test_reports_of_other_versions_are_read(self):
        """Fields of a newer version are ignored, fields that an older one lacks have defaults."""
        newer = {**DecodeReport("ok", width=96).to_json(), "colour_space": "bt709"}
        older = {"status": "partial", "error": "why"}

        assert DecodeReport.from_json(newer) == DecodeReport("ok", width=96)
        assert DecodeReport.from_json(older) == DecodeReport("partial", "why")


class TestMergeReports:
    def test_a_single_report_is_unchanged(self):
        report = DecodeReport("partial", "why", frames_decoded=3)

        assert merge_reports([report]) is report

    def test_counts_are_summed_and_other_fields_kept(self):
        one = DecodeReport(
            "ok",
            decoder="decord",
            width=96,
            duration_seconds=9.5,
            frames_expected=10,
            frames_decoded=10,
            frames_sampled=4,
            frames_duplicated=1,
        )
        other = replace(one, decoder="pyav", frames_sampled=3, attempts=("decord: refused",))

        merged = merge_reports([one, other, one])

        assert (merged.status, merged.error) == ("ok", "")
        assert (merged.frames_expected, merged.frames_decoded) == (30, 30)
        assert (merged.frames_sampled, merged.frames_duplicated) == (11, 3)
        assert (merged.width, merged.duration_seconds) == (96, 9.5)
        assert merged.decoder == "decord+pyav"
        assert merged.attempts == ("decord: refused",)

    def test_one_bad_chunk_makes_the_video_partial(self):
        good = DecodeReport("ok", frames_expected=5, frames_decoded=5)
        bad = DecodeReport(
            "decode_timeout", "no frame for 20 s", frames_expected=5, frames_missing=5
        )

        merged = merge_reports([good, bad])

        assert (merged.status, merged.error) == ("partial", "no frame for 20 s")
        assert (merged.frames_expected, merged.frames_decoded, merged.frames_missing) == (10, 5, 5)

    def test_chunks_without_any_frame_keep_their_status(self):
        first = DecodeReport("undecodable", "broken", frames_expected=5)
        second = DecodeReport("decode_crash", "signal 11", frames_expected=5)

        merged = merge_reports([first, second])

        assert (merged.status, merged.error) == ("undecodable", "broken")
        assert merged.frames_expected == 10


class TestChunk:
    def test_a_whole_video(self):
        assert Chunk(VIDEO, None, 0, 5, 5).whole
        assert Chunk(VIDEO, None, 0, 0, 0).whole
        assert not Chunk(VIDEO, None, 0, 4, 5).whole
        assert not Chunk(VIDEO, None, 1, 5, 5).whole


class TestFrameBatch:
    def test_valid_arrays_are_accepted(self):
        assert batch().images.shape == (3, 4, 6, 3)
        assert len(batch(0).images) == 0

    def test_images_of_another_shape_fail(self):
        with pytest.raises(ValueError, match=r"images must be \(T, H, W, 3\), got \(3, 4, 6, 4\)"):
            batch(images=np.zeros((3, 4, 6, 4), np.uint8))
        with pytest.raises(ValueError, match=r"got \(4, 6, 3\)"):
            batch(images=np.zeros((4, 6, 3), np.uint8))

    def test_images_of_another_dtype_fail(self):
        with pytest.raises(ValueError, match="images must be uint8, got float32"):
            batch(images=np.zeros((3, 4, 6, 3), np.float32))

    @pytest.mark.parametrize("name", ["sample_index", "frame_index", "pts_seconds"])
    def test_lengths_that_differ_fail(self, name):
        with pytest.raises(ValueError, match=f"arrays differ in length: .*'{name}': 2"):
            batch(**{name: np.zeros(2)})


class TestFrameFeatures:
    def test_empty_features_keep_the_report(self):
        report = DecodeReport("not_video", "text")

        nothing = FrameFeatures.empty("0123", 7, report)

        assert nothing.values.shape == (0, 7)
        assert nothing.whole
        assert nothing.report is report

    def test_a_chunk_is_not_the_whole_video(self):
        assert features().whole
        assert not replace(features(), num_samples=4).whole
        assert not replace(features(), start=1).whole

    def test_values_of_another_dtype_or_shape_fail(self):
        wanted = r"values must be float16 of shape \(T, D\), got float32 of shape \(3, 5\)"
        with pytest.raises(ValueError, match=wanted):
            features(values=np.zeros((3, 5), np.float32))
        with pytest.raises(ValueError, match=r"of shape \(3,\)"):
            features(values=np.zeros(3, np.float16))

    @pytest.mark.parametrize("name", ["sample_index", "frame_index", "pts_seconds"])
    def test_lengths_that_differ_fail(self, name):
        with pytest.raises(ValueError, match=f"arrays differ in length: .*'{name}': 4"):
            features(**{name: np.zeros(4)})
