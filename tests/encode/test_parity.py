"""Features and images of engines compared with Pillow, timm's transform and torch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from pipeline.config import Geometry
from pipeline.encode.preprocess import scaled_size
from pipeline.encode.torch_engine import TorchEngine
from tests.encode.reference import (
    ENGINES,
    cosines,
    decode,
    draw_frames,
    encode,
    make,
    reference_features,
    reference_images,
)
from tests.encode.toy_engine import FLOAT32


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

        assert len(worst) == len(real_frames) == 10
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
