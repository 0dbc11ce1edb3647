"""OpenVINO on the CPU: its input is uint8 images, normalization is part of the network."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import functools
import importlib.metadata
import logging
import os
import queue
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Importing OpenVINO sends usage data over the network unless this module cannot be imported.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino  # noqa: E402
from openvino.frontend import FrontEndManager  # noqa: E402
from openvino.preprocess import PrePostProcessor  # noqa: E402
from openvino.properties import hint, inference_num_threads, num_streams  # noqa: E402

from pipeline.config import fingerprint  # noqa: E402
from pipeline.encode.backbone import Backbone  # noqa: E402
from pipeline.encode.batch_size import CPU_BATCH_SIZES, find_batch_size  # noqa: E402
from pipeline.encode.engine import PendingFeatures, Placement  # noqa: E402
from pipeline.encode.preprocess import resize_and_crop  # noqa: E402
from pipeline.errors import EngineError  # noqa: E402
from pipeline.machine import available_cpus  # noqa: E402
from pipeline.records import Images  # noqa: E402

logger = logging.getLogger(__name__)

BATCHES_PER_STREAM = 2
"""Batches in flight for each core: one is computed, the next one waits, so that Python is never
waited for."""
TRIAL_BATCHES = 4
"""Batches for each core when the speed is measured."""


class OpenVINOEngine:
    """
    Run a backbone on the CPU, with one inference stream per core.

    With all cores on one batch, every layer would wait for the slowest core, often one that also
    decodes. There are two compiled networks: one for full batches, one for single images.

    Args:
        backbone: network to run.
        placement: precision.
        batch_size: images in a batch; 0 measures which is fastest.
        cache: folder for converted networks and measured batch sizes.

    Raises:
        EngineError: OpenVINO does not support the precision, or an operator of the network.
    """

    name = "openvino"

    def __init__(
        self, backbone: Backbone, placement: Placement, batch_size: int, cache: Path
    ) -> None:
        self.backbone = backbone
        self.device = "cpu"
        self.precision = placement.precision
        if self.precision == "float16":
            raise EngineError("OpenVINO does not compute in float16 on the CPU")
        compiled = functools.cache(partial(self._compile, _load_model(backbone, cache)))
        self.batch_size = batch_size or self._find_batch_size(compiled, cache)
        self._full, self._single = compiled(self.batch_size), compiled(1)

    def _compile(self, model: Any, batch_size: int) -> IdleRequests:
        model.reshape([batch_size, *list(model.input(0).partial_shape)[1:]])
        types = {"float32": openvino.Type.f32, "bfloat16": openvino.Type.bf16}
        cores = available_cpus()
        settings = {
            hint.inference_precision: types[self.precision],
            hint.performance_mode: hint.PerformanceMode.THROUGHPUT,
            inference_num_threads: cores,
            num_streams: cores,
        }
        with _same_signal_stack():
            compiled = openvino.Core().compile_model(model, "CPU", settings)
        idle: IdleRequests = queue.SimpleQueue()
        for _ in range(cores * BATCHES_PER_STREAM):
            idle.put(compiled.create_infer_request())
        return idle

    def _find_batch_size(self, compiled: Callable[[int], IdleRequests], cache: Path) -> int:
        key = fingerprint(
            self.backbone.identity,
            self.precision,
            openvino.Core().get_property("CPU", "FULL_DEVICE_NAME"),
            available_cpus(),
            openvino.__version__,
        )
        geometry, channels = self.backbone.geometry, 3 * (1 + self.backbone.previous_frames)
        shape = (max(CPU_BATCH_SIZES), geometry.height, geometry.width, channels)
        black = np.zeros(shape, np.uint8)
        ignored = np.empty((max(CPU_BATCH_SIZES), self.backbone.feature_size), np.float32)

        batches = TRIAL_BATCHES * available_cpus()

        def run(size: int) -> None:
            running = _RunningBatches()
            for _ in range(batches):
                running.start(compiled(size), black[:size], ignored[:size])
            running.wait()

        return find_batch_size(run, cache / f"batch-{key}.json", CPU_BATCH_SIZES, batches)

    def preprocess(self, frames: Images) -> Tensor:
        """Resize and crop frames (T, h, w, 3) with torch's uint8 kernel, to (T, H, W, 3)."""
        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)
        return resize_and_crop(pixels, self.backbone).permute(0, 2, 3, 1)

    def start(self, images: Tensor) -> PendingFeatures:
        """Start to encode images: full batches first, then the remaining images one by one."""
        pixels = images.contiguous().numpy()
        features = np.empty((len(pixels), self.backbone.feature_size), np.float32)
        whole = len(pixels) - len(pixels) % self.batch_size
        # one object for both networks: if a batch fails, the requests of both are released
        running = _RunningBatches()
        try:
            for start in range(0, whole, self.batch_size):
                rows = slice(start, start + self.batch_size)
                running.start(self._full, pixels[rows], features[rows])
            for row in range(whole, len(pixels)):
                running.start(self._single, pixels[row : row + 1], features[row : row + 1])
        except BaseException:
            running.cancel()
            raise

        def wait() -> NDArray[np.float32]:
            running.wait()
            return features

        return wait


IdleRequests = queue.SimpleQueue[Any]
"""Idle inference requests of a compiled network: threads take one and put it back."""


class _RunningBatches:
    """Batches of one caller that are being computed, in the order in which they were started."""

    def __init__(self) -> None:
        self._running: collections.deque[tuple[IdleRequests, Any, tuple[Any, Any]]]
        self._running = collections.deque()

    def start(
        self, idle: IdleRequests, pixels: NDArray[np.uint8], features: NDArray[np.float32]
    ) -> None:
        """Start a batch as soon as a request is idle."""
        while idle.empty() and self._running:
            self._wait_for_first()
        request = idle.get()  # if other threads use all of them, this waits for the first
        # shared memory: copies, and OpenVINO's argument handling, cost 0.1 ms a batch
        memory = (
            openvino.Tensor(pixels, shared_memory=True),
            openvino.Tensor(features, shared_memory=True),
        )
        try:
            request.set_input_tensor(memory[0])
            request.set_output_tensor(memory[1])
            request.start_async()
        except BaseException:
            idle.put(request)  # it did not start: waiting for it would never end
            raise
        self._running.append((idle, request, memory))

    def wait(self) -> None:
        """Wait for all batches."""
        try:
            while self._running:
                self._wait_for_first()
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Release all requests, and ignore the errors of their batches."""
        while self._running:
            with contextlib.suppress(RuntimeError):
                self._wait_for_first()

    def _wait_for_first(self) -> None:
        idle, request, _ = self._running.popleft()
        try:
            request.wait()
        finally:
            idle.put(request)


class _SignalStack(ctypes.Structure):
    """`stack_t` of the C library."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextlib.contextmanager
def _same_signal_stack() -> Iterator[None]:
    """
    Restore the alternate signal stack of this thread (`sigaltstack`) after the block.

    Compiling a network sets another one, which is unmapped together with the network: the next
    signal would then end the process with a segmentation fault.
    """
    library, before = ctypes.CDLL(None), _SignalStack()
    library.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        library.sigaltstack(ctypes.byref(before), None)


def supports_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16; without them it is emulated, and slow."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _load_model(backbone: Backbone, cache: Path) -> Any:
    """Read the converted network from the cache, or convert and store it."""
    versions = [importlib.metadata.version(name) for name in ("openvino", "torch", "timm")]
    key = fingerprint(backbone.identity, backbone.name, versions)
    path = cache / f"{key}.xml"
    core = openvino.Core()
    if path.exists() and path.with_suffix(".bin").exists():
        try:
            return core.read_model(path)
        except RuntimeError as error:
            logger.warning("%s is damaged, converting again: %s", path, error)
    try:
        model = _convert(backbone)
    except Exception as error:  # torch.export and OpenVINO raise any error for unknown operators
        raise EngineError(f"OpenVINO cannot convert {backbone.name}: {error}") from error
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".new-") as folder:
        temporary = Path(folder) / "model.xml"
        openvino.save_model(model, temporary, compress_to_fp16=False)
        os.replace(temporary.with_suffix(".bin"), path.with_suffix(".bin"))
        os.replace(temporary, path)  # last: if it exists, so does the other file
    return core.read_model(path)


@contextlib.contextmanager
def _without_root_warnings() -> Iterator[None]:
    """Hide OpenVINO's warnings, for every network, of operators that this torch does not have."""
    root = logging.getLogger()
    root.addFilter(_is_error)
    try:
        yield
    finally:
        root.removeFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno > logging.WARNING


def _convert(backbone: Backbone) -> Any:
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    frames = 1 + backbone.previous_frames
    height, width = backbone.geometry.height, backbone.geometry.width
    example = torch.zeros(2, 3 * frames, height, width)
    # the steps of `openvino.convert_model`, which would also send usage data over the network
    frontend = FrontEndManager().load_by_framework("pytorch")
    with torch.no_grad():
        batch = {0: torch.export.Dim.AUTO}
        program = torch.export.export(backbone.module, (example,), dynamic_shapes=(batch,))
    with _without_root_warnings():
        decoder = TorchFXPythonDecoder.from_exported_program(program)
    model = frontend.convert(frontend.load(decoder))
    model.reshape([-1, 3 * frames, height, width])
    steps = PrePostProcessor(model)
    layout = openvino.Layout
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(layout("NHWC"))
    steps.input().model().set_layout(layout("NCHW"))
    preprocess = steps.input().preprocess().convert_element_type(openvino.Type.f32)
    preprocess.mean([value * 255 for value in backbone.mean * frames])
    preprocess.scale([value * 255 for value in backbone.std * frames])
    return steps.build()
