"""
Create the engine that is fastest on this machine.

Measured on a CPU with bfloat16, OpenVINO is 10 to 17 times faster than plain torch; on CUDA, torch
runs in channels-last layout under autocast and resizes on the device, so that only uint8 images
are copied to it.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import torch

from pipeline.config import EncodeOptions, fingerprint
from pipeline.encode.backbone import Backbone
from pipeline.encode.batch_size import GPU_BATCH_SIZES, find_batch_size
from pipeline.encode.engine import Arithmetic, Engine, Placement
from pipeline.encode.torch_engine import TorchEngine
from pipeline.errors import EngineError
from pipeline.machine import available_cpus

logger = logging.getLogger(__name__)

TORCH_CPU_BATCH_SIZE = 4
"""The activations of a few images fit into the CPU cache: larger batches were measured slower."""


def reduced_precision(device: Literal["cpu", "cuda"]) -> Arithmetic | None:
    """Return the precision below float32 that is faster on a device; None if there is none."""
    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if native else "float16"
    try:
        from pipeline.encode.openvino_engine import supports_bfloat16
    except ImportError:
        return None
    return "bfloat16" if supports_bfloat16() else None


def make_engine(
    backbone: Backbone, placement: Placement, options: EncodeOptions, cache: Path
) -> Engine:
    """
    Create an engine: torch on CUDA, OpenVINO on the CPU, and torch if OpenVINO cannot run it.

    For the whole process, this limits the threads of torch to the available CPUs and, on CUDA,
    disables TF32, so that float32 is computed as float32.

    Args:
        backbone: network to run.
        placement: device and precision.
        options: batch size; 0 measures which is fastest.
        cache: folder for converted networks and measured batch sizes.
    """
    if available_cpus() < torch.get_num_threads():
        torch.set_num_threads(available_cpus())  # torch ignores the CPU quota of a container
    if placement.device == "cuda":
        return _make_cuda_engine(backbone, placement, options, cache)
    try:
        from pipeline.encode.openvino_engine import OpenVINOEngine

        return OpenVINOEngine(backbone, placement, options.batch_size, cache)
    except (ImportError, EngineError) as error:
        logger.warning("encoding with torch on the CPU, which is much slower: %s", error)
    return TorchEngine(backbone, placement, options.batch_size or TORCH_CPU_BATCH_SIZE)


def _make_cuda_engine(
    backbone: Backbone, placement: Placement, options: EncodeOptions, cache: Path
) -> TorchEngine:
    # torch allows TF32 by default, with a mantissa of 10 instead of 23 bits in float32 convolutions
    torch.backends.cudnn.allow_tf32 = False
    engine = TorchEngine(backbone, placement, options.batch_size or max(GPU_BATCH_SIZES))
    if not options.batch_size:
        gpu = torch.cuda.get_device_name()
        key = fingerprint(backbone.identity, gpu, placement.precision, torch.__version__)
        engine.batch_size = find_batch_size(engine.run_black_images, cache / f"batch-{key}.json")
    return engine
