"""Frames to features, in batches that run on from one video to the next, and the store."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.config import Geometry
from pipeline.encode import features as module
from pipeline.encode.backbone import Backbone
from pipeline.encode.engines import Placement, TorchEngine
from pipeline.encode.features import FeatureStore, encode_frames
from pipeline.encode.openvino_engine import OpenVINOEngine
from pipeline.encode.pairs import PairNetwork, pairs_backbone
from pipeline.errors import MachineError
from pipeline.records import DecodeReport, FrameBatch, FrameFeatures, Segment, Video
from tests.videos import draw_number

FLOAT32 = Placement("cpu", "float32")
OK = DecodeReport("ok", decoder="opencv", attempts=("decord: refused",), frames_decoded=7)


class Means(nn.Module):
    """Gives the mean of each channel: exactly the same in any batch."""

    def forward(self, pictures):
        return pictures.mean((2, 3))


class Change(nn.Module):
    """Gives what each colour changed since the frame before, and what it is now."""

    def forward(self, pictures):
        before, now = pictures.mean((2, 3)).chunk(2, dim=1)
        return torch.cat([now - before, now], dim=1)


def engine(batch_size=4, *, context=0, scale=1.0):
    backbone = Backbone(
        name="means",
        module=Change() if context else Means(),
        weights_hash="",
        geometry=Geometry(8, 8),
        interpolation="bilinear",
        mean=(0.0, 0.0, 0.0),
        std=(1 / scale, 1 / scale, 1 / scale),
        feature_size=6 if context else 3,
        context=context,
    )
    return TorchEngine(backbone, FLOAT32, batch_size)


def frame_batch(video_id, pictures, *, first=0, start=None, num_samples=None, context=0):
    """Make a decoded segment: `pictures` begin with sample `first`."""
    count = len(pictures)
    start = first if start is None else start
    stop = first + count
    video = Video(f"{video_id}.mp4", f"/{video_id}.mp4", "file", video_id, 1)
    index = np.arange(first, stop)
    return FrameBatch(
        segment=Segment(video, None, start, stop, num_samples or stop, context),
        pictures=pictures,
        sample_index=index,
        frame_index=index * 3,
        pts_seconds=index / 8,
        report=DecodeReport("ok", frames_decoded=count),
    )


def draw(count, first=0, size=(8, 8)):
    height, width = size
    pictures = [draw_number(first + number, width, height) for number in range(count)]
    return np.stack(pictures) if pictures else np.zeros((0, height, width, 3), np.uint8)


def encode(made, *batches):
    return encode_frames(made, batches, threading.Lock())


class TestEncode:
    def test_rows_are_those_of_the_frames(self):
        pictures = draw(5)
        (found,) = encode(engine(2), frame_batch("a", pictures))

        assert found.values.dtype == np.float16
        np.testing.assert_allclose(found.values, pictures.mean((1, 2)) / 255, rtol=1e-3)
        np.testing.assert_array_equal(found.sample_index, range(5))
        np.testing.assert_array_equal(found.frame_index, range(0, 15, 3))
        np.testing.assert_array_equal(found.pts_seconds, np.arange(5) / 8)
        assert (found.video_id, found.start, found.stop, found.num_samples) == ("a", 0, 5, 5)
        assert found.whole
        assert found.report.frames_decoded == 5

    @settings(max_examples=60, deadline=None)
    @given(
        counts=st.lists(st.integers(0, 7), min_size=1, max_size=6),
        sizes=st.lists(st.sampled_from([(8, 8), (8, 13), (20, 9)]), min_size=6, max_size=6),
        batch_size=st.integers(1, 9),
        chunk=st.integers(1, 4),
        context=st.integers(0, 1),
    )
    def test_many_segments_are_encoded_as_each_alone(
        self, counts, sizes, batch_size, chunk, context
    ):
        """Whatever the batches, the chunks, and the sizes of the pictures."""
        made = engine(batch_size, context=context)
        batches = [
            frame_batch(str(number), draw(count, 50 * number, size))
            for number, (count, size) in enumerate(zip(counts, sizes, strict=False))
        ]
        alone = [encode(engine(1, context=context), batch)[0].values for batch in batches]
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(module, "CHUNK_BYTES", chunk * 8 * 8 * 3)
            found = encode(made, *batches)

        assert [part.video_id for part in found] == [str(n) for n in range(len(counts))]
        assert [len(part.values) for part in found] == counts
        for part, expected in zip(found, alone, strict=True):
            np.testing.assert_array_equal(part.values, expected)

    def test_the_engine_is_given_whole_batches(self):
        made = engine(4)
        sizes = []
        made.backbone.module.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
        encode(made, *(frame_batch(str(n), draw(n)) for n in (3, 0, 2, 6)))

        assert sizes == [4, 4, 3]

    def test_a_segment_without_frames_keeps_its_report(self):
        (found,) = encode(engine(), frame_batch("a", draw(0)))

        assert found.values.shape == (0, 3)
        assert found.report.status == "ok"

    def test_nothing_gives_nothing(self):
        assert encode(engine()) == []

    def test_features_beyond_float16_stay_finite(self):
        (found,) = encode(engine(scale=1e6), frame_batch("a", draw(1)))

        np.testing.assert_array_equal(found.values, np.full((1, 3), 65504, np.float16))

    def test_the_lock_is_held_while_the_engine_computes_and_not_before(self):
        lock = threading.Lock()
        held = []

        class Watched(TorchEngine):
            def fit(self, frames):
                held.append(("fit", lock.locked()))
                return super().fit(frames)

            def run(self, pictures):
                held.append(("run", lock.locked()))
                return super().run(pictures)

        made = Watched(engine().backbone, FLOAT32, 2)
        encode_frames(made, [frame_batch("a", draw(3))], lock)

        assert held == [("fit", False), ("run", True), ("run", True)]
        assert not lock.locked()

    def test_openvino_with_odd_batches(self, engine_cache):
        """Two networks take part: one for whole batches, one for what is left."""
        made = OpenVINOEngine(pairs_backbone(small_pairs()), FLOAT32, 3, engine_cache)
        batches = [frame_batch(str(n), draw(n, 20 * n, (72, 96))) for n in (5, 1, 4)]
        alone = [encode(made, batch)[0].values for batch in batches]

        for part, expected in zip(encode(made, *batches), alone, strict=True):
            np.testing.assert_allclose(part.values, expected, atol=2e-3)


def small_pairs():
    torch.manual_seed(11)
    return PairNetwork(size=8)


class TestContext:
    def test_a_frame_goes_with_the_one_before_and_the_first_with_itself(self):
        pictures = draw(6)
        (found,) = encode(engine(2, context=1), frame_batch("a", pictures))
        means = pictures.mean((1, 2)) / 255
        changes = np.diff(means, axis=0, prepend=means[:1])

        np.testing.assert_allclose(found.values[:, :3], changes, atol=1e-3)
        assert not found.values[0, :3].any()

    def test_the_next_video_does_not_go_on_with_the_one_before(self):
        first, second = frame_batch("a", draw(3)), frame_batch("b", draw(3, 40))
        _, found = encode(engine(8, context=1), first, second)

        assert not found.values[0, :3].any()

    @pytest.mark.parametrize("cut", range(1, 9))
    def test_segments_with_a_frame_before_them_are_as_the_whole(self, cut):
        pictures = draw(9)
        (whole,) = encode(engine(4, context=1), frame_batch("a", pictures))
        head = frame_batch("a", pictures[:cut], num_samples=9)
        tail = frame_batch("a", pictures[cut - 1 :], first=cut - 1, start=cut, context=1)
        parts = encode(engine(4, context=1), head, tail)

        assert [(part.start, part.stop) for part in parts] == [(0, cut), (cut, 9)]
        assert [part.whole for part in parts] == [False, False]
        np.testing.assert_array_equal(np.concatenate([p.values for p in parts]), whole.values)
        np.testing.assert_array_equal(parts[1].sample_index, range(cut, 9))
        np.testing.assert_array_equal(parts[1].frame_index, range(3 * cut, 27, 3))

    def test_segments_of_the_pair_network_are_as_the_whole(self):
        pictures = draw(8, size=(72, 96))
        made = TorchEngine(pairs_backbone(small_pairs()), FLOAT32, 4)
        (whole,) = encode(made, frame_batch("a", pictures))
        head = frame_batch("a", pictures[:5], num_samples=8)
        tail = frame_batch("a", pictures[4:], first=4, start=5, context=1)
        parts = encode(made, head, tail)

        values = np.concatenate([part.values for part in parts])
        np.testing.assert_allclose(values, whole.values, atol=2e-3)
        assert np.abs(np.diff(whole.values.astype(float), axis=0)).max() > 0.01

    def test_a_frame_before_that_could_not_be_decoded_is_missed_by_one_row_only(self):
        pictures = draw(9)
        (whole,) = encode(engine(context=1), frame_batch("a", pictures))
        (tail,) = encode(engine(context=1), frame_batch("a", pictures[4:], first=4, context=1))

        assert not tail.values[0, :3].any()
        np.testing.assert_array_equal(tail.values[1:], whole.values[5:])


def part(video_id, start=0, stop=4, num_samples=None, *, seed=0, report=OK, size=3):
    """Make the features of one segment."""
    count = stop - start
    index = np.arange(start, stop)
    return FrameFeatures(
        video_id=video_id,
        start=start,
        stop=stop,
        num_samples=stop if num_samples is None else num_samples,
        values=np.random.default_rng(seed).normal(size=(count, size)).astype(np.float16),
        sample_index=index,
        frame_index=index * 2,
        pts_seconds=index / 10,
        report=report,
    )


def assert_same(found, expected):
    assert found.values.dtype == np.float16
    for name in ("values", "sample_index", "frame_index", "pts_seconds"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for name in ("video_id", "start", "stop", "num_samples", "report"):
        assert getattr(found, name) == getattr(expected, name)


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path / "features", 3)


def again(store):
    """Open the same folder as another process would."""
    return FeatureStore(store.folder, store.size)


class TestStore:
    def test_gives_back_what_was_written(self, store):
        written = [part("a", seed=1), part("b", 0, 2, seed=2), part("c", 0, 7, seed=3)]
        store.write(written)

        for opened in (store, again(store)):
            for expected in written:
                (found,) = opened.stream(expected.video_id)
                assert_same(found, expected)
            assert opened.reports("b") == [OK]

    def test_segments_stream_in_order_whatever_came_first(self, store):
        parts = [part("a", start, start + 3, 9, seed=start) for start in (0, 3, 6)]
        for number in (2, 0, 1):
            store.write([parts[number]])

        for opened in (store, again(store)):
            assert opened.segments("a") == [(0, 3), (3, 6), (6, 9)]
            for found, expected in zip(opened.stream("a"), parts, strict=True):
                assert_same(found, expected)
            assert opened.reports("a") == [OK, OK, OK]

    def test_streams_one_segment_at_a_time(self, store, monkeypatch):
        for start in (0, 3, 6):
            store.write([part("a", start, start + 3, 9)])
        reads = []
        read = pq.read_table
        monkeypatch.setattr(pq, "read_table", lambda path: reads.append(path) or read(path))
        stream = store.stream("a")
        next(stream)

        assert len(reads) == 1

    def test_part_of_a_video_is_not_all_of_it(self, store):
        store.write([part("a", 0, 3, 9), part("a", 6, 9, 9)])

        for opened in (store, again(store)):
            assert not opened.has("a")
            assert opened.segments("a") == [(0, 3), (6, 9)]
            with pytest.raises(KeyError, match="a"):
                next(opened.stream("a"))
            with pytest.raises(KeyError, match="a"):
                opened.reports("a")

    def test_a_video_that_was_never_written_is_not_there(self, store):
        store.write([part("a")])

        assert store.has("a")
        assert not store.has("b")
        assert store.segments("b") == []
        with pytest.raises(KeyError, match="b"):
            store.reports("b")

    @pytest.mark.parametrize(
        ("written", "expected"),
        [
            ([(0, 5), (0, 9)], [(0, 9)]),
            ([(0, 9), (0, 5)], [(0, 9)]),
            ([(0, 5), (0, 4), (4, 9)], [(0, 4), (4, 9)]),
            ([(4, 9), (2, 6), (0, 4), (0, 5)], [(0, 4), (4, 9)]),
        ],
    )
    def test_segments_of_other_lengths_do_not_hide_the_whole(self, store, written, expected):
        """A run with smaller shards was stopped; a later one cut the video otherwise."""
        for start, stop in written:
            store.write([part("a", start, stop, 9)])

        for opened in (store, again(store)):
            assert opened.has("a")
            assert opened.segments("a") == sorted(written)
            assert [(f.start, f.stop) for f in opened.stream("a")] == expected

    def test_a_video_without_frames_keeps_its_report(self, store):
        bad = DecodeReport("undecodable", "no frame could be decoded", attempts=("decord: x",))
        store.write([part("a"), FrameFeatures.nothing("bad", 3, bad), part("c", seed=4)])

        for opened in (store, again(store)):
            assert opened.has("bad")
            assert opened.reports("bad") == [bad]
            (found,) = opened.stream("bad")
            assert found.values.shape == (0, 3)
            assert_same(next(opened.stream("c")), part("c", seed=4))

    def test_only_videos_without_frames(self, store):
        bad = DecodeReport("not_video", "the file holds no video")
        store.write([FrameFeatures.nothing("bad", 3, bad)])

        (found,) = again(store).stream("bad")
        assert found.report == bad
        assert found.whole

    def test_samples_that_could_not_be_decoded_leave_a_gap(self, store):
        whole = part("a", 0, 6)
        kept = np.array([0, 1, 4])
        gappy = FrameFeatures(
            "a", 0, 6, 6, whole.values[kept], kept, kept * 2, kept / 10, DecodeReport("partial")
        )
        store.write([gappy])

        assert store.has("a")
        assert_same(next(again(store).stream("a")), gappy)

    def test_the_same_segments_have_the_same_file(self, store):
        first = store.write([part("a", seed=1), part("b", seed=2)])
        second = store.write([part("a", seed=3), part("b", seed=4)])
        other = store.write([part("c")])

        assert first == second != other
        assert store.segments("a") == [(0, 4)]
        assert_same(next(store.stream("b")), part("b", seed=4))

    def test_a_file_that_is_replaced_is_read_by_its_new_rows(self, store):
        """The second attempt got fewer frames of the first video."""
        short = part("a", 0, 4)
        short = FrameFeatures("a", 0, 4, 4, *(x[:1] for x in arrays(short)), OK)
        store.write([part("a"), part("b", seed=5)])
        store.write([short, part("b", seed=6)])

        assert_same(next(store.stream("a")), short)
        assert_same(next(store.stream("b")), part("b", seed=6))

    def test_a_file_is_read_once_for_all_that_a_thread_wants_of_it(self, store, monkeypatch):
        parts = [part(name, seed=number) for number, name in enumerate("abc")]
        store.write(parts)
        read, right = [], module.pq.read_table
        monkeypatch.setattr(module.pq, "read_table", lambda path: read.append(path) or right(path))

        for wanted in parts:
            assert_same(next(store.stream(wanted.video_id)), wanted)

        assert len(read) == 1

    def test_a_file_replaced_after_it_was_read_is_read_again(self, store):
        store.write([part("a", seed=1)])
        assert_same(next(store.stream("a")), part("a", seed=1))
        store.write([part("a", seed=2)])

        assert_same(next(store.stream("a")), part("a", seed=2))

    def test_leaves_no_temporary_file(self, store):
        store.write([part("a")])
        path = store.write([part("b")])

        assert path.parent == store.folder
        assert all(name.name.startswith("part-") for name in store.folder.iterdir())
        assert len(list(store.folder.iterdir())) == 2

    def test_a_write_that_fails_leaves_nothing(self, store, monkeypatch):
        def full(table, path, **_):
            path.write_bytes(b"PAR1 half")
            raise OSError("no space left on device")

        monkeypatch.setattr(pq, "write_table", full)
        with pytest.raises(MachineError, match="cannot be written: no space left"):
            store.write([part("a")])

        assert list(store.folder.iterdir()) == []
        assert not store.has("a")
        assert not again(store).has("a")

    def test_many_threads_write_at_once(self, store):
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda n: store.write([part("a", n, n + 1, 24, seed=n)]), range(24)))

        for opened in (store, again(store)):
            found = [f.values[0] for f in opened.stream("a")]
            expected = [part("a", n, n + 1, 24, seed=n).values[0] for n in range(24)]
            np.testing.assert_array_equal(found, expected)

    def test_pandas_reads_it(self, store):
        store.write([part("a", seed=1), part("b", 0, 2, seed=2)])
        rows = pd.read_parquet(store.folder)

        assert list(rows) == ["video_id", "sample_index", "frame_index", "pts_seconds", "feature"]
        assert rows["video_id"].tolist() == ["a"] * 4 + ["b"] * 2
        assert rows["sample_index"].tolist() == [0, 1, 2, 3, 0, 1]
        values = np.stack(rows.loc[rows.video_id == "b", "feature"].tolist())
        assert values.dtype == np.float16
        np.testing.assert_array_equal(values, part("b", 0, 2, seed=2).values)


def arrays(features):
    return features.values, features.sample_index, features.frame_index, features.pts_seconds


class TestForget:
    def test_a_forgotten_video_is_not_there_for_this_run_nor_for_later_ones(self, store):
        store.write([part("a"), part("b", seed=2)])
        store.forget("a")

        for opened in (store, again(store)):
            assert not opened.has("a")
            assert opened.segments("a") == []
            assert_same(next(opened.stream("b")), part("b", seed=2))

    def test_what_comes_after_is_found_by_later_runs(self, store):
        """The next attempt shares its file with other videos, or with none."""
        bad = DecodeReport("undecodable", "no frame")
        store.write([part("b", seed=2), FrameFeatures.nothing("a", 3, bad), part("c")])
        store.forget("a")
        store.write([part("a", seed=7)])

        for opened in (store, again(store)):
            assert opened.reports("a") == [OK]
            assert_same(next(opened.stream("a")), part("a", seed=7))
            assert_same(next(opened.stream("b")), part("b", seed=2))

    def test_who_reads_at_the_same_time_still_finds_its_rows(self, store):
        store.write([part("a"), part("b", seed=2)])
        reader = again(store)
        store.forget("a")

        assert_same(next(reader.stream("b")), part("b", seed=2))

    def test_all_segments_go(self, store):
        for start in (0, 3):
            store.write([part("a", start, start + 3, 6), part(f"other {start}")])
        store.forget("a")

        assert again(store).segments("a") == []
        assert again(store).has("other 3")

    def test_a_video_that_is_not_there(self, store):
        store.write([part("a")])
        store.forget("b")

        assert again(store).has("a")
