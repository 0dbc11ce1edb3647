"""Engines against what the makers of a backbone do: Pillow, timm's transform, torch in float32."""

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
from tests.encode.test_encoder import draw, frame_batch, small_pairs
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
    """Draw numbered pictures with fine detail on them, (T, H, W, 3)."""
    chance = np.random.default_rng(count * height + width)
    noise = chance.integers(0, 60, (count, height, width, 3))
    drawn = np.stack([draw_number(number * 37, width, height) for number in range(count)])
    return np.clip(drawn.astype(int) + noise - 30, 0, 255).astype(np.uint8)


def reference_pictures(backbone, frames):
    """Give what timm's own transform makes of whole frames, normalized, (T, 3, H, W)."""
    config = resolve_model_data_config(backbone.module.network)
    transform = create_transform(**config, is_training=False)
    return torch.stack([transform(Image.fromarray(frame)) for frame in frames])


@torch.inference_mode()
def reference_features(backbone, frames):
    return backbone.module.float()(reference_pictures(backbone, frames)).numpy()


def deliver(backbone, frames):
    """Give the frames as they leave the decode process."""
    size = decoded_size(*frames.shape[1:3], backbone.geometry)
    return np.stack([downscale(frame, size) for frame in frames])


def encode(engine, frames):
    return engine.start(engine.preprocess(deliver(engine.backbone, frames)))()


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

    def test_features_tell_real_frames_apart(self, real_features):
        """Else the cosines above would say nothing."""
        first = np.stack([features[0] for features in real_features.values()])
        between = [cosines(first[:1], other[None])[0] for other in first[1:]]

        assert max(between) < 0.9

    @pytest.mark.parametrize("size", [(240, 320), (400, 170), (168, 168), (168, 500), (90, 70)])
    @pytest.mark.parametrize("name", ["resnet", "efficientnet"])
    def test_pictures_are_those_of_pillow(self, request, name, size):
        """
        Landscape, portrait, no scaling, only a crop, enlarging: to one level of 255.

        Pillow computes with finer weights, which shows where a pixel in thousands is sharp.
        """
        backbone = request.getfixturevalue(name)
        frames = draw_frames(2, *size)
        fitted = TorchEngine(backbone, FLOAT32, 4).preprocess(frames)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (backbone.mean, backbone.std))
        expected = (reference_pictures(backbone, frames) * std + mean) * 255

        assert fitted.dtype == torch.uint8
        assert fitted.shape == (2, 160, 160, 3)
        difference = fitted.permute(0, 3, 1, 2).float() - expected
        assert (difference.abs() < 1.01).float().mean() > 0.999
        assert difference.mean().abs() < 0.01

    @pytest.mark.parametrize("kind", ENGINES)
    def test_drawn_frames_as_large_as_the_decoder_leaves_them(self, resnet, engine_cache, kind):
        """Random features are alike in the mean, so what they differ in is compared."""
        frames = draw_frames(6, 700, 1000)
        expected = reference_features(resnet, frames)
        found = encode(make(kind, resnet, engine_cache), frames)

        assert deliver(resnet, frames).shape == (6, 350, 500, 3)
        assert cosines(found, expected).min() > 0.999
        centred = cosines(found - expected.mean(0), expected - expected.mean(0))
        assert centred.min() > 0.99

    def test_squashed_pictures_are_those_of_pillow(self, resnet):
        backbone = dataclasses.replace(resnet, geometry=Geometry(64, 96, "squash", 0.8))
        frames = draw_frames(2, 200, 200)
        transform = create_transform(
            (3, 64, 96), crop_pct=0.8, crop_mode="squash", interpolation="bilinear", normalize=False
        )
        expected = torch.stack([transform(Image.fromarray(frame)) for frame in frames])
        fitted = TorchEngine(backbone, FLOAT32, 4).preprocess(frames)

        difference = fitted.permute(0, 3, 1, 2).int() - expected.int()
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
    """Rows of each picture encoded for itself."""
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
    def test_rows_stay_when_the_engine_goes_on(self, resnet, engine_cache, given, kind):
        """OpenVINO hands out memory that it writes to again."""
        engine = make(kind, resnet, engine_cache, batch_size=2)
        first = engine.start(given[:2])()
        kept = first.copy()
        engine.start(given[4:6])()

        np.testing.assert_array_equal(first, kept)

    @pytest.mark.parametrize("kind", ENGINES)
    def test_no_pictures_give_no_rows(self, resnet, engine_cache, given, kind):
        found = make(kind, resnet, engine_cache).start(given[:0])()

        assert found.shape == (0, 96)
        assert found.dtype == np.float32

    @pytest.mark.parametrize("kind", ENGINES)
    def test_pictures_need_not_lie_in_one_piece(self, resnet, engine_cache, given, alone, kind):
        apart = torch.cat([given, given], dim=3)[..., :3]
        assert not apart.is_contiguous()

        found = make(kind, resnet, engine_cache).start(apart)()

        np.testing.assert_allclose(found, alone[kind], atol=2e-6)


class Small(nn.Module):
    """A device that holds only so many pictures: gives the mean colour of each."""

    def __init__(self, most, error=None):
        super().__init__()
        self.most = most
        self.error = error or torch.OutOfMemoryError("no memory")
        self.seen = []

    def forward(self, pictures):
        self.seen.append(len(pictures))
        if len(pictures) > self.most:
            raise self.error
        return pictures.mean((2, 3))


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
    def test_halves_the_batch_and_loses_no_row(self, caplog):
        engine = small_engine(most=3, batch_size=9)
        levels = torch.arange(11, dtype=torch.uint8)
        found = engine.start(levels.view(-1, 1, 1, 1).expand(-1, 8, 8, 3))()

        np.testing.assert_allclose(found, np.arange(11)[:, None].repeat(3, 1) / 255, rtol=1e-6)
        assert engine.backbone.module.seen == [9, 5, 3, 3, 3, 2]
        assert "batch size is now 5" in caplog.text
        assert "batch size is now 3" in caplog.text

    def test_stays_at_what_fits(self):
        engine = small_engine(most=2, batch_size=4)
        pictures = torch.zeros(4, 8, 8, 3, dtype=torch.uint8)
        engine.start(pictures)()
        engine.backbone.module.seen.clear()
        engine.start(pictures)()

        assert engine.batch_size == 2
        assert engine.backbone.module.seen == [2, 2]

    def test_a_single_picture_that_does_not_fit_fails(self):
        engine = small_engine(most=0, batch_size=4)

        with pytest.raises(EngineError, match="out of memory on the device with a single image"):
            engine.start(torch.zeros(4, 8, 8, 3, dtype=torch.uint8))()

    def test_a_rest_is_halved_by_its_own_size(self):
        engine = small_engine(most=2, batch_size=512)
        engine.start(torch.zeros(3, 8, 8, 3, dtype=torch.uint8))()

        assert engine.backbone.module.seen == [3, 2, 1]

    def test_what_libraries_say_of_too_little_memory_counts(self):
        error = RuntimeError("GET was unable to find an engine to execute this computation")
        engine = small_engine(most=2, batch_size=4, error=error)
        engine.start(torch.zeros(4, 8, 8, 3, dtype=torch.uint8))()

        assert engine.batch_size == 2

    def test_another_error_is_not_taken_for_it(self):
        error = RuntimeError("CUDA error: an illegal memory access was encountered")
        engine = small_engine(most=2, batch_size=4, error=error)

        with pytest.raises(RuntimeError, match="illegal memory access"):
            engine.start(torch.zeros(4, 8, 8, 3, dtype=torch.uint8))()
        assert engine.batch_size == 4

    def test_memory_is_given_back_once_the_error_is_gone(self, monkeypatch):
        """It holds what was computed until then."""
        handled = []
        monkeypatch.setattr(
            torch_engine, "free_device_memory", lambda: handled.append(sys.exception())
        )
        small_engine(most=2, batch_size=4).start(torch.zeros(4, 8, 8, 3, dtype=torch.uint8))()

        assert handled == [None]


def limit_fitting(monkeypatch, most, error=None):
    """Let no more frames at a time be cut to size; give a list of how many were tried."""
    right, seen = torch_engine.resize_and_crop, []

    def limited(given, backbone):
        seen.append(len(given))
        if len(given) > most:
            raise error or torch.OutOfMemoryError("no memory")
        return right(given, backbone)

    monkeypatch.setattr(torch_engine, "resize_and_crop", limited)
    return seen


class TestOutOfMemoryBeforeTheNetwork:
    """Frames are cut to size on the device: a stand-in has room for so many."""

    @pytest.fixture
    def fit(self, monkeypatch):
        def fit_(frames, most, error=None):
            engine = small_engine(most=9, batch_size=4)
            engine._buffers = PinnedBuffers("cpu")
            with monkeypatch.context() as patched:
                seen = limit_fitting(patched, most, error)
                return engine.preprocess(frames), seen

        return fit_

    def test_frames_are_halved_and_none_is_lost(self, fit):
        frames = draw_frames(7, 20, 30)
        expected, _ = fit(frames, most=7)
        found, seen = fit(frames, most=2)

        assert torch.equal(found, expected)
        assert seen == [7, 4, 2, 2, 3, 2, 1]

    def test_a_single_frame_that_does_not_fit_fails(self, fit):
        with pytest.raises(EngineError, match="out of memory on the device with a single image"):
            fit(draw_frames(3, 20, 30), most=0)

    def test_another_error_is_not_taken_for_it(self, fit):
        with pytest.raises(RuntimeError, match="illegal memory access"):
            fit(draw_frames(3, 20, 30), 0, RuntimeError("CUDA error: an illegal memory access"))


class TestReducedPrecision:
    """What a CUDA device computes in, as far as a machine without one can tell."""

    @pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float16")])
    def test_bfloat16_only_where_it_is_computed(self, monkeypatch, native, expected):
        """A T4 only imitates it."""

        def supported(including_emulation=True):
            return including_emulation or native

        monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)

        assert reduced_precision("cuda") == expected


class TestChoice:
    def test_float32_on_cuda_is_no_tf32(self, monkeypatch, resnet, tmp_path):
        """A stand-in for the engine: what torch allows elsewhere is not undone without one."""
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

    def test_batch_size_as_asked(self, resnet, engine_cache):
        options = EncodeOptions(batch_size=6)

        assert make_engine(resnet, FLOAT32, options, engine_cache).batch_size == 6

    def test_torch_where_openvino_is_not_installed(self, monkeypatch, caplog, resnet, engine_cache):
        monkeypatch.delitem(sys.modules, "pipeline.encode.openvino_engine")
        monkeypatch.setitem(sys.modules, "openvino", None)
        engine = make_engine(resnet, FLOAT32, EncodeOptions(), engine_cache)

        assert describe_engine(engine)["engine"] == "torch"
        assert (
            "encoding with torch on the CPU, which is much slower: import of openvino"
            in caplog.text
        )

    def test_torch_where_openvino_does_not_know_an_operator(self, caplog, tmp_path):
        """This network resizes its positions, with an operator that OpenVINO lacks."""
        backbone = load_backbone("random:test_vit")
        engine = make_engine(backbone, FLOAT32, EncodeOptions(), tmp_path)
        frames = draw_frames(2, 170, 170)

        assert engine.name == "torch"
        assert "OpenVINO cannot convert random:test_vit" in caplog.text
        assert cosines(encode(engine, frames), reference_features(backbone, frames)).min() > 0.999

    def test_torch_where_openvino_does_not_know_the_arithmetic(self, caplog, resnet, engine_cache):
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
    def test_pictures_are_those_of_the_cpu(self, cuda, size):
        frames = draw_frames(3, *size)
        for name in ("random:test_resnet", "random:test_efficientnet"):
            expected = TorchEngine(load_backbone(name), FLOAT32, 4).preprocess(frames)
            found = TorchEngine(load_backbone(name), cuda, 4).preprocess(frames)

            assert found.is_cuda
            assert found.dtype == torch.uint8
            difference = (found.cpu().int() - expected.int()).abs()
            assert (difference > 1).float().mean() < 0.005  # sharp edges, bicubic: up to 9 levels

    @pytest.mark.parametrize(
        ("precision", "least"), [("float32", 0.9999), ("float16", 0.999), ("bfloat16", 0.99)]
    )
    def test_features_are_those_of_the_cpu(self, cuda, precision, least):
        frames = draw_frames(7, 300, 200)
        expected = encode(TorchEngine(load_backbone("random:test_resnet"), FLOAT32, 4), frames)
        placement = Placement("cuda", precision)
        engine = TorchEngine(load_backbone("random:test_resnet"), placement, 4)
        found = encode(engine, frames)

        assert cosines(found, expected).min() >= least

    def test_real_frames(self, cuda, shared, engine_cache, real_frames, real_features):
        name = f"local-dir:{shared / 'weights' / 'mobilenetv2_100_imagenet'}"
        engine = make_engine(load_backbone(name), cuda, EncodeOptions(), engine_cache)

        assert (engine.name, engine.device) == ("torch", "cuda")
        for clip, frames in real_frames.items():
            assert cosines(encode(engine, frames), real_features[clip]).min() >= 0.999

    @pytest.mark.parametrize("precision", ["float16", "bfloat16"])
    def test_a_reduced_precision_is_weighed(self, cuda, precision):
        backbone = load_backbone("random:test_resnet")
        reduced = TorchEngine(backbone, Placement("cuda", precision), 4)
        batches = [frame_batch("a", draw_frames(5, 200, 300)), frame_batch("b", draw(0))]
        evidence = compare_precisions(TorchEngine(backbone, cuda, 4), reduced, batches)

        assert (evidence.tried, evidence.frames) == (precision, 5)
        assert 0.99 < evidence.cosine_min <= 1

    def test_pairs_see_the_frame_before(self, cuda, engine_cache):
        batches = [frame_batch(str(count), draw(count, 20, (72, 96))) for count in (5, 1, 4)]
        expected = TorchEngine(frame_pair_backbone(small_pairs()), FLOAT32, 3)
        options = EncodeOptions(batch_size=3)
        found = make_engine(frame_pair_backbone(small_pairs()), cuda, options, engine_cache)

        for one, other in zip(
            encode_frames(found, batches, EngineLock()),
            encode_frames(expected, batches, EngineLock()),
            strict=True,
        ):
            np.testing.assert_allclose(one.values, other.values, atol=2e-3)

    def test_threads_cut_frames_to_size_while_one_encodes(self, cuda):
        """As the shards in flight do, taking lock with the network alone."""
        engine, lock = TorchEngine(load_backbone("random:test_resnet"), cuda, 16), EngineLock()
        batches = [frame_batch(str(seed), draw_frames(40 + seed, 240, 320)) for seed in range(6)]
        alone = [encode_frames(engine, [batch], lock)[0].values for batch in batches]
        with ThreadPoolExecutor(3) as threads:
            found = list(
                threads.map(lambda batch: encode_frames(engine, [batch], lock), 4 * batches)
            )

        for (part,), expected in zip(found, 4 * alone, strict=True):
            np.testing.assert_allclose(part.values, expected, atol=2e-3)

    def test_halves_the_batch_and_loses_no_row(self, cuda):
        engine = small_engine(most=3, batch_size=9, placement=cuda)
        levels = torch.arange(11, dtype=torch.uint8, device="cuda").view(-1, 1, 1, 1)
        found = engine.start(levels.expand(-1, 8, 8, 3))()

        np.testing.assert_allclose(found, np.arange(11)[:, None].repeat(3, 1) / 255, rtol=1e-5)
        assert engine.batch_size == 3

    def test_halves_the_frames_and_loses_none(self, cuda, monkeypatch):
        engine = TorchEngine(load_backbone("random:test_resnet"), cuda, 4)
        frames = draw_frames(7, 200, 300)
        expected = engine.preprocess(frames)
        seen = limit_fitting(monkeypatch, most=2)

        assert torch.equal(engine.preprocess(frames), expected)
        assert seen == [7, 4, 2, 2, 3, 2, 1]

    def test_a_device_with_little_memory_left(self, cuda, little_memory, tmp_path):
        options = EncodeOptions(batch_size=1024)
        engine = make_engine(load_backbone("random:test_resnet"), cuda, options, tmp_path)
        pictures = torch.from_numpy(draw_frames(8, 160, 160)).to("cuda")
        found = engine.start(pictures.repeat(128, 1, 1, 1))()

        assert engine.batch_size < 1024
        np.testing.assert_allclose(found[-8:], engine.start(pictures)(), atol=1e-3)

    def test_the_batch_size_fits_little_memory(self, cuda, little_memory, tmp_path):
        engine = make_engine(load_backbone("random:test_resnet"), cuda, EncodeOptions(), tmp_path)

        assert 1 <= engine.batch_size < 1024
        assert engine.start(torch.zeros(9, 160, 160, 3, dtype=torch.uint8, device="cuda"))().any()


@pytest.fixture
def little_memory(cuda):
    """Leave this process half a gibibyte of the device."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**29) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
