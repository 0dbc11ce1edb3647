"""Examples from stored features: which frames belong to a clip, and which clips fail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.config import Sampling
from pipeline.encode.feature_store import FeatureStore
from pipeline.errors import SourceError
from pipeline.recognition.recognizer import BackboneSpec
from pipeline.records import DecodeReport, FrameFeatures, Video
from pipeline.training.annotations import Annotation, Annotations
from pipeline.training.clip_dataset import ClipDatasetBuilder, SkippedClip, longest_in_one_shot
from pipeline.training.feature_source import FeatureSource

FPS = 8
VIDEO = Video("a.mp4", "/a.mp4", "file", "id-a", 1)
CLIP = Annotation("/a.mp4", "wave", None, None, "ann", None, row=7)
ARRAYS = ("values", "sample_index", "frame_index", "pts_seconds")
OK = DecodeReport("ok", duration_seconds=2.0, frames_sampled=16)


def stored(start, stop, *, num_samples=16, report=OK, video_id="id-a"):
    """Samples [start, stop) of a video; the first feature of each is its index."""
    numbers = np.arange(start, stop)
    return FrameFeatures(
        video_id=video_id,
        start=start,
        stop=stop,
        num_samples=num_samples,
        values=np.stack([numbers, -numbers], axis=1).astype(np.float16),
        sample_index=numbers,
        frame_index=numbers * 3,
        pts_seconds=numbers * 3 / 24,
        report=report,
    )


@pytest.fixture
def builder(tmp_path):
    """Make a builder with some stored chunks."""

    def make(*parts, sampling=None, context=0):
        store = FeatureStore(tmp_path, 2)
        for part in parts or (stored(0, 16),):
            store.write([part])
        annotations = Annotations((CLIP,), ("nod", "wave"))
        spec = BackboneSpec("random:test", "abcd", 2, context=context)
        source = FeatureSource(store, spec, sampling or Sampling(fps=FPS))
        return ClipDatasetBuilder(annotations, source)

    return make


def timed(start, end):
    return replace(CLIP, start_seconds=start, end_seconds=end)


def numbers(example):
    return example.features[:, 0].astype(int).tolist()


class TestBuild:
    def test_a_row_without_times_is_the_whole_video(self, builder):
        (example,) = builder().build(VIDEO, [CLIP])

        assert numbers(example) == list(range(16))
        assert (example.start_seconds, example.end_seconds) == (0.0, 2.0)
        assert (example.name, example.video_id, example.group) == ("/a.mp4", "id-a", "ann")
        assert example.label == 1
        assert example.mask.all()

    def test_the_path_of_a_video_may_look_like_a_clip(self, builder):
        """It was parsed from the name of the example, which ends with the times of the clip."""
        (example,) = builder().build(VIDEO, [replace(CLIP, video="/talk [0, 2)")])

        assert example.video == "/talk [0, 2)"

    def test_a_clip_has_the_frames_from_its_start_to_before_its_end(self, builder):
        clips = [timed(0.0, 0.5), timed(0.5, 1.0), timed(0.51, 1.01)]

        first, second, third = builder().build(VIDEO, clips)

        assert numbers(first) == [0, 1, 2, 3]
        assert numbers(second) == [4, 5, 6, 7]
        assert numbers(third) == [5, 6, 7, 8]
        assert second.name == "/a.mp4 [0.5, 1)"

    def test_frames_have_their_sample_index_in_the_video(self, builder):
        part = replace(CLIP, start_seconds=0.5, end_seconds=1.0)
        gap = stored(5, 8)  # its first sample was not decoded
        gap = replace(gap, **{f: getattr(gap, f)[1:] for f in ARRAYS})

        whole, example = builder(stored(0, 5), gap, stored(8, 16)).build(VIDEO, [CLIP, part])

        assert whole.sample_index.tolist() == [*range(5), *range(6, 16)]
        assert example.sample_index.tolist() == [4, 6, 7]

    def test_chunks_of_a_long_video_are_joined(self, builder):
        parts = [stored(a, b, report=replace(OK, frames_sampled=8)) for a, b in ((0, 8), (8, 16))]

        (example,) = builder(*parts).build(VIDEO, [timed(0.75, 1.25)])

        assert numbers(example) == [6, 7, 8, 9]

    def test_the_first_frame_of_a_video_is_masked_if_frames_need_the_previous_one(self, builder):
        whole, part = builder(context=1).build(VIDEO, [CLIP, timed(0.5, 1.0)])

        assert whole.mask.tolist() == [False] + 15 * [True]
        assert part.mask.all()

    def test_the_end_may_exceed_the_duration_by_less_than_a_sample(self, builder):
        (example,) = builder().build(VIDEO, [timed(1.5, 2.1)])

        assert numbers(example) == [12, 13, 14, 15]


class TestMissingFrames:
    """Clips may lie in a part of the video that was not decoded."""

    PARTIAL = replace(OK, status="partial", error="8 packets are damaged", frames_sampled=8)

    @pytest.fixture
    def partial(self, builder):
        """A builder with a video of two seconds; the last second was not decoded."""
        whole = stored(0, 16, report=self.PARTIAL)
        return builder(replace(whole, **{f: getattr(whole, f)[:8] for f in ARRAYS}))

    @pytest.mark.parametrize(("start", "end"), [(1.0, 1.5), (1.25, 2.0), (5.0, 6.0)])
    def test_a_clip_without_decoded_frames_is_skipped(self, partial, start, end):
        (found,) = partial.build(VIDEO, [timed(start, end)])

        assert found == SkippedClip(
            7,
            "/a.mp4",
            f"partial: no frame between {start:g} and {end:g} seconds was decoded: "
            "8 packets are damaged",
        )

    def test_a_partly_decoded_clip_is_used(self, partial):
        (found,) = partial.build(VIDEO, [timed(0.75, 1.5)])

        assert numbers(found) == [6, 7]


class TestBuildFails:
    @pytest.mark.parametrize(("start", "end"), [(2.0, 2.1), (0.0, 2.2), (5.0, 6.0)])
    def test_times_outside_of_the_video(self, builder, start, end):
        with pytest.raises(SourceError, match=r"row 7: .* outside of /a\.mp4, which is 2 seconds"):
            builder().build(VIDEO, [timed(start, end)])

    def test_a_clip_between_two_samples(self, builder):
        with pytest.raises(
            SourceError, match=r"row 7: no frame was sampled .* 0\.51 and 0\.55 .*--sample-fps"
        ):
            builder().build(VIDEO, [timed(0.51, 0.55)])

    def test_features_that_are_not_finite(self, builder):
        spoiled = stored(0, 16)
        spoiled.values[9, 1] = np.nan

        with pytest.raises(SourceError, match=r"row 7: features of /a\.mp4 are not finite"):
            builder(spoiled).build(VIDEO, [CLIP])


class TestProblem:
    def test_a_video_with_frames_has_none(self, builder):
        assert builder().problem(VIDEO) == ""

    def test_some_frames_are_sufficient(self, builder):
        partial = replace(OK, status="partial", error="the end is missing")

        assert builder(stored(0, 16, report=partial)).problem(VIDEO) == ""

    def test_a_video_that_is_not_stored(self, builder):
        other = replace(VIDEO, video_id="other")

        assert builder().problem(other) == "its features are not stored"

    def test_a_video_over_a_limit_says_so(self, builder):
        other = replace(VIDEO, video_id="other")
        report = DecodeReport("too_long", "lasts 9 s; at most 2 s are allowed")
        made = builder()
        made = replace(made, source=replace(made.source, not_stored={"other": report}))

        assert made.problem(other) == "too_long: lasts 9 s; at most 2 s are allowed"

    def test_the_status_of_a_video_without_frames(self, builder):
        report = DecodeReport("not_video", "holds no video")
        nothing = FrameFeatures.empty("id-a", 2, report)

        assert builder(nothing).problem(VIDEO) == "not_video: holds no video"


class TestTimeLapse:
    SLOW = replace(OK, duration_seconds=160.0, one_sample_per_frame=True)

    @pytest.mark.parametrize(
        ("part", "expected"),
        [((0, 30), [0, 1, 2]), ((12, 17), [1]), ((20, 30), [2]), ((15, 35), [1, 2, 3])],
    )
    def test_a_clip_has_the_frames_that_are_shown_in_its_time(self, builder, part, expected):
        """Frames are shown for 10 seconds each."""
        slow = replace(stored(0, 16, report=self.SLOW), pts_seconds=np.arange(16) * 10.0)

        (example,) = builder(slow).build(VIDEO, [timed(*part)])

        assert numbers(example) == expected


def test_a_clip_keeps_its_longest_part_without_a_shot_boundary():
    shot = np.array([0, 0, 1, 1, 1, 2, 2])

    assert longest_in_one_shot(shot, 0, 7) == (2, 5)
    assert longest_in_one_shot(shot, 0, 3) == (0, 2)
    assert longest_in_one_shot(shot, 3, 4) == (3, 4)
    assert longest_in_one_shot(shot, 4, 4) == (4, 4)
