"""Backbones and real frames on which engines are compared."""

from __future__ import annotations

import os

import av
import numpy as np
import pytest
import torch

from pipeline.encode.backbone import load_backbone
from pipeline.encode.engine import Placement
from tests.encode.reference import reference_features

REAL_CLIPS = [
    *("cosmos_10s.mp4", "flipping_a_pancake.mkv", "k400_armwrestling.mp4", "mma_skel.mp4"),
    *("mma_test.avi", "v_GGSY1Qvo990.mp4", "v_ZNVhz7ctTq0.mp4"),
    *("0_1_4.avi", "22_4_3.avi", "39_7_3.avi"),
]


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


@pytest.fixture(scope="module")
def cuda():
    if torch.cuda.is_available():
        return Placement("cuda", "float32")
    if os.environ.get("FAIL_WITHOUT_CUDA"):
        pytest.fail("FAIL_WITHOUT_CUDA is set, and torch sees no CUDA device")
    pytest.skip("torch sees no CUDA device")
