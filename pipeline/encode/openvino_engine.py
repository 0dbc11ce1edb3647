"""OpenVINO on the CPU: uint8 pictures in, normalization folded into the network."""

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

# Importing OpenVINO reports that to its maker, unless this module, which does so, cannot be found.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino  # noqa: E402
from openvino.frontend import FrontEndManager  # noqa: E402
from openvino.preprocess import PrePostProcessor  # noqa: E402
from openvino.properties import hint, inference_num_threads, num_streams  # noqa: E402

from pipeline.config import fingerprint  # noqa: E402
from pipeline.encode.backbone import Backbone  # noqa: E402
from pipeline.encode.batch_size import CPU_SIZES, find_batch_size  # noqa: E402
from pipeline.encode.engines import Features, Placement, fit_frames  # noqa: E402
from pipeline.errors import EngineError  # noqa: E402
from pipeline.records import Images  # noqa: E402

logger = logging.getLogger(__name__)


class OpenVINOEngine:
    """
    Runs a backbone on the CPU, one batch on each core at a time.

    A core of its own for each batch leaves nobody to wait for: where all cores shared one batch,
    each layer would last as long as on the core that a decoder, or anybody else, is using too.
    Two compiled networks: one for full batches, one for the rest.

    Args:
        backbone: what to run.
        placement: how exactly.
        batch_size: pictures a batch; 0 finds the fastest.
        cache: folder in which the converted network, and the batch size that was found, are kept.

    Raises:
        EngineError: OpenVINO does not know the arithmetic, or an operator of the network.
    """

    name = "openvino"

    def __init__(
        self, backbone: Backbone, placement: Placement, batch_size: int, cache: Path
    ) -> None:
        self.backbone = backbone
        self.device = "cpu"
        self.precision = placement.precision
        if self.precision == "float16":
            raise EngineError("OpenVINO on the CPU does not compute in float16")
        compiled = functools.cache(partial(self._compile, _load_model(backbone, cache)))
        self.batch_size = batch_size or self._find_batch_size(compiled, cache)
        self._full, self._single = compiled(self.batch_size), compiled(1)

    def _compile(self, model: Any, batch: int) -> Requests:
        model.reshape([batch, *list(model.input(0).partial_shape)[1:]])
        types = {"float32": openvino.Type.f32, "bfloat16": openvino.Type.bf16}
        cores = _num_cores()
        settings = {
            hint.inference_precision: types[self.precision],
            hint.performance_mode: hint.PerformanceMode.THROUGHPUT,
            inference_num_threads: cores,
            num_streams: cores,
        }
        with _same_signal_stack():
            compiled = openvino.Core().compile_model(model, "CPU", settings)
        idle: Requests = queue.SimpleQueue()
        for _ in range(cores * AHEAD):
            idle.put(compiled.create_infer_request())
        return idle

    def _find_batch_size(self, compiled: Callable[[int], Requests], cache: Path) -> int:
        key = fingerprint(
            self.backbone.identity,
            self.precision,
            openvino.Core().get_property("CPU", "FULL_DEVICE_NAME"),
            _num_cores(),
            openvino.__version__,
        )
        geometry, channels = self.backbone.geometry, 3 * (1 + self.backbone.context)
        shape = (max(CPU_SIZES), geometry.height, geometry.width, channels)
        black = np.zeros(shape, np.uint8)
        nowhere = np.empty((max(CPU_SIZES), self.backbone.feature_size), np.float32)

        batches = TRIAL_BATCHES * _num_cores()

        def run(size: int) -> None:
            flight = _Flight()
            for _ in range(batches):
                flight.add(compiled(size), black[:size], nowhere[:size])
            flight.land()

        return find_batch_size(run, cache / f"batch-{key}.json", CPU_SIZES, batches)

    def fit(self, frames: Images) -> Tensor:
        """Cut frames (T, h, w, 3) to pictures, uint8 (T, H, W, 3), with torch's integer kernel."""
        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)
        return fit_frames(pixels, self.backbone).permute(0, 2, 3, 1)

    def start(self, pictures: Tensor) -> Features:
        """Begin to encode pictures, the full batches first, then one by one what is left."""
        pixels = pictures.contiguous().numpy()
        features = np.empty((len(pixels), self.backbone.feature_size), np.float32)
        whole = len(pixels) - len(pixels) % self.batch_size
        # one flight for both networks: if a batch fails, the requests of either are given back
        flight = _Flight()
        try:
            for start in range(0, whole, self.batch_size):
                here = slice(start, start + self.batch_size)
                flight.add(self._full, pixels[here], features[here])
            for row in range(whole, len(pixels)):
                flight.add(self._single, pixels[row : row + 1], features[row : row + 1])
        except BaseException:
            flight.abandon()
            raise

        def finish() -> NDArray[np.float32]:
            flight.land()
            return features

        return finish


AHEAD = 2
"""Batches for each core: one that it computes, and one so that it need not wait for Python."""
TRIAL_BATCHES = 4
"""For each core, to see how fast it is."""


Requests = queue.SimpleQueue[Any]
"""The requests of a compiled network that are idle: threads take them and give them back."""


class _Flight:
    """Batches of one caller that are being computed, in the order in which they were begun."""

    def __init__(self) -> None:
        self._flying: collections.deque[tuple[Requests, Any, tuple[Any, Any]]] = collections.deque()

    def add(self, idle: Requests, pixels: NDArray[np.uint8], features: NDArray[np.float32]) -> None:
        """Begin with a batch, once a request is free."""
        while idle.empty() and self._flying:
            self._land_first()
        request = idle.get()  # where another caller has them all, it gives them back
        # read from and written to where they lie: copies, and finding out how to make them, would
        # take Python a tenth of a millisecond for each batch
        memory = (
            openvino.Tensor(pixels, shared_memory=True),
            openvino.Tensor(features, shared_memory=True),
        )
        try:
            request.set_input_tensor(memory[0])
            request.set_output_tensor(memory[1])
            request.start_async()
        except BaseException:
            idle.put(request)  # it was never begun, and waiting for it would never end
            raise
        self._flying.append((idle, request, memory))

    def land(self) -> None:
        """Wait for all batches."""
        try:
            while self._flying:
                self._land_first()
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Give back the requests, whatever became of their batches."""
        while self._flying:
            with contextlib.suppress(RuntimeError):
                self._land_first()

    def _land_first(self) -> None:
        idle, request, _ = self._flying.popleft()
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
    Give this thread back the stack that its signals are handled on.

    Compiling leaves it another one, which is unmapped with the network: the next signal then ends
    the process with a segmentation fault.
    """
    library, before = ctypes.CDLL(None), _SignalStack()
    library.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        library.sigaltstack(ctypes.byref(before), None)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))


def computes_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16, and not only imitates it."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _load_model(backbone: Backbone, cache: Path) -> Any:
    """Read the converted network from the cache, or convert it and keep it."""
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
    except Exception as error:  # whatever torch.export and OpenVINO raise for what they do not know
        raise EngineError(f"OpenVINO cannot convert {backbone.name}: {error}") from error
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".new-") as folder:
        fresh = Path(folder) / "model.xml"
        openvino.save_model(model, fresh, compress_to_fp16=False)
        os.replace(fresh.with_suffix(".bin"), path.with_suffix(".bin"))
        os.replace(fresh, path)  # last: the pair is there once this is
    return core.read_model(path)


@contextlib.contextmanager
def _without_root_warnings() -> Iterator[None]:
    """OpenVINO warns of operators that this torch does not have, for every network."""
    root = logging.getLogger()
    root.addFilter(_drop)
    try:
        yield
    finally:
        root.removeFilter(_drop)


def _drop(record: logging.LogRecord) -> bool:
    return record.levelno > logging.WARNING


def _convert(backbone: Backbone) -> Any:
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    channels = 1 + backbone.context
    height, width = backbone.geometry.height, backbone.geometry.width
    example = torch.zeros(2, 3 * channels, height, width)
    # The steps of `openvino.convert_model`, which would also report its use over the network.
    frontend = FrontEndManager().load_by_framework("pytorch")
    with torch.no_grad():
        batch = {0: torch.export.Dim.AUTO}
        program = torch.export.export(backbone.module, (example,), dynamic_shapes=(batch,))
    with _without_root_warnings():
        decoder = TorchFXPythonDecoder.from_exported_program(program)
    model = frontend.convert(frontend.load(decoder))
    model.reshape([-1, 3 * channels, height, width])
    steps = PrePostProcessor(model)
    layout = openvino.Layout
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(layout("NHWC"))
    steps.input().model().set_layout(layout("NCHW"))
    preprocess = steps.input().preprocess().convert_element_type(openvino.Type.f32)
    preprocess.mean([value * 255 for value in backbone.mean * channels])
    preprocess.scale([value * 255 for value in backbone.std * channels])
    return steps.build()
