"""The engine alone: which engines are compared, with which frames, and with which reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.bench import encoding
from pipeline.bench.encoding import (
    EncodeWork,
    EngineMeasurement,
    Frames,
    candidates,
    encode_work,
    reference,
)
from pipeline.config import EncodeOptions
from pipeline.encode.precision import encode_exclusively
from pipeline.run.choose_precision import EngineFactory
from tests.encode.toy_engine import draw, frame_batch

FRAMES = Frames((frame_batch("a", draw(5)), frame_batch("b", draw(4, 100, (9, 16)))))


@pytest.fixture(scope="module")
def engines(backbone, engine_cache):
    return EngineFactory(backbone, EncodeOptions(device="cpu", batch_size=4), engine_cache)


class TestFrames:
    def test_frames_of_all_batches_are_counted(self):
        assert FRAMES.count == 9

    @pytest.mark.parametrize(
        ("count", "kept"), [(0, []), (3, [3]), (5, [5]), (7, [5, 2]), (99, [5, 4])]
    )
    def test_the_first_frames_continue_across_batches(self, count, kept):
        first = FRAMES.first(count)

        assert [len(batch.images) for batch in first.batches] == kept
        assert [batch.sample_index.tolist() for batch in first.batches] == [
            [*range(number)] for number in kept
        ]

    @pytest.mark.parametrize(
        ("share", "kept"), [(1e-9, [1, 1]), (0.5, [2, 2]), (0.8, [4, 3]), (1.0, [5, 4])]
    )
    def test_beginnings_have_the_same_share_of_each_batch(self, share, kept):
        assert [len(batch.images) for batch in FRAMES.beginnings(share).batches] == kept

    def test_halves_hold_every_frame_once(self):
        first, second = FRAMES.halves()

        assert [len(batch.images) for batch in first.batches] == [2, 2]
        assert [batch.sample_index.tolist() for batch in second.batches] == [[2, 3, 4], [2, 3]]
        for whole, *parts in zip(FRAMES.batches, first.batches, second.batches, strict=True):
            assert (np.concatenate([p.images for p in parts]) == whole.images).all()


class TestCandidates:
    def test_the_reference_comes_first_and_no_engine_twice(self, engines):
        found = [(made.name, made.precision) for made in candidates(engines)]

        assert found[:2] == [("torch", "float32"), ("torch", "bfloat16")]
        assert len(set(found)) == len(found)
        assert all(name == "openvino" for name, _ in found[2:])

    def test_the_network_is_copied(self, engines, backbone):
        assert reference(backbone).backbone.module is not backbone.module

    def test_on_a_cuda_device_three_precisions_run_there(self, backbone, monkeypatch, tmp_path):
        made = []
        factory = EngineFactory(backbone, EncodeOptions(device="cpu"), tmp_path)
        monkeypatch.setattr(EngineFactory, "device", "cuda")
        monkeypatch.setattr(EngineFactory, "make", lambda _, precision: made.append(precision))

        found = list(candidates(factory))

        assert made == ["float32", "bfloat16", "float16"]
        assert len(found) == 4
        assert (found[0].device, found[0].precision) == ("cpu", "float32")


class TestMeasure:
    def test_engines_are_compared_with_torch_in_float32(self, engines, monkeypatch):
        monkeypatch.setattr("pipeline.bench.rates.MIN_SECONDS", 1e-9)
        monkeypatch.setattr(encoding, "MIN_RELATIVE_RATE", 0.0)

        found = [*map(EngineMeasurement(FRAMES, 1, 60.0), candidates(engines))]

        assert (found[0].engine, found[0].precision) == ("torch on cpu", "float32")
        assert (found[0].cosine_min, found[0].cosine_mean) == (1, 1)
        assert all(rate.rate > 0 and rate.network > 0 for rate in found)
        by_precision = {rate.precision: rate for rate in found[1:]}
        assert 0.99 < by_precision["bfloat16"].cosine_min < 1

    @pytest.fixture
    def seen(self, monkeypatch):
        """Frame counts of all measurements, which take no time: 3 frames per second each."""
        seen = []
        monkeypatch.setattr(encoding, "seconds_of", lambda work: work() / 3)
        monkeypatch.setattr(encoding, "PROBE_FRAMES", 2)
        monkeypatch.setattr(encoding, "measure", lambda work, *_: seen.append(work()) or Rated())
        return seen

    def test_on_the_cpu_few_frames_are_timed(self, backbone, seen, monkeypatch):
        monkeypatch.setattr(encoding, "COMPARED_FRAMES", 6)

        found = EngineMeasurement(FRAMES, 1, 60.0)(reference(backbone))

        assert seen == [6, 6]
        assert found.rate == 3

    def test_a_slow_engine_is_timed_with_as_many_frames_as_fit(self, backbone, seen):
        # half of 4 s for a warm-up and one repetition: 1 s each, at 3 frames per second
        EngineMeasurement(FRAMES, 1, 4.0)(reference(backbone))

        assert seen == [3, 3]

    def test_a_very_slow_engine_is_not_measured_further(self, backbone, seen, monkeypatch):
        measure_engine = EngineMeasurement(FRAMES, 1, 60.0)
        first = measure_engine(reference(backbone))
        monkeypatch.setattr(encoding, "seconds_of", lambda work: work() / 0.2)

        second = measure_engine(reference(backbone))

        assert len(seen) == 2
        assert (first.rate, first.network) == (3, 3)
        assert (second.rate, second.network) == (pytest.approx(0.2), None)
        assert second.cosine_min > 0.99

    def test_a_slow_first_call_may_be_a_set_up(self, backbone, seen, monkeypatch):
        measure_engine = EngineMeasurement(FRAMES, 1, 60.0)
        measure_engine(reference(backbone))
        seconds = [100.0, 0.5]
        monkeypatch.setattr(encoding, "seconds_of", lambda work: seconds.pop(0))

        assert measure_engine(reference(backbone)).network == 3

    def test_on_a_cuda_device_all_frames_are_timed(self, backbone, seen, monkeypatch):
        """Few of them would not fill a batch."""
        monkeypatch.setattr(encoding, "COMPARED_FRAMES", 6)
        measure_engine = EngineMeasurement(FRAMES, 1, 60.0)
        made = reference(backbone)

        found = [measure_engine(made), measure_engine(Elsewhere(made))]

        assert seen == [6, 6, 9, 9]
        assert [rate.cosine_min for rate in found] == [1, 1]


class Elsewhere:
    """An engine that pretends to run on a CUDA device."""

    def __init__(self, engine):
        self.name, self.device, self.precision = engine.name, "cuda", engine.precision
        self.backbone, self.batch_size = engine.backbone, engine.batch_size
        self.preprocess, self.start = engine.preprocess, engine.start


class Rated:
    rate = 3.0


@pytest.mark.parametrize(("seconds", "count"), [(1e-9, 2), (1e9, 9)])
def test_an_engine_encodes_as_many_frames_as_fit(backbone, seconds, count):
    assert encode_work(reference(backbone), FRAMES, seconds)() == count


def test_encoding_counts_its_frames(backbone):
    assert EncodeWork(reference(backbone), FRAMES)() == 9


def test_features_are_those_of_the_frames_in_order(backbone):
    made = reference(backbone)
    values = encode_exclusively(made, FRAMES.batches)
    last = Frames((FRAMES.batches[1],))

    assert values.shape == (9, backbone.feature_size)
    np.testing.assert_allclose(
        values[5:], encode_exclusively(made, last.batches), rtol=1e-2, atol=1e-3
    )
    assert torch.isfinite(torch.from_numpy(values)).all()
