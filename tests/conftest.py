"""Fixtures that several test files use."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from pipeline.config import ClipWindows, DecodeOptions, Sampling
from pipeline.decode.process_pool import DecodePool, DecodeProcess
from pipeline.encode.backbone import Backbone, load_backbone
from pipeline.encode.frame_pair import FramePairNetwork, frame_pair_backbone
from pipeline.recognition.recognizer import BackboneSpec, Recognizer, save_recognizer
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import TemporalOptions

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_configure(config: pytest.Config) -> None:
    """Set options of plug-ins: no test depends on the speed of the machine or on the seed."""
    # the fixture below sets the random state; pytest-randomly would change it again
    config.option.randomly_reset_seed = False
    settings.register_profile(
        "clipline", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("clipline")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real clips and weights, where a machine has it."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no real clips at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def ffmpeg() -> str:
    """The ffmpeg command, where a machine has it."""
    found = shutil.which("ffmpeg")
    if found is None:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing("ffmpeg is not installed")
    return found


@pytest.fixture(scope="session")
def pool():
    """Two decode processes for all tests that need any."""
    with DecodePool(DecodeOptions(workers=2, frame_timeout_seconds=20)) as made:
        yield made


@pytest.fixture(scope="session")
def process():
    """One decode process for all tests that need any."""
    made = DecodeProcess(DecodeOptions(frame_timeout_seconds=20))
    yield made
    made.kill()


@pytest.fixture(scope="session")
def engine_cache(tmp_path_factory) -> Path:
    """Folder for converted networks: converting one takes seconds, reading it does not."""
    return tmp_path_factory.mktemp("converted")


@pytest.fixture(scope="session")
def tiny_recognizer(tmp_path_factory) -> Path:
    """A recognizer with random weights that looks at pairs of frames."""
    torch.manual_seed(1)
    network = FramePairNetwork()
    folder = tmp_path_factory.mktemp("recognizers") / "tiny"
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_recognizer(_random_recognizer("tiny", frame_pair_backbone(network)), folder, weights)
    return folder


@pytest.fixture(scope="session")
def plain_recognizer(tmp_path_factory) -> Path:
    """A recognizer with random weights that looks at single frames, with a backbone of timm."""
    folder = tmp_path_factory.mktemp("recognizers") / "plain"
    save_recognizer(_random_recognizer("plain", load_backbone("random:test_resnet")), folder)
    return folder


def _random_recognizer(name: str, backbone: Backbone) -> Recognizer:
    torch.manual_seed(2)
    options = TemporalOptions(cell="gru", size=8)
    return Recognizer(
        name=name,
        labels=("left", "right", "still"),
        sampling=Sampling(fps=8),
        clips=ClipWindows(1.0),
        backbone=BackboneSpec(
            name=backbone.name,
            weights_hash=backbone.weights_hash,
            feature_size=backbone.feature_size,
            context=backbone.previous_frames,
            precision="float32",
        ),
        temporal=options,
        model=TemporalModel(backbone.feature_size, 3, options).eval(),
    )


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Use one thread: the tensors of tests are small, and threads would wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fixed_random_state():
    """Start every test with the same random state."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
