from __future__ import annotations

import pytest

from pipeline.config import DecodeOptions
from pipeline.encode.backbone import load_backbone
from pipeline.sources.discovery import find_videos
from tests.benchmarks.synthetic import make_clips


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """Three generated clips of two seconds, 60 frames each."""
    return find_videos([str(make_clips(tmp_path_factory.mktemp("clips"), 3, (160, 96)))])


@pytest.fixture(scope="session")
def backbone():
    """A tiny untrained network of timm."""
    return load_backbone("random:test_resnet")


@pytest.fixture(scope="session")
def one_worker():
    """Decoding in a single process."""
    return DecodeOptions(workers=1)
