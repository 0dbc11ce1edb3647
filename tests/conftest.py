"""Fixtures that several test files use."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config import DecodeOptions
from pipeline.decode.pool import DecodePool

SHARED = Path(__file__).resolve().parents[2] / "shared"


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
        pytest.skip("ffmpeg is not installed")
    return found


@pytest.fixture(scope="session")
def pool():
    """Two decode processes for all tests that need any."""
    with DecodePool(DecodeOptions(workers=2, frame_timeout_seconds=20)) as made:
        yield made


@pytest.fixture(autouse=True)
def _same_chance():
    """Every test begins with the same random state."""
    torch.manual_seed(0)
    np.random.seed(0)
