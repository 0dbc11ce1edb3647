"""Engines compared with Pillow, timm's transform and torch in float32."""

from __future__ import annotations

import dataclasses
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import nn

from pipeline.config import EncodeOptions, Geometry
from pipeline.decode.downscale import decoded_size, downscale
from pipeline.encode import engines, torch_engine
from pipeline.encode.backbone import Backbone, load_backbone
from pipeline.encode.batch_size import CPU_BATCH_SIZES
from pipeline.encode.encoder import encode_frames
from pipeline.encode.engine import Placement, describe_engine
from pipeline.encode.engine_lock import EngineLock
from pipeline.encode.engines import make_engine, reduced_precision
from pipeline.encode.frame_pair import frame_pair_backbone
from pipeline.encode.openvino_engine import OpenVINOEngine
from pipeline.encode.pinned_memory import PinnedBuffers
from pipeline.encode.precision import compare_precisions
from pipeline.encode.preprocess import scaled_size
from pipeline.encode.torch_engine import TorchEngine
from pipeline.errors import EngineError
from tests.encode.test_encoder import draw, frame_batch, small_frame_pair_network
from tests.videos import draw_number

FLOAT32 = Placement("cpu", "float32")
ENGINES = ["torch", "openvino"]
REAL_CLIPS = [
    *("cosmos_10s.mp4", "flipping_a_pancake.mkv", "k400_armwrestling.mp4", "mma_skel.mp4"),
    *("mma_test.avi", "v_GGSY1Qvo990.mp4", "v_ZNVhz7ctTq0.mp4"),
    *("0_1_4.avi", "22_4_3.avi", "39_7_3.avi"),
]


def make(kind, backbone, cache, precision="float32", batch_size=4):
    placement = Placement("cpu", precision)
    if kind == "torch":
        return TorchEngine(backbone, placement, batch_size)
    return OpenVINOEngine(backbone, placement, batch_size, cache)


def draw_frames(count, height, width):
    """Draw numbered frames with noise, (T, H, W, 3)."""
    chance = np.random.default_rng(count * height + width)
    noise = chance.integers(0, 60, (count, height, width, 3))
    drawn = np.stack([draw_number(number * 37, width, height) for number in range(count)])
    return np.clip(drawn.astype(int) + noise - 30, 0, 255).astype(np.uint8)


def reference_images(backbone, frames):
    """Preprocess frames with timm's transform: normalized, (T, 3, H, W)."""
    config = resolve_model_data_config(backbone.module.network)
    transform = create_transform(**config, is_training=False)
    return torch.stack([transform(Image.fromarray(frame)) for frame in frames])


@torch.inference_mode()
def reference_features(backbone, frames):
    return backbone.module.float()(reference_images(backbone, frames)).numpy()


def decode(backbone, frames):
    """Downscale frames as decode processes do."""
    size = decoded_size(*frames.shape[1:3], backbone.geometry)
    return np.stack([downscale(frame, size) for frame in frames])


def encode(engine, frames):
    return engine.start(engine.preprocess(decode(engine.backbone, frames)))()


def cosines(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture(scope="module")
def resnet():
    """160 × 160, bilinear, a centre crop of 0.95."""
    return load_backbone("random:test_resnet")


@pytest.fixture(scope="module")
def efficientnet():
    """160 × 160, bicubic, a centre crop of 0.95."""
    return load_backbone("random:test_efficientnet")


@pytest.fixture(scope="module")
def mobilenet(shared):
    return load_backbone(f"local-dir:{shared / 'weights' / 'mobilenetv2_100_imagenet'}")


@pytest.fixture(scope="module")
def real_frames(shared):
    """Two frames of each of ten clips, each clip an array (2, H, W, 3)."""
    clips = {}
    for name in REAL_CLIPS:
        path = next(shared.glob(f"data/*/{name}"))
        with av.open(str(path)) as container:
            frames = []
            for number, frame in enumerate(container.decode(video=0)):
                if number % 8 == 0:
                    frames.append(frame.to_ndarray(format="rgb24"))
                if len(frames) == 2:
                    break
        clips[name] = np.stack(frames)
    return clips


@pytest.fixture(scope="module")
def real_features(mobilenet, real_frames):
    return {name: reference_features(mobilenet, frames) for name, frames in real_frames.items()}


class TestParityWithTimm:
    @pytest.mark.parametrize("kind", ENGINES)
    def test_real_frames_in_float32(
        self, mobilenet, real_frames, real_features, engine_cache, kind
    ):
        engine = make(kind, mobilenet, engine_cache)
        worst = {
            name: cosines(encode(engine, frames), real_features[name]).min()
            for name, frames in real_frames.items()
        }

        assert len(worst) == len(REAL_CLIPS)
        assert min(worst.values()) >= 0.999, worst

    def test_real_frames_in_bfloat16(self, mobilenet, real_frames, real_features, engine_cache):
        engine = make("openvino", mobilenet, engine_cache, "bfloat16")
        found = [
            cosines(encode(engine, frames), real_features[name])
            for name, frames in real_frames.items()
        ]

        assert np.mean(found) >= 0.99

    @pytest.mark.parametrize("kind", ENGINES)
    def test_drawn_frames_in_bfloat16(self, resnet, engine_cache, kind):
        frames = draw_frames(4, 200, 300)
        engine = make(kind, resnet, engine_cache, "bfloat16")

        assert cosines(encode(engine, frames), reference_features(resnet, frames)).mean() >= 0.99

    def test_features_of_different_clips_differ(self, real_features):
        """Otherwise high cosine similarities would prove nothing."""
        first = np.stack([features[0] for features in real_features.values()])
        between = [cosines(first[:1], other[None])[0] for other in first[1:]]

        assert max(between) < 0.9

    @pytest.mark.parametrize("size", [(240, 320), (400, 170), (168, 168), (168, 500), (90, 70)])
    @pytest.mark.parametrize("name", ["resnet", "efficientnet"])
    def test_preprocessing_is_that_of_pillow(self, request, name, size):
        """
        Landscape, portrait, no resize, crop only, enlargement: within one level of 255.

        Pillow has more precise weights, which shows in one of thousands of pixels.
        """
        backbone = request.getfixturevalue(name)
        frames = draw_frames(2, *size)
        images = TorchEngine(backbone, FLOAT32, 4).preprocess(frames)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (backbone.mean, backbone.std))
        expected = (reference_images(backbone, frames) * std + mean) * 255

        assert images.dtype == torch.uint8
        assert images.shape == (2, 160, 160, 3)
        difference = images.permute(0, 3, 1, 2).float() - expected
        assert (difference.abs() < 1.01).float().mean() > 0.999
        assert difference.mean().abs() < 0.01

    @pytest.mark.parametrize("kind", ENGINES)
    def test_drawn_frames_of_the_size_of_decoded_ones(self, resnet, engine_cache, kind):
        """Features of random networks have a large common mean: compare them without it."""
        frames = draw_frames(6, 700, 1000)
        expected = reference_features(resnet, frames)
        found = encode(make(kind, resnet, engine_cache), frames)

        assert decode(resnet, frames).shape == (6, 350, 500, 3)
        assert cosines(found, expected).min() > 0.999
        centred = cosines(found - expected.mean(0), expected - expected.mean(0))
        assert centred.min() > 0.99

    def test_squashed_images_are_those_of_pillow(self, resnet):
        backbone = dataclasses.replace(resnet, geometry=Geometry(64, 96, "squash", 0.8))
        frames = draw_frames(2, 200, 200)
        transform = create_transform(
            (3, 64, 96), crop_pct=0.8, crop_mode="squash", interpolation="bilinear", normalize=False
        )
        expected = torch.stack([transform(Image.fromarray(frame)) for frame in frames])
        images = TorchEngine(backbone, FLOAT32, 4).preprocess(frames)

        difference = images.permute(0, 3, 1, 2).int() - expected.int()
        assert difference.abs().max() <= 1

    @pytest.mark.parametrize(
        ("size", "geometry", "expected"),
        [
            ((480, 640), Geometry(224, 224, "short", 0.875), (256, 341)),
            ((640, 480), Geometry(224, 224, "short", 0.875), (341, 256)),
            ((256, 256), Geometry(224, 224, "short", 1.0), (224, 224)),
            ((480, 640), Geometry(72, 96, "squash", 1.0), (72, 96)),
            ((480, 640), Geometry(72, 96, "squash", 0.9), (80, 106)),
        ],
    )
    def test_scaled_size(self, size, geometry, expected):
        assert scaled_size(*size, geometry) == expected


@pytest.fixture(scope="module")
def given():
    return torch.from_numpy(draw_frames(7, 160, 160))


@pytest.fixture(scope="module")
def alone(resnet, given, engine_cache):
    """Features of each image encoded alone."""
    engines = {kind: make(kind, resnet, engine_cache, batch_size=1) for kind in ENGINES}
    return {
        kind: np.concatenate([engine.start(one[None])() for one in given])
        for kind, engine in engines.items()
    }


class TestBatches:
    @pytest.mark.parametrize("kind", ENGINES)
    @pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 8])
    def test_rows_do_not_depend_on_the_batch(
        self, resnet, engine_cache, given, alone, kind, batch_size
    ):
        engine = make(kind, resnet, engine_cache, batch_size=batch_size)
        found = engine.start(given)()

        assert found.dtype == np.float32
        assert found.shape == (7, 96)
        assert np.abs(found[0] - found[1]).max() > 1e-3
        np.testing.assert_allclose(found, alone[kind], atol=2e-6)
        np.testing.assert_allclose(engine.start(given[2:5])(), alone[kind][2:5], atol=2e-6)

    def test_engines_agree(self, alone):
        np.testing.assert_allclose(alone["torch"], alone["openvino"], atol=1e-5)

    @pytest.mark.parametrize("kind", ENGINES)
    def test_features_stay_when_the_engine_continues(self, resnet, engine_cache, given, kind):
        """OpenVINO may reuse its output memory."""
        engine = make(kind, resnet, engine_cache, batch_size=2)
        first = engine.start(given[:2])()
        kept = first.copy()
        engine.start(given[4:6])()

        np.testing.assert_array_equal(first, kept)

    @pytest.mark.parametrize("kind", ENGINES)
    def test_no_images_have_no_features(self, resnet, engine_cache, given, kind):
        found = make(kind, resnet, engine_cache).start(given[:0])()

        assert found.shape == (0, 96)
        assert found.dtype == np.float32

    @pytest.mark.parametrize("kind", ENGINES)
    def test_images_need_not_be_contiguous(self, resnet, engine_cache, given, alone, kind):
        apart = torch.cat([given, given], dim=3)[..., :3]
        assert not apart.is_contiguous()

        found = make(kind, resnet, engine_cache).start(apart)()

        np.testing.assert_allclose(found, alone[kind], atol=2e-6)


class Small(nn.Module):
    """Fail for more images than fit into memory; return their mean colours."""

    def __init__(self, most, error=None):
        super().__init__()
        self.most = most
        self.error = error or torch.OutOfMemoryError("no memory")
        self.seen = []

    def forward(self, images):
        self.seen.append(len(images))
        if len(images) > self.most:
            raise self.error
        return images.mean((2, 3))


def small_engine(most, batch_size, error=None, placement=FLOAT32):
    backbone = Backbone(
        name="small",
        module=Small(most, error),
        weights_hash="",
        geometry=Geometry(8, 8),
        interpolation="bilinear",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        feature_size=3,
    )
    return TorchEngine(backbone, placement, batch_size)


class TestOutOfMemory:
    def test_the_batch_size_is_halved_and_no_row_is_lost(self, caplog):
        engine = small_engine(most=3, batch_size=9)
        levels = torch.arange(11, dtype=torch.uint8)
        found = engine.start(levels.view(-1, 1, 1, 1).expand(-1, 8, 8, 3))()

        np.testing.assert_allclose(found, np.arange(11)[:, None].repeat(3, 1) / 255, rtol=1e-6)
        assert engine.backbone.module.seen == [9, 5, 3, 3, 3, 2]
        assert "batch size is now 5" in caplog.text
        assert "batch size is now 3" in caplog.text

    def test_the_reduced_batch_size_is_kept(self):
        engine = small_engine(most=2, batch_size=4)
        images = torch.zeros(4, 8, 8, 3, dtype=torch.uint8)
        engine.start(images)()
        engine.backbone.module.seen.clear()
        engine.start(images)()

        assert engine.batch_size == 2
        assert engine.backbone.module.seen == [2, 2]

    def test_memory_too_small_for_a_single_image_fails(self):
        engine = small_engine(most=0, batch_size=4)

        with pytest.raises(EngineError, match="out of memory on the device with a single image"):
            engine.start(torch.zeros(4, 8, 8, 3, dtype=torch.uint8))()

    def test_a_partial_batch_is_halved_by_its_own_size(self):
        engine = small_engine(most=2, batch_size=512)
        engine.start(torch.zeros(3, 8, 8, 3, dtype=torch.uint8))()

        assert engine.backbone.module.seen == [3, 2, 1]

    def test_out_of_memory_errors_of_libraries_are_recognized(self):
        error = RuntimeError("GET was unable to find an engine to execute this computation")
        engine = small_engine(most=2, batch_size=4, error=error)
        engine.start(torch.zeros(4, 8, 8, 3, dtype=torch.uint8))()

        assert engine.batch_size == 2

    def test_other_errors_are_raised(self):
        error = RuntimeError("CUDA error: an illegal memory access was encountered")
        engine = small_engine(most=2, batch_size=4, error=error)

        with pytest.raises(RuntimeError, match="illegal memory access"):
            engine.start(torch.zeros(4, 8, 8, 3, dtype=torch.uint8))()
        assert engine.batch_size == 4

    def test_memory_is_freed_outside_of_the_except_block(self, monkeypatch):
        """The error references tensors of the computation."""
        handled = []
        monkeypatch.setattr(
            torch_engine, "free_device_memory", lambda: handled.append(sys.exception())
        )
        small_engine(most=2, batch_size=4).start(torch.zeros(4, 8, 8, 3, dtype=torch.uint8))()

        assert handled == [None]


def limit_preprocessing(monkeypatch, most, error=None):
    """Fail for more frames at once; return the list of numbers of frames."""
    right, seen = torch_engine.resize_and_crop, []

    def limited(given, backbone):
        seen.append(len(given))
        if len(given) > most:
            raise error or torch.OutOfMemoryError("no memory")
        return right(given, backbone)

    monkeypatch.setattr(torch_engine, "resize_and_crop", limited)
    return seen


class TestOutOfMemoryInPreprocessing:
    """Frames are resized on the device; its memory is simulated."""

    @pytest.fixture
    def preprocess(self, monkeypatch):
        def preprocess_(frames, most, error=None):
            engine = small_engine(most=9, batch_size=4)
            engine._buffers = PinnedBuffers("cpu")
            with monkeypatch.context() as patched:
                seen = limit_preprocessing(patched, most, error)
                return engine.preprocess(frames), seen

        return preprocess_

    def test_frames_are_split_and_none_is_lost(self, preprocess):
        frames = draw_frames(7, 20, 30)
        expected, _ = preprocess(frames, most=7)
        found, seen = preprocess(frames, most=2)

        assert torch.equal(found, expected)
        assert seen == [7, 4, 2, 2, 3, 2, 1]

    def test_memory_too_small_for_a_single_frame_fails(self, preprocess):
        with pytest.raises(EngineError, match="out of memory on the device with a single image"):
            preprocess(draw_frames(3, 20, 30), most=0)

    def test_other_errors_are_raised(self, preprocess):
        with pytest.raises(RuntimeError, match="illegal memory access"):
            preprocess(
                draw_frames(3, 20, 30), 0, RuntimeError("CUDA error: an illegal memory access")
            )


class TestReducedPrecision:
    """The reduced precision of a simulated CUDA device."""

    @pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float16")])
    def test_bfloat16_only_if_it_is_not_emulated(self, monkeypatch, native, expected):
        """A T4 only emulates it."""

        def supported(including_emulation=True):
            return including_emulation or native

        monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)

        assert reduced_precision("cuda") == expected


class TestMakeEngine:
    def test_float32_on_cuda_disables_tf32(self, monkeypatch, resnet, tmp_path):
        """The engine is replaced, as there may be no CUDA device."""
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
        monkeypatch.setattr(engines, "TorchEngine", lambda *_: "engine")
        options = EncodeOptions(batch_size=4)

        assert make_engine(resnet, Placement("cuda", "float32"), options, tmp_path) == "engine"
        assert not torch.backends.cudnn.allow_tf32

    @pytest.mark.parametrize(("cpus", "expected"), [(2, 2), (8, 4)])
    def test_torch_uses_no_more_threads_than_available_cpus(
        self, monkeypatch, resnet, engine_cache, cpus, expected
    ):
        threads = [4]
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads[-1])
        monkeypatch.setattr(torch, "set_num_threads", threads.append)
        monkeypatch.setattr(engines, "available_cpus", lambda: cpus)
        make_engine(resnet, FLOAT32, EncodeOptions(batch_size=2), engine_cache)

        assert threads[-1] == expected

    def test_openvino_on_the_cpu(self, resnet, engine_cache):
        engine = make_engine(resnet, FLOAT32, EncodeOptions(), engine_cache)

        assert engine.batch_size in CPU_BATCH_SIZES
        assert describe_engine(engine) == {
            "engine": "openvino",
            "device": "cpu",
            "precision": "float32",
            "batch_size": engine.batch_size,
        }

    def test_batch_size_of_the_options(self, resnet, engine_cache):
        options = EncodeOptions(batch_size=6)

        assert make_engine(resnet, FLOAT32, options, engine_cache).batch_size == 6

    def test_torch_if_openvino_is_not_installed(self, monkeypatch, caplog, resnet, engine_cache):
        monkeypatch.delitem(sys.modules, "pipeline.encode.openvino_engine")
        monkeypatch.setitem(sys.modules, "openvino", None)
        engine = make_engine(resnet, FLOAT32, EncodeOptions(), engine_cache)

        assert describe_engine(engine)["engine"] == "torch"
        assert (
            "encoding with torch on the CPU, which is much slower: import of openvino"
            in caplog.text
        )

    def test_torch_if_openvino_lacks_an_operator(self, caplog, tmp_path):
        """This network resizes its position embedding, with an operator that OpenVINO lacks."""
        backbone = load_backbone("random:test_vit")
        engine = make_engine(backbone, FLOAT32, EncodeOptions(), tmp_path)
        frames = draw_frames(2, 170, 170)

        assert engine.name == "torch"
        assert "OpenVINO cannot convert random:test_vit" in caplog.text
        assert cosines(encode(engine, frames), reference_features(backbone, frames)).min() > 0.999

    def test_torch_if_openvino_lacks_the_precision(self, caplog, resnet, engine_cache):
        options = EncodeOptions()
        engine = make_engine(resnet, Placement("cpu", "float16"), options, engine_cache)
        frames = draw_frames(2, 170, 170)

        assert (engine.name, engine.precision) == ("torch", "float16")
        assert "does not compute in float16" in caplog.text
        assert cosines(encode(engine, frames), reference_features(resnet, frames)).min() > 0.999


@pytest.fixture(scope="module")
def cuda():
    if torch.cuda.is_available():
        return Placement("cuda", "float32")
    if os.environ.get("FAIL_WITHOUT_CUDA"):
        pytest.fail("FAIL_WITHOUT_CUDA is set, and torch sees no CUDA device")
    pytest.skip("torch sees no CUDA device")


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
