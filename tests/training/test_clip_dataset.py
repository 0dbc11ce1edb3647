"""Clips cut out of stored features: which frames belong to them, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.config import Sampling
from pipeline.encode.feature_store import FeatureStore
from pipeline.errors import SourceError
from pipeline.records import DecodeReport, FrameFeatures, Video
from pipeline.training.annotations import Labelled, LabelledClip
from pipeline.training.clip_dataset import ClipCutter, LeftOut

FPS = 8
VIDEO = Video("a.mp4", "/a.mp4", "file", "id-a", 1)
CLIP = LabelledClip("/a.mp4", "wave", None, None, "ann", None, row=7)
FACTS = ("values", "sample_index", "frame_index", "pts_seconds")
OK = DecodeReport("ok", duration_seconds=2.0, frames_sampled=16)


def stored(start, stop, *, num_samples=16, report=OK, video_id="id-a"):
    """Samples [start, stop) of a video; the first feature of each tells its number."""
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
def cutter(tmp_path):
    """Give a cutter of a store that holds some chunks."""

    def make(*parts, sampling=None, context=0):
        store = FeatureStore(tmp_path, 2)
        for part in parts or (stored(0, 16),):
            store.write([part])
        labelled = Labelled((CLIP,), ("nod", "wave"))
        return ClipCutter(labelled, store, sampling or Sampling(fps=FPS), context)

    return make


def timed(start, end):
    return replace(CLIP, start_seconds=start, end_seconds=end)


def numbers(example):
    return example.features[:, 0].astype(int).tolist()


class TestCut:
    def test_a_row_without_times_is_the_whole_video(self, cutter):
        (example,) = cutter().cut(VIDEO, [CLIP])

        assert numbers(example) == list(range(16))
        assert (example.start_seconds, example.end_seconds) == (0.0, 2.0)
        assert (example.name, example.video_id, example.group) == ("/a.mp4", "id-a", "ann")
        assert example.label == 1
        assert example.mask.all()

    def test_a_part_holds_the_frames_from_its_start_to_before_its_end(self, cutter):
        clips = [timed(0.0, 0.5), timed(0.5, 1.0), timed(0.51, 1.01)]

        first, second, third = cutter().cut(VIDEO, clips)

        assert numbers(first) == [0, 1, 2, 3]
        assert numbers(second) == [4, 5, 6, 7]
        assert numbers(third) == [5, 6, 7, 8]
        assert second.name == "/a.mp4 [0.5, 1)"

    def test_frames_know_their_numbers_in_the_video(self, cutter):
        part = replace(CLIP, start_seconds=0.5, end_seconds=1.0)
        gap = stored(5, 8)  # the first sample of it could not be decoded
        gap = replace(gap, **{f: getattr(gap, f)[1:] for f in FACTS})

        whole, example = cutter(stored(0, 5), gap, stored(8, 16)).cut(VIDEO, [CLIP, part])

        assert whole.sample_index.tolist() == [*range(5), *range(6, 16)]
        assert example.sample_index.tolist() == [4, 6, 7]

    def test_chunks_of_a_long_video_are_joined(self, cutter):
        parts = [stored(a, b, report=replace(OK, frames_sampled=8)) for a, b in ((0, 8), (8, 16))]

        (example,) = cutter(*parts).cut(VIDEO, [timed(0.75, 1.25)])

        assert numbers(example) == [6, 7, 8, 9]

    def test_the_first_frame_of_a_video_does_not_count_where_none_comes_before_it(self, cutter):
        whole, part = cutter(context=1).cut(VIDEO, [CLIP, timed(0.5, 1.0)])

        assert whole.mask.tolist() == [False] + 15 * [True]
        assert part.mask.all()

    def test_an_end_may_be_rounded_up_by_less_than_a_sample(self, cutter):
        (example,) = cutter().cut(VIDEO, [timed(1.5, 2.1)])

        assert numbers(example) == [12, 13, 14, 15]


class TestLost:
    """Of a video that could be decoded in part, clips may lie in the other part."""

    PARTIAL = replace(OK, status="partial", error="8 packets are damaged", frames_sampled=8)

    @pytest.fixture
    def partial(self, cutter):
        """A cutter of a video of two seconds, whose second one could not be decoded."""
        whole = stored(0, 16, report=self.PARTIAL)
        return cutter(replace(whole, **{f: getattr(whole, f)[:8] for f in FACTS}))

    @pytest.mark.parametrize(("start", "end"), [(1.0, 1.5), (1.25, 2.0), (5.0, 6.0)])
    def test_a_clip_of_which_nothing_was_decoded_is_left_out(self, partial, start, end):
        (found,) = partial.cut(VIDEO, [timed(start, end)])

        assert found == LeftOut(
            7,
            "/a.mp4",
            f"partial: no frame between {start:g} and {end:g} seconds was decoded: "
            "8 packets are damaged",
        )

    def test_a_clip_of_which_some_was_decoded_is_cut(self, partial):
        (found,) = partial.cut(VIDEO, [timed(0.75, 1.5)])

        assert numbers(found) == [6, 7]


class TestCutFails:
    @pytest.mark.parametrize(("start", "end"), [(2.0, 2.1), (0.0, 2.2), (5.0, 6.0)])
    def test_times_outside_of_the_video(self, cutter, start, end):
        with pytest.raises(SourceError, match=r"row 7: .* outside of /a\.mp4, which is 2 seconds"):
            cutter().cut(VIDEO, [timed(start, end)])

    def test_a_part_between_two_samples(self, cutter):
        with pytest.raises(SourceError, match=r"row 7: no frame .* 0\.51 and 0\.55 .*--sample-fps"):
            cutter().cut(VIDEO, [timed(0.51, 0.55)])

    def test_features_that_are_no_numbers(self, cutter):
        spoiled = stored(0, 16)
        spoiled.values[9, 1] = np.nan

        with pytest.raises(SourceError, match=r"row 7: features of /a\.mp4 are no numbers"):
            cutter(spoiled).cut(VIDEO, [CLIP])


class TestProblem:
    def test_a_video_with_frames_has_none(self, cutter):
        assert cutter().problem(VIDEO) == ""

    def test_some_frames_are_enough(self, cutter):
        partial = replace(OK, status="partial", error="the end is missing")

        assert cutter(stored(0, 16, report=partial)).problem(VIDEO) == ""

    def test_a_video_that_is_not_stored(self, cutter):
        assert "clipline doctor" in cutter().problem(replace(VIDEO, video_id="other"))

    def test_a_video_without_frames_says_what_is_wrong_with_it(self, cutter):
        report = DecodeReport("not_video", "holds no video")
        nothing = FrameFeatures.empty("id-a", 2, report)

        assert cutter(nothing).problem(VIDEO) == "not_video: holds no video"
