"""Where videos are cut: all of every gap, no piece too large, best before key frames."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import DecodeOptions, RunOptions, Sampling, ShardOptions
from pipeline.decode.container_index import read_index
from pipeline.decode.sampling import SamplePlan
from pipeline.progress import RunProgress
from pipeline.run.chunking import key_frame_samples, missing_ranges, split_range
from pipeline.run.indexing import index_ahead
from pipeline.run.load import open_session
from pipeline.run.planner import Planner
from pipeline.sources.discovery import find_videos
from tests.videos import write_video

NO_KEYS = np.zeros(0, np.int64)


def plan(session, sources):
    """Plan the shards of some sources."""
    videos = find_videos([str(source) for source in sources])
    return list(Planner.of_session(session, RunProgress()).plan(videos))


class TestMissingRanges:
    def test_nothing_stored_leaves_all(self):
        assert missing_ranges([], 9) == [(0, 9)]

    def test_a_video_without_samples_is_one_gap(self):
        assert missing_ranges([], 0) == [(0, 0)]

    def test_what_is_stored_is_left_out(self):
        assert missing_ranges([(2, 4), (4, 5), (7, 9)], 12) == [(0, 2), (5, 7), (9, 12)]

    def test_of_chunks_that_overlap_the_first_counts(self):
        """With the second, nothing would follow on the first."""
        assert missing_ranges([(0, 6), (4, 8)], 8) == [(6, 8)]

    def test_all_stored_leaves_nothing(self):
        assert missing_ranges([(0, 4), (4, 9)], 9) == []


class TestSplitRange:
    @given(
        start=st.integers(0, 20),
        count=st.integers(0, 300),
        size=st.integers(1, 50),
        spare=st.integers(0, 50),
        keys=st.lists(st.integers(0, 320), max_size=12),
    )
    def test_pieces_make_the_whole_and_none_is_too_large(self, start, count, size, spare, keys):
        stop, most = start + count, size + spare
        edges = split_range((start, stop), size, most, np.array(sorted(set(keys)), np.int64))

        assert (edges[0], edges[-1]) == (start, stop)
        sizes = [b - a for a, b in pairwise(edges)]
        assert all(0 < piece <= most for piece in sizes) or count == 0

    def test_without_key_frames_pieces_are_alike(self):
        assert split_range((0, 100), 30, 30, NO_KEYS) == [0, 25, 50, 75, 100]

    def test_a_key_frame_near_by_is_better(self):
        assert split_range((0, 100), 50, 80, np.array([3, 58, 97])) == [0, 58, 100]

    def test_a_key_frame_far_away_is_not(self):
        assert split_range((0, 100), 50, 100, np.array([10])) == [0, 50, 100]


class TestKeyFrameSamples:
    @pytest.fixture
    def index(self, tmp_path):
        return read_index(str(write_video(tmp_path / "a.mp4", 60, gop=20)), 10**6)

    def test_key_frames_are_found(self, index):
        assert np.searchsorted(index.pts, index.keys).tolist() == [0, 20, 40]

    def test_every_frame_is_a_sample(self, index):
        assert key_frame_samples(SamplePlan(index, Sampling(every=1)), 0).tolist() == [0, 20, 40]

    def test_the_first_sample_that_is_behind_the_key_frame_counts(self, index):
        # 10 samples a second of 30 frames: 7 is frame 21, 14 is frame 42
        assert key_frame_samples(SamplePlan(index, Sampling(fps=10)), 0).tolist() == [0, 7, 14]

    def test_the_context_lies_behind_the_key_frame_as_well(self, index):
        assert key_frame_samples(SamplePlan(index, Sampling(every=1)), 1).tolist() == [1, 21, 41]


class TestSplitForParallelism:
    """A long video is cut so that every decode process has work."""

    def shards(self, folder, recognizer, cache, sources, **decode):
        options = RunOptions(
            recognizer=str(recognizer), decode=DecodeOptions(**decode), shards=ShardOptions()
        )
        with open_session(folder / "out", options, cache) as session:
            found = plan(session, sources)
        return [[(s.start, s.stop) for s in shard.chunks] for shard in found]

    def test_one_video_is_cut_for_all_processes(
        self, tmp_path, tiny_recognizer, engine_cache, monkeypatch
    ):
        monkeypatch.setattr("pipeline.run.planner.MIN_CHUNK_PIXELS", 10 * 96 * 64)
        path = write_video(tmp_path / "a.mp4", 120, gop=30)

        found = self.shards(tmp_path, tiny_recognizer, engine_cache, [path], workers=2)

        # 8 samples a second: key frames at 30, 60, 90 are samples 8, 16, 24, and one of context
        assert found == [[(0, 9)], [(9, 17)], [(17, 25)], [(25, 32)]]

    def test_what_is_soon_decoded_is_not_cut(self, tmp_path, tiny_recognizer, engine_cache):
        path = write_video(tmp_path / "a.mp4", 120, gop=30)

        found = self.shards(tmp_path, tiny_recognizer, engine_cache, [path], workers=2)

        assert found == [[(0, 32)]]

    def test_what_would_take_too_long_at_once_is_cut(
        self, tmp_path, tiny_recognizer, engine_cache, monkeypatch
    ):
        monkeypatch.setattr("pipeline.run.planner.MAX_CHUNK_PIXELS", 60 * 96 * 64)
        path = write_video(tmp_path / "a.mp4", 120, gop=30)

        found = self.shards(tmp_path, tiny_recognizer, engine_cache, [path], workers=1)

        assert found == [[(0, 17)], [(17, 32)]]

    def test_one_process_leaves_no_reason_to_cut(
        self, tmp_path, tiny_recognizer, engine_cache, monkeypatch
    ):
        monkeypatch.setattr("pipeline.run.planner.MIN_CHUNK_PIXELS", 10 * 96 * 64)
        path = write_video(tmp_path / "a.mp4", 120, gop=30)

        found = self.shards(tmp_path, tiny_recognizer, engine_cache, [path], workers=1)

        assert found == [[(0, 32)]]


def test_no_more_is_read_ahead_than_a_disk_can_keep_in_memory(
    tmp_path, tiny_recognizer, engine_cache, monkeypatch
):
    for number in range(6):
        write_video(tmp_path / f"{number}.mp4", 15, first=15 * number)
    found = find_videos([str(tmp_path)])
    monkeypatch.setattr("pipeline.run.indexing.LOOK_AHEAD_BYTES", 2.5 * found[0].size_bytes)
    options = RunOptions(recognizer=str(tiny_recognizer), decode=DecodeOptions(workers=1))
    with open_session(tmp_path / "out", options, engine_cache) as session:
        asked = []
        submit = session.pool.submit
        monkeypatch.setattr(
            session.pool, "submit", lambda job, *rest: asked.append(job) or submit(job, *rest)
        )

        next(index_ahead(session.pool, found))

        assert len(asked) == 3


VIDEO_PIXELS = 15 * 96 * 64


@pytest.mark.parametrize(
    ("first", "most"),
    [
        ({"FIRST_FRAMES": 4}, {"max_frames": 16}),
        ({"FIRST_PIXELS": VIDEO_PIXELS, "MAX_CHUNK_PIXELS": 4 * VIDEO_PIXELS}, {}),
    ],
)
def test_shards_begin_small_and_grow(
    tmp_path, tiny_recognizer, engine_cache, monkeypatch, first, most
):
    """By what is encoded, and by what is decoded for it: a sample may stand for many frames."""
    for name, value in first.items():
        monkeypatch.setattr(f"pipeline.run.planner.{name}", value)
    (tmp_path / "videos").mkdir()
    for number in range(14):
        write_video(tmp_path / "videos" / f"{number}.mp4", 15, first=15 * number)  # 4 samples
    options = RunOptions(
        recognizer=str(tiny_recognizer),
        decode=DecodeOptions(workers=1),
        shards=ShardOptions(**most),
    )

    with open_session(tmp_path / "out", options, engine_cache) as session:
        shards = plan(session, [tmp_path / "videos"])

    assert [len(shard.chunks) for shard in shards] == [1, 2, 4, 4, 3]
