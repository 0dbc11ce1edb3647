"""
Cache of decoded frames for fine-tuning: resized to the input size of the backbone, uint8.

Files lie beside the feature stores, in a folder per sampling and input geometry; row k of a file is
sample k of its video. Each file is complete or absent, so that no video is decoded twice, and is
read as a memory map, so that videos need not fit into memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Sampling, fingerprint
from pipeline.decode.fallback import decode_chunk, index_video, num_images
from pipeline.decode.process_pool import DecodeProcess
from pipeline.decode.sampling import SamplePlan, sampling_of
from pipeline.decode.shared_memory import FrameBuffer
from pipeline.encode.backbone import Backbone
from pipeline.encode.preprocess import preprocess_decoded
from pipeline.errors import MachineError
from pipeline.records import Chunk, FrameBatch, Images, Integers, Video
from pipeline.run.session import Session
from pipeline.storage import file_lock, remove_temporary_files, temporary_path

FOLDER = "_pictures"
"""Beside the feature stores; names with an underscore are not part of their tables."""
CHUNK_BYTES = 128 << 20
"""Maximum size of the decoded frames that one decode process holds at once."""


@dataclass(frozen=True)
class FrameCache:
    """A folder with the resized frames of videos."""

    folder: Path
    size: tuple[int, int]
    """Height and width in pixels."""

    def path(self, video_id: str) -> Path:
        """Give the path of a video's file, existing or not."""
        return self.folder / f"{video_id}.pictures"

    def has(self, video_id: str) -> bool:
        """Whether the frames of a video are cached."""
        return self.path(video_id).exists()

    @property
    def dtype(self) -> np.dtype[Any]:
        """Structured type of a row: whether the sample was decoded, and its frame (H, W, 3)."""
        return np.dtype([("present", np.bool_), ("picture", np.uint8, (*self.size, 3))])

    def read(self, video_id: str, sample_index: Integers) -> Images:
        """
        Read the frames of some samples, (n, H, W, 3), RGB.

        Raises:
            MachineError: the file is missing or damaged, or lacks a sample.
        """
        path = self.path(video_id)
        try:
            rows = np.memmap(path, self.dtype, "r")[sample_index]
        except (OSError, ValueError, IndexError) as error:
            raise MachineError(f"{path} is damaged: {error}; delete it and try again") from error
        if not rows["present"].all():
            raise MachineError(f"{path} lacks samples that were encoded; delete it and try again")
        return np.ascontiguousarray(rows["picture"])


def frame_cache_of(features: Path, backbone: Backbone, sampling: Sampling) -> FrameCache:
    """
    Give the cache for a backbone and a sampling.

    Args:
        features: folder of the feature stores.
        backbone: determines size and interpolation of the frames.
        sampling: determines which frames there are.
    """
    geometry = backbone.geometry
    key = fingerprint("pictures", sampling, geometry, backbone.interpolation)
    return FrameCache(features / FOLDER / key, (geometry.height, geometry.width))


def cache_frames(session: Session, videos: Sequence[Video]) -> FrameCache:
    """
    Decode the videos that are not cached yet, on the decode processes of a session.

    Raises:
        VideoError: a video cannot be read.
        MachineError: decoding failed for a reason that a retry may solve.
    """
    # `folder` is the store of one set of features; the cache serves several
    features = session.store.folder.parent
    cache = frame_cache_of(features, session.engine.backbone, session.sampling)
    with file_lock(cache.folder / ".lock", f"frame cache {cache.folder}", wait=True):
        remove_temporary_files(cache.folder)
        missing = [video for video in videos if not cache.has(video.video_id)]
        jobs = [partial(_write, session=session, video=v, cache=cache) for v in missing]
        futures = [session.pool.submit(job) for job in jobs]
        try:
            for future in futures:
                future.result()
        except BaseException:
            # the lock must be held until no job writes any more
            for future in futures:
                future.cancel()
            wait(futures)
            raise
    return cache


def _write(process: DecodeProcess, session: Session, video: Video, cache: FrameCache) -> None:
    """Write the frames of one video to a temporary file, then rename it."""
    path = cache.path(video.video_id)
    temporary = temporary_path(path)
    try:
        with temporary.open("wb") as file:
            for batch in _decode(process, video, session):
                file.write(_rows(batch, cache).data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _rows(batch: FrameBatch, cache: FrameCache) -> Any:
    """Put the frames of a batch into rows by their sample index, (n, bytes)."""
    chunk = batch.chunk
    index = batch.sample_index - chunk.start
    # a container may hold more samples at its end than its header claims
    count = max(chunk.stop - chunk.start, int(index.max(initial=-1)) + 1)
    rows = np.zeros(count, cache.dtype)
    rows["picture"][index] = batch.images
    rows["present"][index] = True
    return rows.view(np.uint8)


def _decode(process: DecodeProcess, video: Video, session: Session) -> Iterator[FrameBatch]:
    """Decode a video chunk by chunk, with frames resized to the input size of the backbone."""
    geometry, sampling = session.engine.backbone.geometry, session.sampling
    index = index_video(process, video)
    size = max(1, CHUNK_BYTES // (geometry.height * geometry.width * 3))
    total = SamplePlan(index, sampling_of(index, sampling)).num_samples
    for start in range(0, total, size):
        chunk = Chunk(video, index, start, min(start + size, total), total)
        shape = (num_images(chunk), geometry.height, geometry.width, 3)
        buffer = FrameBuffer(np.empty(shape, np.uint8), partial(preprocess_decoded, session.engine))
        batch = decode_chunk(process, chunk, sampling, geometry, buffer)
        if batch.report.transient:
            raise MachineError(f"{video.path}: {batch.report.status}: {batch.report.error}")
        yield batch
