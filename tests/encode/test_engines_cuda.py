"""Engines on a CUDA device, compared with the CPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from pipeline.config import EncodeOptions
from pipeline.encode.backbone import load_backbone
from pipeline.encode.encoder import encode_frames
from pipeline.encode.engine import Placement
from pipeline.encode.engine_lock import EngineLock
from pipeline.encode.engines import make_engine
from pipeline.encode.frame_pair import frame_pair_backbone
from pipeline.encode.precision import compare_precisions
from pipeline.encode.torch_engine import TorchEngine
from tests.encode.reference import (
    cosines,
    draw_frames,
    encode,
    limit_preprocessing,
    small_engine,
)
from tests.encode.toy_engine import FLOAT32, draw, frame_batch, small_frame_pair_network


@pytest.mark.cuda
class TestCUDA:
    @pytest.mark.parametrize("size", [(240, 320), (400, 170), (168, 168), (90, 70)])
    def test_preprocessing_is_that_of_the_cpu(self, cuda, size):
        frames = draw_frames(3, *size)
        for name in ("random:test_resnet", "random:test_efficientnet"):
            expected = TorchEngine(load_backbone(name), FLOAT32, 4).preprocess(frames)
            found = TorchEngine(load_backbone(name), cuda, 4).preprocess(frames)

            assert found.is_cuda
            assert found.dtype == torch.uint8
            difference = (found.cpu().int() - expected.int()).abs()
            assert (difference > 1).float().mean() < 0.005  # sharp edges, bicubic: up to 9 levels

    @pytest.mark.parametrize(
        ("precision", "min_cosine"), [("float32", 0.9999), ("float16", 0.999), ("bfloat16", 0.99)]
    )
    def test_features_are_those_of_the_cpu(self, cuda, precision, min_cosine):
        frames = draw_frames(7, 300, 200)
        expected = encode(TorchEngine(load_backbone("random:test_resnet"), FLOAT32, 4), frames)
        placement = Placement("cuda", precision)
        engine = TorchEngine(load_backbone("random:test_resnet"), placement, 4)
        found = encode(engine, frames)

        assert cosines(found, expected).min() >= min_cosine

    def test_real_frames(self, cuda, shared, engine_cache, real_frames, real_features):
        name = f"local-dir:{shared / 'weights' / 'mobilenetv2_100_imagenet'}"
        engine = make_engine(load_backbone(name), cuda, EncodeOptions(), engine_cache)

        assert (engine.name, engine.device) == ("torch", "cuda")
        for clip, frames in real_frames.items():
            assert cosines(encode(engine, frames), real_features[clip]).min() >= 0.999

    @pytest.mark.parametrize("precision", ["float16", "bfloat16"])
    def test_a_reduced_precision_is_compared(self, cuda, precision):
        backbone = load_backbone("random:test_resnet")
        reduced = TorchEngine(backbone, Placement("cuda", precision), 4)
        batches = [frame_batch("a", draw_frames(5, 200, 300)), frame_batch("b", draw(0))]
        check = compare_precisions(TorchEngine(backbone, cuda, 4), reduced, batches)

        assert (check.tried, check.frames) == (precision, 5)
        assert 0.99 < check.cosine_min <= 1

    def test_frame_pairs_include_the_previous_frame(self, cuda, engine_cache):
        batches = [frame_batch(str(count), draw(count, 20, (72, 96))) for count in (5, 1, 4)]
        expected = TorchEngine(frame_pair_backbone(small_frame_pair_network()), FLOAT32, 3)
        options = EncodeOptions(batch_size=3)
        found = make_engine(
            frame_pair_backbone(small_frame_pair_network()), cuda, options, engine_cache
        )

        for one, other in zip(
            encode_frames(found, batches, EngineLock()),
            encode_frames(expected, batches, EngineLock()),
            strict=True,
        ):
            np.testing.assert_allclose(one.values, other.values, atol=2e-3)

    def test_threads_preprocess_while_one_encodes(self, cuda):
        """As shards in flight do: only the network is locked."""
        engine, lock = TorchEngine(load_backbone("random:test_resnet"), cuda, 16), EngineLock()
        batches = [frame_batch(str(seed), draw_frames(40 + seed, 240, 320)) for seed in range(6)]
        alone = [encode_frames(engine, [batch], lock)[0].values for batch in batches]
        with ThreadPoolExecutor(3) as threads:
            found = list(
                threads.map(lambda batch: encode_frames(engine, [batch], lock), 4 * batches)
            )

        for (part,), expected in zip(found, 4 * alone, strict=True):
            np.testing.assert_allclose(part.values, expected, atol=2e-3)

    def test_the_batch_size_is_halved_and_no_row_is_lost(self, cuda):
        engine = small_engine(most=3, batch_size=9, placement=cuda)
        levels = torch.arange(11, dtype=torch.uint8, device="cuda").view(-1, 1, 1, 1)
        found = engine.start(levels.expand(-1, 8, 8, 3))()

        np.testing.assert_allclose(found, np.arange(11)[:, None].repeat(3, 1) / 255, rtol=1e-5)
        assert engine.batch_size == 3

    def test_frames_are_split_and_none_is_lost(self, cuda, monkeypatch):
        engine = TorchEngine(load_backbone("random:test_resnet"), cuda, 4)
        frames = draw_frames(7, 200, 300)
        expected = engine.preprocess(frames)
        seen = limit_preprocessing(monkeypatch, most=2)

        assert torch.equal(engine.preprocess(frames), expected)
        assert seen == [7, 4, 2, 2, 3, 2, 1]

    def test_with_little_memory_the_batch_size_is_reduced(self, cuda, little_memory, tmp_path):
        options = EncodeOptions(batch_size=1024)
        engine = make_engine(load_backbone("random:test_resnet"), cuda, options, tmp_path)
        images = torch.from_numpy(draw_frames(8, 160, 160)).to("cuda")
        found = engine.start(images.repeat(128, 1, 1, 1))()

        assert engine.batch_size < 1024
        np.testing.assert_allclose(found[-8:], engine.start(images)(), atol=1e-3)

    def test_the_measured_batch_size_fits_into_little_memory(self, cuda, little_memory, tmp_path):
        engine = make_engine(load_backbone("random:test_resnet"), cuda, EncodeOptions(), tmp_path)

        assert 1 <= engine.batch_size < 1024
        assert engine.start(torch.zeros(9, 160, 160, 3, dtype=torch.uint8, device="cuda"))().any()


@pytest.fixture
def little_memory(cuda):
    """Limit this process to 0.5 GiB of device memory."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**29) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
