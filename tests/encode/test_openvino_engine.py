"""Conversion to OpenVINO: the same features as torch, kept in a cache, and nothing reported."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.config import Geometry
from pipeline.encode import openvino_engine
from pipeline.encode.backbone import Backbone, hash_weights, load_backbone
from pipeline.encode.batch_size import CPU_BATCH_SIZES
from pipeline.encode.engine import Placement
from pipeline.encode.engine_lock import EngineLock
from pipeline.encode.frame_pair import FramePairNetwork, frame_pair_backbone
from pipeline.encode.openvino_engine import OpenVINOEngine
from pipeline.encode.torch_engine import TorchEngine
from pipeline.errors import EngineError

FLOAT32 = Placement("cpu", "float32")
PICTURES = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (3, 32, 32, 3), np.uint8))


def toy(name, features):
    """Make a backbone that is converted in no time."""
    torch.manual_seed(features)
    module = nn.Sequential(
        nn.Conv2d(3, features, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()
    return Backbone(
        name=name,
        module=module,
        weights_hash=hash_weights(module),
        geometry=Geometry(32, 32),
        interpolation="bilinear",
        mean=(0.5, 0.25, 0.125),
        std=(0.5, 0.25, 1.0),
        feature_size=features,
    )


@pytest.fixture(scope="module")
def backbone():
    return toy("toy", 8)


@pytest.fixture(scope="module")
def expected(backbone):
    return TorchEngine(backbone, FLOAT32, 4).start(PICTURES)()


@pytest.fixture
def conversions(monkeypatch):
    """Names of the networks that are converted from here on."""
    names = []
    convert = openvino_engine._convert

    def counted(backbone):
        names.append(backbone.name)
        return convert(backbone)

    monkeypatch.setattr(openvino_engine, "_convert", counted)
    return names


def run(backbone, cache):
    return OpenVINOEngine(backbone, FLOAT32, 2, cache).start(PICTURES)()


class TestParityWithTorch:
    @pytest.mark.parametrize(
        ("name", "tap", "grid"),
        [
            ("random:test_resnet", "layer3", 2),
            ("random:test_resnet", "bn1", None),  # what follows works in place
            ("random:vit_tiny_patch16_224", "blocks.1", 2),
        ],
    )
    def test_names_taps_and_grids(self, tmp_path, name, tap, grid):
        backbone = load_backbone(name, layer=tap, pool_size=grid)
        height, width = backbone.geometry.height, backbone.geometry.width
        pictures = torch.randint(0, 256, (3, height, width, 3), dtype=torch.uint8)
        expected = TorchEngine(backbone, FLOAT32, 3).start(pictures)()
        found = OpenVINOEngine(backbone, FLOAT32, 2, tmp_path).start(pictures)()

        assert found.shape == (3, backbone.feature_size)
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-4)

    def test_pictures_with_their_context(self, engine_cache):
        backbone = frame_pair_backbone(FramePairNetwork())
        pictures = torch.randint(0, 256, (3, 72, 96, 6), dtype=torch.uint8)
        expected = TorchEngine(backbone, FLOAT32, 3).start(pictures)()
        found = OpenVINOEngine(backbone, FLOAT32, 2, engine_cache).start(pictures)()

        assert found.shape == (3, 97)
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-4)


class TestTurns:
    """A caller begins while another still waits for its features."""

    def test_each_gets_its_own_features(self, backbone, engine_cache):
        engine, lock = OpenVINOEngine(backbone, FLOAT32, 2, engine_cache), EngineLock()
        levels = torch.arange(250, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 32, 32, 3)
        expected = TorchEngine(backbone, FLOAT32, 250).start(levels)()

        def encode(part):
            with lock.start:
                features = engine.start(part)
            return features()

        with ThreadPoolExecutor(6) as threads:
            found = list(threads.map(encode, levels.split(5)))
        np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-5)

    def test_a_batch_that_fails_leaves_the_engine_as_it_was(self, backbone, engine_cache):
        engine = OpenVINOEngine(backbone, FLOAT32, 2, engine_cache)
        for _ in range(20):  # more often than there are requests
            with pytest.raises((RuntimeError, ValueError)):
                engine.start(torch.zeros(4, 16, 16, 3, dtype=torch.uint8))()

        assert engine.start(PICTURES)().any()

    def test_a_rest_that_fails_gives_back_the_full_batches_too(self, backbone, engine_cache):
        engine = OpenVINOEngine(backbone, FLOAT32, 2, engine_cache)
        before = engine._full.qsize()
        engine._single = queue.SimpleQueue()
        engine._single.put(Mock(**{"start_async.side_effect": RuntimeError("broken")}))
        with pytest.raises(RuntimeError, match="broken"):
            engine.start(PICTURES)

        assert engine._full.qsize() == before


class TestBatchSize:
    def test_it_is_found_once_for_each_precision(self, tmp_path, backbone, expected):
        engine = OpenVINOEngine(backbone, FLOAT32, 0, tmp_path)
        (kept,) = tmp_path.glob("batch-*.json")
        found = json.loads(kept.read_text())

        assert engine.batch_size == found["batch_size"]
        assert set(found["rates"]) == {str(size) for size in CPU_BATCH_SIZES}
        np.testing.assert_allclose(engine.start(PICTURES)(), expected, atol=1e-5)
        kept.write_text('{"batch_size": 3}')
        assert OpenVINOEngine(backbone, FLOAT32, 0, tmp_path).batch_size == 3
        OpenVINOEngine(backbone, Placement("cpu", "bfloat16"), 0, tmp_path)
        assert len(list(tmp_path.glob("batch-*.json"))) == 2

    def test_where_it_is_asked_for_nothing_is_measured(self, tmp_path, backbone):
        assert OpenVINOEngine(backbone, FLOAT32, 7, tmp_path).batch_size == 7
        assert not list(tmp_path.glob("batch-*.json"))

    def test_it_may_be_one(self, tmp_path, backbone, expected):
        np.testing.assert_allclose(
            OpenVINOEngine(backbone, FLOAT32, 1, tmp_path).start(PICTURES)(), expected, atol=1e-5
        )


class TestCache:
    def test_a_network_is_converted_once(self, tmp_path, backbone, expected, conversions):
        first = run(backbone, tmp_path / "cache")
        second = run(backbone, tmp_path / "cache")

        assert conversions == ["toy"]
        np.testing.assert_array_equal(first, second)
        np.testing.assert_allclose(first, expected, atol=1e-5)

    def test_holds_whole_entries_and_nothing_else(self, tmp_path, backbone):
        run(backbone, tmp_path)

        assert sorted(path.suffix for path in tmp_path.iterdir()) == [".bin", ".xml"]
        assert len({path.stem for path in tmp_path.iterdir()}) == 1

    def test_precisions_share_an_entry(self, tmp_path, backbone, conversions):
        for precision in ("float32", "bfloat16"):
            OpenVINOEngine(backbone, Placement("cpu", precision), 1, tmp_path)

        assert len(conversions) == 1

    def test_another_network_has_an_entry_of_its_own(self, tmp_path, backbone, conversions):
        run(backbone, tmp_path)
        found = run(toy("other", 5), tmp_path)

        assert conversions == ["toy", "other"]
        assert found.shape == (3, 5)

    @pytest.mark.parametrize("lost", [".bin", ".xml"])
    def test_half_an_entry_is_not_trusted(self, tmp_path, backbone, expected, conversions, lost):
        run(backbone, tmp_path)
        next(tmp_path.glob(f"*{lost}")).unlink()

        np.testing.assert_allclose(run(backbone, tmp_path), expected, atol=1e-5)
        assert len(conversions) == 2

    @pytest.mark.parametrize("damaged", [".bin", ".xml"])
    def test_a_cut_off_entry_is_not_trusted(
        self, tmp_path, backbone, expected, conversions, caplog, damaged
    ):
        run(backbone, tmp_path)
        path = next(tmp_path.glob(f"*{damaged}"))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

        np.testing.assert_allclose(run(backbone, tmp_path), expected, atol=1e-5)
        assert len(conversions) == 2
        assert "is damaged, converting again" in caplog.text

    def test_a_crash_between_the_two_files_leaves_nothing_to_trust(
        self, tmp_path, monkeypatch, backbone, expected, conversions
    ):
        replace = os.replace

        def crash(source, target):
            if str(target).endswith(".xml"):
                raise OSError("no space left")
            replace(source, target)

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", crash)
            with pytest.raises(OSError, match="no space left"):
                run(backbone, tmp_path)
        assert [path.suffix for path in tmp_path.iterdir()] == [".bin"]

        np.testing.assert_allclose(run(backbone, tmp_path), expected, atol=1e-5)
        assert len(conversions) == 2


def test_streams_follow_the_cpu_quota_of_a_container(tmp_path, backbone, monkeypatch):
    monkeypatch.setattr(openvino_engine, "available_cpus", lambda: 3)
    engine = OpenVINOEngine(backbone, FLOAT32, 2, tmp_path)

    assert engine._full.qsize() == 3 * openvino_engine.BATCHES_PER_STREAM


def test_unknown_arithmetic_fails(tmp_path, backbone, conversions):
    with pytest.raises(EngineError, match="OpenVINO does not compute in float16 on the CPU"):
        OpenVINOEngine(backbone, Placement("cpu", "float16"), 2, tmp_path)

    assert conversions == []


def test_unknown_operator_fails(tmp_path):
    vit = load_backbone("random:test_vit")

    with pytest.raises(EngineError, match=r"cannot convert random:test_vit: (?s:.*)upsample_bic"):
        OpenVINOEngine(vit, FLOAT32, 2, tmp_path)


WATCHED = """
import os, sys
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        os.write(2, f"WATCHED {event} {args!r}".encode())
        raise OSError("no network here")
sys.addaudithook(watch)
"""
CONVERSION = """
from pathlib import Path
from pipeline.encode.engine import Placement
from pipeline.encode.openvino_engine import OpenVINOEngine
from pipeline.encode.frame_pair import FramePairNetwork, frame_pair_backbone
backbone = frame_pair_backbone(FramePairNetwork())
OpenVINOEngine(backbone, Placement("cpu", "float32"), 1, Path(sys.argv[1]))
print("converted")
"""


def test_nothing_is_reported(tmp_path):
    """OpenVINO would tell its maker of imports and conversions. Children are watched as well."""
    home = {**os.environ, "HOME": str(tmp_path)}
    command = [sys.executable, "-c", WATCHED + CONVERSION, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=home, check=False)

    assert done.stdout.endswith("converted\n"), done.stderr
    assert "WATCHED" not in done.stderr
    assert not (tmp_path / "intel").exists()


INTERRUPTED = """
import gc, os, signal, sys
import torch
from pathlib import Path
from pipeline.encode.backbone import load_backbone
from pipeline.encode.engine import Placement
from pipeline.encode.openvino_engine import OpenVINOEngine

signal.signal(signal.SIGINT, lambda *_: sys.exit(7))
backbone = load_backbone("random:test_resnet")
engine = OpenVINOEngine(backbone, Placement("cpu", "float32"), 4, Path(sys.argv[1]))
engine.start(torch.zeros(9, 160, 160, 3, dtype=torch.uint8))()
del engine
gc.collect()
os.kill(os.getpid(), signal.SIGINT)
"""


def test_a_signal_after_an_engine_was_freed_is_handled(tmp_path):
    """Compiling moves the stack on which signals are handled into memory that goes with it."""
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED, str(tmp_path)], check=False)

    assert ended.returncode == 7
