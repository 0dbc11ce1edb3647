"""OpenVINO: the features of torch, a cache of converted networks, and no telemetry."""

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
IMAGES = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (3, 32, 32, 3), np.uint8))


def toy(name, features):
    """Make a backbone that is converted quickly."""
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
    return TorchEngine(backbone, FLOAT32, 4).start(IMAGES)()


@pytest.fixture
def conversions(monkeypatch):
    """Record the names of converted networks."""
    names = []
    convert = openvino_engine._convert

    def counted(backbone):
        names.append(backbone.name)
        return convert(backbone)

    monkeypatch.setattr(openvino_engine, "_convert", counted)
    return names


def run(backbone, cache):
    return OpenVINOEngine(backbone, FLOAT32, 2, cache).start(IMAGES)()


class TestParityWithTorch:
    @pytest.mark.parametrize(
        ("name", "layer", "pool_size"),
        [
            ("random:test_resnet", "layer3", 2),
            ("random:test_resnet", "bn1", None),  # the next layer works in place
            ("random:vit_tiny_patch16_224", "blocks.1", 2),
        ],
    )
    def test_names_layers_and_pool_sizes(self, tmp_path, name, layer, pool_size):
        backbone = load_backbone(name, layer=layer, pool_size=pool_size)
        height, width = backbone.geometry.height, backbone.geometry.width
        images = torch.randint(0, 256, (3, height, width, 3), dtype=torch.uint8)
        expected = TorchEngine(backbone, FLOAT32, 3).start(images)()
        found = OpenVINOEngine(backbone, FLOAT32, 2, tmp_path).start(images)()

        assert found.shape == (3, backbone.feature_size)
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-4)

    def test_frame_pairs(self, engine_cache):
        backbone = frame_pair_backbone(FramePairNetwork())
        images = torch.randint(0, 256, (3, 72, 96, 6), dtype=torch.uint8)
        expected = TorchEngine(backbone, FLOAT32, 3).start(images)()
        found = OpenVINOEngine(backbone, FLOAT32, 2, engine_cache).start(images)()

        assert found.shape == (3, 97)
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-4)


class TestThreads:
    """One thread starts while another waits for its features."""

    def test_each_thread_receives_its_own_features(self, backbone, engine_cache):
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

    def test_the_engine_works_after_a_batch_that_failed(self, backbone, engine_cache):
        engine = OpenVINOEngine(backbone, FLOAT32, 2, engine_cache)
        for _ in range(20):  # more often than there are requests
            with pytest.raises((RuntimeError, ValueError)):
                engine.start(torch.zeros(4, 16, 16, 3, dtype=torch.uint8))()

        assert engine.start(IMAGES)().any()

    def test_if_a_single_image_fails_the_requests_of_full_batches_are_released_too(
        self, backbone, engine_cache
    ):
        engine = OpenVINOEngine(backbone, FLOAT32, 2, engine_cache)
        before = engine._full.qsize()
        engine._single = queue.SimpleQueue()
        engine._single.put(Mock(**{"start_async.side_effect": RuntimeError("broken")}))
        with pytest.raises(RuntimeError, match="broken"):
            engine.start(IMAGES)

        assert engine._full.qsize() == before


class TestBatchSize:
    def test_it_is_measured_once_for_each_precision(self, tmp_path, backbone, expected):
        engine = OpenVINOEngine(backbone, FLOAT32, 0, tmp_path)
        (path,) = tmp_path.glob("batch-*.json")
        found = json.loads(path.read_text())

        assert engine.batch_size == found["batch_size"]
        assert set(found["rates"]) == {str(size) for size in CPU_BATCH_SIZES}
        np.testing.assert_allclose(engine.start(IMAGES)(), expected, atol=1e-5)
        path.write_text('{"batch_size": 3}')
        assert OpenVINOEngine(backbone, FLOAT32, 0, tmp_path).batch_size == 3
        OpenVINOEngine(backbone, Placement("cpu", "bfloat16"), 0, tmp_path)
        assert len(list(tmp_path.glob("batch-*.json"))) == 2

    def test_a_given_one_is_not_measured(self, tmp_path, backbone):
        assert OpenVINOEngine(backbone, FLOAT32, 7, tmp_path).batch_size == 7
        assert not list(tmp_path.glob("batch-*.json"))

    def test_it_may_be_one(self, tmp_path, backbone, expected):
        np.testing.assert_allclose(
            OpenVINOEngine(backbone, FLOAT32, 1, tmp_path).start(IMAGES)(), expected, atol=1e-5
        )


class TestCache:
    def test_a_network_is_converted_once(self, tmp_path, backbone, expected, conversions):
        first = run(backbone, tmp_path / "cache")
        second = run(backbone, tmp_path / "cache")

        assert conversions == ["toy"]
        np.testing.assert_array_equal(first, second)
        np.testing.assert_allclose(first, expected, atol=1e-5)

    def test_contains_only_complete_entries(self, tmp_path, backbone):
        run(backbone, tmp_path)

        assert sorted(path.suffix for path in tmp_path.iterdir()) == [".bin", ".xml"]
        assert len({path.stem for path in tmp_path.iterdir()}) == 1

    def test_precisions_share_an_entry(self, tmp_path, backbone, conversions):
        for precision in ("float32", "bfloat16"):
            OpenVINOEngine(backbone, Placement("cpu", precision), 1, tmp_path)

        assert len(conversions) == 1

    def test_another_network_has_another_entry(self, tmp_path, backbone, conversions):
        run(backbone, tmp_path)
        found = run(toy("other", 5), tmp_path)

        assert conversions == ["toy", "other"]
        assert found.shape == (3, 5)

    @pytest.mark.parametrize("missing", [".bin", ".xml"])
    def test_an_incomplete_entry_is_converted_again(
        self, tmp_path, backbone, expected, conversions, missing
    ):
        run(backbone, tmp_path)
        next(tmp_path.glob(f"*{missing}")).unlink()

        np.testing.assert_allclose(run(backbone, tmp_path), expected, atol=1e-5)
        assert len(conversions) == 2

    @pytest.mark.parametrize("damaged", [".bin", ".xml"])
    def test_a_truncated_entry_is_converted_again(
        self, tmp_path, backbone, expected, conversions, caplog, damaged
    ):
        run(backbone, tmp_path)
        path = next(tmp_path.glob(f"*{damaged}"))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

        np.testing.assert_allclose(run(backbone, tmp_path), expected, atol=1e-5)
        assert len(conversions) == 2
        assert "is damaged, converting again" in caplog.text

    def test_after_a_crash_between_its_two_files_an_entry_is_converted_again(
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


def test_unsupported_precision_fails(tmp_path, backbone, conversions):
    with pytest.raises(EngineError, match="OpenVINO does not compute in float16 on the CPU"):
        OpenVINOEngine(backbone, Placement("cpu", "float16"), 2, tmp_path)

    assert conversions == []


def test_unsupported_operator_fails(tmp_path):
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


def test_no_telemetry_is_sent(tmp_path):
    """OpenVINO would report imports and conversions. Child processes are checked too."""
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
    """Compiling sets a signal stack that is unmapped together with the network."""
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED, str(tmp_path)], check=False)

    assert ended.returncode == 7
