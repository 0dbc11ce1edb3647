"""The engine alone: which engines are compared, on which frames, and against what."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.bench import encoding
from pipeline.bench.encoding import Encoding, Frames, candidates, measure_engines, reference
from pipeline.config import EncodeOptions
from pipeline.encode.precision import encode_exclusively
from pipeline.run.choose_precision import EngineFactory
from tests.encode.toy_engine import draw, frame_batch

FRAMES = Frames((frame_batch("a", draw(5)), frame_batch("b", draw(4, 100, (9, 16)))))


@pytest.fixture(scope="module")
def workbench(backbone, engine_cache):
    return EngineFactory(backbone, EncodeOptions(device="cpu", batch_size=4), engine_cache)


class TestFrames:
    def test_those_of_all_batches_count(self):
        assert FRAMES.count == 9

    @pytest.mark.parametrize(
        ("most", "kept"), [(0, []), (3, [3]), (5, [5]), (7, [5, 2]), (99, [5, 4])]
    )
    def test_the_first_run_on_from_batch_to_batch(self, most, kept):
        first = FRAMES.first(most)

        assert [len(batch.images) for batch in first.batches] == kept
        assert [batch.sample_index.tolist() for batch in first.batches] == [
            [*range(count)] for count in kept
        ]

    def test_halves_hold_every_frame_once(self):
        first, second = FRAMES.halves()

        assert [len(batch.images) for batch in first.batches] == [2, 2]
        assert [batch.sample_index.tolist() for batch in second.batches] == [[2, 3, 4], [2, 3]]
        for whole, *parts in zip(FRAMES.batches, first.batches, second.batches, strict=True):
            assert (np.concatenate([p.images for p in parts]) == whole.images).all()


class TestCandidates:
    def test_the_reference_comes_first_and_no_engine_twice(self, workbench):
        found = [(made.name, made.precision) for made in candidates(workbench)]

        assert found[:2] == [("torch", "float32"), ("torch", "bfloat16")]
        assert len(set(found)) == len(found)
        assert all(name == "openvino" for name, _ in found[2:])

    def test_they_leave_the_network_where_it_is(self, workbench, backbone):
        assert reference(backbone).backbone.module is not backbone.module

    def test_on_a_cuda_device_three_precisions_run_there(self, backbone, monkeypatch, tmp_path):
        made = []
        bench = EngineFactory(backbone, EncodeOptions(device="cpu"), tmp_path)
        monkeypatch.setattr(EngineFactory, "device", "cuda")
        monkeypatch.setattr(EngineFactory, "make", lambda _, precision: made.append(precision))

        engines = list(candidates(bench))

        assert made == ["float32", "bfloat16", "float16"]
        assert len(engines) == 4
        assert (engines[0].device, engines[0].precision) == ("cpu", "float32")


class TestMeasure:
    def test_engines_are_held_against_torch_in_float32(self, workbench, monkeypatch):
        monkeypatch.setattr("pipeline.bench.rates.LEAST_SECONDS", 1e-9)

        found = list(measure_engines(workbench, FRAMES, 1))

        assert (found[0].engine, found[0].precision) == ("torch on cpu", "float32")
        assert (found[0].cosine_min, found[0].cosine_mean) == (1, 1)
        assert all(rate.rate > 0 and rate.network > 0 for rate in found)
        by_precision = {rate.precision: rate for rate in found[1:]}
        assert 0.99 < by_precision["bfloat16"].cosine_min < 1

    def test_only_so_many_frames_are_compared(self, workbench, monkeypatch):
        seen = []
        monkeypatch.setattr(encoding, "SLOW_FRAMES", 6)
        monkeypatch.setattr(encoding, "candidates", lambda bench: [reference(bench.backbone)])
        monkeypatch.setattr(encoding, "measure", lambda work, _: seen.append(work()) or Rated())

        (found,) = measure_engines(workbench, FRAMES, 1)

        assert seen == [6, 6]
        assert found.rate == 3

    def test_on_a_cuda_device_all_frames_are_timed(self, workbench, monkeypatch):
        """Few of them would not fill a batch."""
        seen = []

        def engines(bench):
            made = reference(bench.backbone)
            return [made, Elsewhere(made)]

        monkeypatch.setattr(encoding, "SLOW_FRAMES", 6)
        monkeypatch.setattr(encoding, "candidates", engines)
        monkeypatch.setattr(encoding, "measure", lambda work, _: seen.append(work()) or Rated())

        found = list(measure_engines(workbench, FRAMES, 1))

        assert seen == [6, 6, 9, 9]
        assert [rate.cosine_min for rate in found] == [1, 1]


class Elsewhere:
    """An engine that says it runs on a CUDA device."""

    def __init__(self, engine):
        self.name, self.device, self.precision = engine.name, "cuda", engine.precision
        self.backbone, self.batch_size = engine.backbone, engine.batch_size
        self.preprocess, self.start = engine.preprocess, engine.start


class Rated:
    rate = 3.0


def test_encoding_counts_its_frames(backbone):
    assert Encoding(reference(backbone), FRAMES)() == 9


def test_features_are_those_of_the_frames_in_order(backbone):
    made = reference(backbone)
    values = encode_exclusively(made, FRAMES.batches)
    last = Frames((FRAMES.batches[1],))

    assert values.shape == (9, backbone.feature_size)
    np.testing.assert_allclose(
        values[5:], encode_exclusively(made, last.batches), rtol=1e-2, atol=1e-3
    )
    assert torch.isfinite(torch.from_numpy(values)).all()
