"""Out of memory on the device: the batch size is reduced, frames are split."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from pipeline.encode import torch_engine
from pipeline.encode.pinned_memory import PinnedBuffers
from pipeline.errors import EngineError
from tests.encode.reference import (
    draw_frames,
    limit_preprocessing,
    small_engine,
)


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
