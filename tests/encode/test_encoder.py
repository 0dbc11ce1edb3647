"""Encoding of frames in batches that continue across videos."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.encode import encoder
from pipeline.encode import preprocess as module
from pipeline.encode.encoder import encode_frames
from pipeline.encode.engine_lock import EngineLock
from pipeline.encode.frame_pair import frame_pair_backbone
from pipeline.encode.openvino_engine import OpenVINOEngine
from pipeline.encode.torch_engine import TorchEngine
from tests.encode.toy_engine import (
    FLOAT32,
    draw,
    encode,
    engine,
    frame_batch,
    small_frame_pair_network,
)


class TestEncode:
    def test_features_belong_to_their_frames(self):
        images = draw(5)
        (found,) = encode(engine(2), frame_batch("a", images))

        assert found.values.dtype == np.float16
        np.testing.assert_allclose(found.values, images.mean((1, 2)) / 255, rtol=1e-3)
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
    def test_many_chunks_have_the_features_of_each_alone(
        self, counts, sizes, batch_size, chunk, few, context
    ):
        """For all batch sizes, chunks and frame sizes."""
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

    def test_small_frames_are_preprocessed_in_parts(self):
        """A limit of bytes alone would include the whole shard."""
        made = engine(4)
        cut = []
        preprocess = made.preprocess
        made.preprocess = lambda frames: cut.append(len(frames)) or preprocess(frames)

        encode(made, frame_batch("a", draw(module.MAX_FRAMES + 3)))

        assert cut == [module.MAX_FRAMES, 3]

    def test_the_engine_receives_full_batches(self):
        made = engine(4)
        sizes = []
        made.backbone.module.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
        encode(made, *(frame_batch(str(n), draw(n)) for n in (3, 0, 2, 6)))

        assert sizes == [4, 4, 3]

    def test_videos_of_few_frames_are_encoded_together(self):
        """A single image would keep only one core busy."""
        started = []

        class Recording(TorchEngine):
            def start(self, images):
                started.append(len(images))
                return super().start(images)

        made = Recording(engine().backbone, FLOAT32, 1)
        encode(made, *(frame_batch(str(n), draw(1, n)) for n in range(encoder.MIN_IMAGES + 3)))

        assert started == [encoder.MIN_IMAGES, 3]

    def test_a_chunk_without_frames_keeps_its_report(self):
        (found,) = encode(engine(), frame_batch("a", draw(0)))

        assert found.values.shape == (0, 3)
        assert found.report.status == "ok"

    def test_no_chunks_have_no_features(self):
        assert encode(engine()) == []

    def test_features_beyond_the_range_of_float16_stay_finite(self):
        (found,) = encode(engine(scale=1e6), frame_batch("a", draw(1)))

        np.testing.assert_array_equal(found.values, np.full((1, 3), 65504, np.float16))

    def test_the_lock_is_held_only_to_start(self, monkeypatch):
        monkeypatch.setattr(encoder, "MIN_IMAGES", 2)
        lock = EngineLock()
        held = []

        class Recording(TorchEngine):
            def preprocess(self, frames):
                held.append(("preprocess", lock.start.locked()))
                return super().preprocess(frames)

            def start(self, images):
                held.append(("start", lock.start.locked()))
                encoder = super().start(images)

                def wait():
                    held.append(("wait", lock.start.locked()))
                    return encoder()

                return wait

        made = Recording(engine().backbone, FLOAT32, 2)
        encode_frames(made, [frame_batch("a", draw(3))], lock)

        assert held == [("preprocess", False), *2 * [("start", True), ("wait", False)]]
        assert not lock.start.locked()
        assert lock.busy_seconds > 0

    def test_openvino_with_odd_batches(self, engine_cache):
        """One network for full batches, one for the remaining images."""
        made = OpenVINOEngine(
            frame_pair_backbone(small_frame_pair_network()), FLOAT32, 3, engine_cache
        )
        batches = [frame_batch(str(n), draw(n, 20 * n, (72, 96))) for n in (5, 1, 4)]
        alone = [encode(made, batch)[0].values for batch in batches]

        for part, expected in zip(encode(made, *batches), alone, strict=True):
            np.testing.assert_allclose(part.values, expected, atol=2e-3)


class TestRepeatedFrames:
    """A frame that is sampled several times is encoded once."""

    class Counting(TorchEngine):
        encoded = 0

        def start(self, images):
            self.encoded += len(images)
            return super().start(images)

    def counting(self, context):
        made = engine(context=context)
        return self.Counting(made.backbone, FLOAT32, 4)

    @settings(max_examples=60, deadline=None)
    @given(runs=st.lists(st.integers(1, 5), max_size=6), context=st.integers(0, 1))
    def test_features_are_the_same_as_without_sharing(self, runs, context):
        frames = np.repeat(np.arange(len(runs)), runs)
        images = draw(len(runs))[frames] if runs else draw(0)
        plain = frame_batch("a", images, context=context)
        repeated = replace(plain, frame_index=frames)

        (expected,) = encode(engine(context=context), plain)
        (found,) = encode(engine(context=context), repeated)

        np.testing.assert_array_equal(found.values, expected.values)
        np.testing.assert_array_equal(found.frame_index, frames)

    @pytest.mark.parametrize(("context", "encoded"), [(0, 3 + 2), (1, 3 + 1 + 2)])
    def test_a_repeated_frame_is_encoded_once_for_each_previous_frame(self, context, encoded):
        made = self.counting(context)
        frames = np.array([0, 1, 1, 1, 2])
        shown = replace(frame_batch("a", draw(3)[frames]), frame_index=frames)
        other = frame_batch("b", draw(2, 7))

        first, second = encode(made, shown, other)

        assert made.encoded == encoded
        assert (len(first.values), len(second.values)) == (5, 2)
        alone = encode(engine(context=context), other)[0]
        np.testing.assert_array_equal(second.values, alone.values)


class TestPreviousFrame:
    def test_a_frame_is_encoded_with_its_previous_frame_and_the_first_with_itself(self):
        images = draw(6)
        (found,) = encode(engine(2, context=1), frame_batch("a", images))
        means = images.mean((1, 2)) / 255
        changes = np.diff(means, axis=0, prepend=means[:1])

        np.testing.assert_allclose(found.values[:, :3], changes, atol=1e-3)
        assert not found.values[0, :3].any()

    def test_the_first_frame_of_a_video_has_no_previous_frame(self):
        first, second = frame_batch("a", draw(3)), frame_batch("b", draw(3, 40))
        _, found = encode(engine(8, context=1), first, second)

        assert not found.values[0, :3].any()

    @pytest.mark.parametrize("cut", range(1, 9))
    def test_chunks_with_a_context_frame_have_the_features_of_the_whole(self, cut):
        images = draw(9)
        (whole,) = encode(engine(4, context=1), frame_batch("a", images))
        head = frame_batch("a", images[:cut], num_samples=9)
        tail = frame_batch("a", images[cut - 1 :], first=cut - 1, start=cut, context=1)
        parts = encode(engine(4, context=1), head, tail)

        assert [(part.start, part.stop) for part in parts] == [(0, cut), (cut, 9)]
        assert [part.whole for part in parts] == [False, False]
        np.testing.assert_array_equal(np.concatenate([p.values for p in parts]), whole.values)
        np.testing.assert_array_equal(parts[1].sample_index, range(cut, 9))
        np.testing.assert_array_equal(parts[1].frame_index, range(3 * cut, 27, 3))

    def test_chunks_of_the_frame_pair_network_have_the_features_of_the_whole(self):
        images = draw(8, size=(72, 96))
        made = TorchEngine(frame_pair_backbone(small_frame_pair_network()), FLOAT32, 4)
        (whole,) = encode(made, frame_batch("a", images))
        head = frame_batch("a", images[:5], num_samples=8)
        tail = frame_batch("a", images[4:], first=4, start=5, context=1)
        parts = encode(made, head, tail)

        values = np.concatenate([part.values for part in parts])
        np.testing.assert_allclose(values, whole.values, atol=2e-3)
        assert np.abs(np.diff(whole.values.astype(float), axis=0)).max() > 0.01

    def test_a_missing_context_frame_changes_one_row_only(self):
        images = draw(9)
        (whole,) = encode(engine(context=1), frame_batch("a", images))
        (tail,) = encode(engine(context=1), frame_batch("a", images[4:], first=4, context=1))

        assert not tail.values[0, :3].any()
        np.testing.assert_array_equal(tail.values[1:], whole.values[5:])
