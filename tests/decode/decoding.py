"""Decode a file in a test: with the fallback as the pipeline does, or with a single reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.config import Geometry, Sampling
from pipeline.decode.fallback import decode_chunk, index_video, new_buffer
from pipeline.decode.process_pool import DecodeProcess
from pipeline.decode.sampling import SamplePlan
from pipeline.decode.shared_memory import FrameBuffer
from pipeline.records import Chunk, FrameBatch, Video, VideoIndex
from tests.videos import read_number

ALL = Sampling(every=1)
SMALL = Geometry(32, 64, "squash", reducing_gap=1)
"""Large enough for the bar code of a test image."""


def as_video(path: Path | str, image_fps: float | None = None) -> Video:
    """Create a `Video` of a file, or with a frame rate of a folder of images; reads neither."""
    kind = "images" if image_fps else "file"
    return Video(str(path), str(path), kind, f"id of {path}", 1, image_fps)


def decode(
    process: DecodeProcess,
    source: Path | Video,
    sampling: Sampling = ALL,
    *,
    start: int = 0,
    stop: int | None = None,
    context: int = 0,
    geometry: Geometry = SMALL,
    index: VideoIndex | None = None,
) -> FrameBatch:
    """Decode the samples [start, stop) of a video, with the fallback of the pipeline."""
    video = source if isinstance(source, Video) else as_video(source)
    index = index or index_video(process, video)
    total = SamplePlan(index, sampling).num_samples
    chunk = Chunk(video, index, start, total if stop is None else stop, total, context)
    return decode_chunk(process, chunk, sampling, geometry, new_buffer(chunk, geometry))


def read_with(
    process: DecodeProcess,
    reader: str,
    path: Path,
    sampling: Sampling = ALL,
    *,
    index: VideoIndex | None = None,
    by_order: bool = False,
) -> tuple[dict, np.ndarray]:
    """
    Decode a video with one reader, in full size.

    Returns:
        The answer of the decode process, and the images, (T, H, W, 3).
    """
    index = index or index_video(process, as_video(path))
    total = SamplePlan(index, sampling).num_samples
    buffer = FrameBuffer(np.empty((total, index.height, index.width, 3), np.uint8))
    job = {
        "do": "decode",
        "reader": reader,
        "location": str(path),
        "index": index.to_json(),
        "sampling": {"fps": sampling.fps, "every": sampling.every},
        "start": 0,
        "stop": total,
        "context": 0,
        "size": [index.height, index.width],
        "capacity": total + 16,
        "by_order": by_order,
    }
    process.indexed_location = None
    answer = process.ask(job, buffer.put)
    return answer, buffer.images[: len(answer.get("sample_index", []))]


def numbers(images: np.ndarray) -> list[int]:
    """Read the numbers of test images, (T, H, W, 3)."""
    return [read_number(image) for image in images]
