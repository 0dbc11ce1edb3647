"""Frames to features, in batches that run on from one video to the next, and the store."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.config import Geometry
from pipeline.encode import encoder
from pipeline.encode import preprocess as module
from pipeline.encode.backbone import Backbone
from pipeline.encode.encoder import encode_frames
from pipeline.encode.engine import Placement
from pipeline.encode.engine_lock import EngineLock
from pipeline.encode.frame_pair import FramePairNetwork, frame_pair_backbone
from pipeline.encode.openvino_engine import OpenVINOEngine
from pipeline.encode.torch_engine import TorchEngine
from pipeline.records import Chunk, DecodeReport, FrameBatch, Video
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
        previous_frames=context,
    )
    return TorchEngine(backbone, FLOAT32, batch_size)


def frame_batch(video_id, pictures, *, first=0, start=None, num_samples=None, context=0):
    """Make a decoded chunk: `pictures` begin with sample `first`."""
    count = len(pictures)
    start = first if start is None else start
    stop = first + count
    video = Video(f"{video_id}.mp4", f"/{video_id}.mp4", "file", video_id, 1)
    index = np.arange(first, stop)
    return FrameBatch(
        chunk=Chunk(video, None, start, stop, num_samples or stop, context),
        images=pictures,
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
    return encode_frames(made, batches, EngineLock())


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
        few=st.integers(1, 20),
        context=st.integers(0, 1),
    )
    def test_many_chunks_are_encoded_as_each_alone(
        self, counts, sizes, batch_size, chunk, few, context
    ):
        """Whatever the batches, the chunks, and the sizes of the pictures."""
        made = engine(batch_size, context=context)
        batches = [
            frame_batch(str(number), draw(count, 50 * number, size))
            for number, (count, size) in enumerate(zip(counts, sizes, strict=False))
        ]
        alone = [encode(engine(1, context=context), batch)[0].values for batch in batches]
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(module, "MAX_BYTES", chunk * 8 * 8 * 3)
            patched.setattr(encoder, "MIN_IMAGES", few)
            found = encode(made, *batches)

        assert [part.video_id for part in found] == [str(n) for n in range(len(counts))]
        assert [len(part.values) for part in found] == counts
        for part, expected in zip(found, alone, strict=True):
            np.testing.assert_array_equal(part.values, expected)

    def test_small_pictures_are_cut_so_many_at_a_time(self):
        """By bytes alone it would be all of a shard, and several times as much on the way."""
        made = engine(4)
        cut = []
        preprocess = made.preprocess
        made.preprocess = lambda frames: cut.append(len(frames)) or preprocess(frames)

        encode(made, frame_batch("a", draw(module.MAX_FRAMES + 3)))

        assert cut == [module.MAX_FRAMES, 3]

    def test_the_engine_is_given_whole_batches(self):
        made = engine(4)
        sizes = []
        made.backbone.module.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
        encode(made, *(frame_batch(str(n), draw(n)) for n in (3, 0, 2, 6)))

        assert sizes == [4, 4, 3]

    def test_videos_of_few_pictures_are_begun_with_together(self):
        """Sampled sparsely, each video has one: alone it would keep a single core busy."""
        started = []

        class Watched(TorchEngine):
            def start(self, pictures):
                started.append(len(pictures))
                return super().start(pictures)

        made = Watched(engine().backbone, FLOAT32, 1)
        encode(made, *(frame_batch(str(n), draw(1, n)) for n in range(encoder.MIN_IMAGES + 3)))

        assert started == [encoder.MIN_IMAGES, 3]

    def test_a_chunk_without_frames_keeps_its_report(self):
        (found,) = encode(engine(), frame_batch("a", draw(0)))

        assert found.values.shape == (0, 3)
        assert found.report.status == "ok"

    def test_nothing_gives_nothing(self):
        assert encode(engine()) == []

    def test_features_beyond_float16_stay_finite(self):
        (found,) = encode(engine(scale=1e6), frame_batch("a", draw(1)))

        np.testing.assert_array_equal(found.values, np.full((1, 3), 65504, np.float16))

    def test_a_turn_is_taken_to_begin_with_and_neither_before_nor_to_wait(self, monkeypatch):
        monkeypatch.setattr(encoder, "MIN_IMAGES", 2)
        lock = EngineLock()
        held = []

        class Watched(TorchEngine):
            def preprocess(self, frames):
                held.append(("preprocess", lock.start.locked()))
                return super().preprocess(frames)

            def start(self, pictures):
                held.append(("start", lock.start.locked()))
                encoder = super().start(pictures)

                def wait():
                    held.append(("wait", lock.start.locked()))
                    return encoder()

                return wait

        made = Watched(engine().backbone, FLOAT32, 2)
        encode_frames(made, [frame_batch("a", draw(3))], lock)

        assert held == [("preprocess", False), *2 * [("start", True), ("wait", False)]]
        assert not lock.start.locked()
        assert lock.busy_seconds > 0

    def test_openvino_with_odd_batches(self, engine_cache):
        """Two networks take part: one for whole batches, one for what is left."""
        made = OpenVINOEngine(frame_pair_backbone(small_pairs()), FLOAT32, 3, engine_cache)
        batches = [frame_batch(str(n), draw(n, 20 * n, (72, 96))) for n in (5, 1, 4)]
        alone = [encode(made, batch)[0].values for batch in batches]

        for part, expected in zip(encode(made, *batches), alone, strict=True):
            np.testing.assert_allclose(part.values, expected, atol=2e-3)


class TestRepeatedFrames:
    """A frame that is shown on is sampled again and again, and encoded once."""

    class Counting(TorchEngine):
        encoded = 0

        def start(self, pictures):
            self.encoded += len(pictures)
            return super().start(pictures)

    def counting(self, context):
        made = engine(context=context)
        return self.Counting(made.backbone, FLOAT32, 4)

    @settings(max_examples=60, deadline=None)
    @given(runs=st.lists(st.integers(1, 5), max_size=6), context=st.integers(0, 1))
    def test_features_are_those_of_encoding_every_sample(self, runs, context):
        frames = np.repeat(np.arange(len(runs)), runs)
        pictures = draw(len(runs))[frames] if runs else draw(0)
        plain = frame_batch("a", pictures, context=context)
        repeated = replace(plain, frame_index=frames)

        (expected,) = encode(engine(context=context), plain)
        (found,) = encode(engine(context=context), repeated)

        np.testing.assert_array_equal(found.values, expected.values)
        np.testing.assert_array_equal(found.frame_index, frames)

    @pytest.mark.parametrize(("context", "encoded"), [(0, 3 + 2), (1, 3 + 1 + 2)])
    def test_each_is_encoded_once_and_as_its_own_successor_where_it_has_one(self, context, encoded):
        made = self.counting(context)
        frames = np.array([0, 1, 1, 1, 2])
        shown = replace(frame_batch("a", draw(3)[frames]), frame_index=frames)
        other = frame_batch("b", draw(2, 7))

        first, second = encode(made, shown, other)

        assert made.encoded == encoded
        assert (len(first.values), len(second.values)) == (5, 2)
        alone = encode(engine(context=context), other)[0]
        np.testing.assert_array_equal(second.values, alone.values)


def small_pairs():
    torch.manual_seed(11)
    return FramePairNetwork(size=8)


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
    def test_chunks_with_a_frame_before_them_are_as_the_whole(self, cut):
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

    def test_chunks_of_the_pair_network_are_as_the_whole(self):
        pictures = draw(8, size=(72, 96))
        made = TorchEngine(frame_pair_backbone(small_pairs()), FLOAT32, 4)
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
