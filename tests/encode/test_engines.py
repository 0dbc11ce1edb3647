"""The choice of the engine."""

from __future__ import annotations

import sys

import pytest
import torch

from pipeline.config import EncodeOptions
from pipeline.encode import engines
from pipeline.encode.backbone import load_backbone
from pipeline.encode.batch_size import CPU_BATCH_SIZES
from pipeline.encode.engine import Placement, describe_engine
from pipeline.encode.engines import make_engine, reduced_precision
from tests.encode.reference import (
    cosines,
    draw_frames,
    encode,
    reference_features,
)
from tests.encode.toy_engine import FLOAT32


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
