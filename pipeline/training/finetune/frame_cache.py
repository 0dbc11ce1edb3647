"""
Decoded pictures, kept: cut to the size that a backbone wants, uint8, one file a video.

Files lie under the features, in a folder for one sampling and one way to cut pictures; row k of a
file is sample k of its video. Each is whole or not there, so that no video is decoded twice, and
is read as a memory map, so that no video need fit into memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Sampling, fingerprint
from pipeline.decode.fallback import decode_chunk, index_video, num_images
from pipeline.decode.process_pool import DecodeProcess
from pipeline.decode.sampling import SamplePlan
from pipeline.decode.shared_memory import FrameBuffer
from pipeline.encode.backbone import Backbone
from pipeline.encode.preprocess import preprocess_decoded
from pipeline.errors import MachineError
from pipeline.records import Chunk, FrameBatch, Images, Integers, Video
from pipeline.run.session import Session
from pipeline.storage import file_lock, remove_temporary_files, temporary_path

FOLDER = "_pictures"
"""Beside the feature stores; the underline: no part of their tables."""
SEGMENT_BYTES = 128 << 20
"""Decoded pictures that one decode process holds at once."""


@dataclass(frozen=True)
class PictureCache:
    """A folder of pictures, found by video and sample."""

    folder: Path
    size: tuple[int, int]
    """Height and width."""

    def path(self, video_id: str) -> Path:
        """Tell where the pictures of a video are, or will be."""
        return self.folder / f"{video_id}.pictures"

    def has(self, video_id: str) -> bool:
        """Whether the pictures of a video are there."""
        return self.path(video_id).exists()

    @property
    def row(self) -> np.dtype[Any]:
        """What a file holds of each sample."""
        return np.dtype([("present", np.bool_), ("picture", np.uint8, (*self.size, 3))])

    def read(self, video_id: str, samples: Integers) -> Images:
        """
        Read the pictures of some samples, (n, H, W, 3), RGB.

        Raises:
            MachineError: they are not there any more.
        """
        path = self.path(video_id)
        try:
            rows = np.memmap(path, self.row, "r")[samples]
        except (OSError, ValueError, IndexError) as error:
            raise MachineError(f"{path} is damaged: {error}; delete it and try again") from error
        if not rows["present"].all():
            raise MachineError(f"{path} lacks samples that were encoded; delete it and try again")
        return np.ascontiguousarray(rows["picture"])


def picture_cache(features: Path, backbone: Backbone, sampling: Sampling) -> PictureCache:
    """
    Name the folder of pictures.

    Args:
        features: folder of the feature stores.
        backbone: what decides how pictures are cut.
        sampling: which frames there are.
    """
    geometry = backbone.geometry
    key = fingerprint("pictures", sampling, geometry, backbone.interpolation)
    return PictureCache(features / FOLDER / key, (geometry.height, geometry.width))


def keep_pictures(session: Session, videos: Sequence[Video]) -> PictureCache:
    """
    Decode the videos whose pictures are not kept, on the decode processes of a pipeline.

    Raises:
        VideoError: a video cannot be read.
        MachineError: decoding failed in a way that another attempt may not.
    """
    # the store is a folder for one set of features, beside the others
    features = session.store.folder.parent
    cache = picture_cache(features, session.engine.backbone, session.sampling)
    with file_lock(cache.folder / ".lock", f"picture cache {cache.folder}", wait=True):
        remove_temporary_files(cache.folder)
        missing = [video for video in videos if not cache.has(video.video_id)]
        jobs = [partial(_keep, session=session, video=v, cache=cache) for v in missing]
        for future in [session.pool.submit(job) for job in jobs]:
            future.result()
    return cache


def _keep(process: DecodeProcess, session: Session, video: Video, cache: PictureCache) -> None:
    """Write the pictures of one video under a hidden name, then rename."""
    path = cache.path(video.video_id)
    fresh = temporary_path(path)
    with fresh.open("wb") as file:
        for batch in _decoded(process, video, session):
            file.write(_rows(batch, cache).data)
            session.progress.add(frames_decoded=batch.report.frames_decoded)
    fresh.replace(path)


def _rows(batch: FrameBatch, cache: PictureCache) -> Any:
    """Put each picture where its sample belongs."""
    chunk = batch.chunk
    places = batch.sample_index - chunk.start
    # a container may hold more samples at its end than it said
    count = max(chunk.stop - chunk.start, int(places.max(initial=-1)) + 1)
    rows = np.zeros(count, cache.row)
    rows["picture"][places] = batch.images
    rows["present"][places] = True
    return rows.view(np.uint8)


def _decoded(process: DecodeProcess, video: Video, session: Session) -> Iterator[FrameBatch]:
    """Decode a video chunk by chunk, and cut its frames to size."""
    geometry, sampling = session.engine.backbone.geometry, session.sampling
    index = index_video(process, video)
    most = max(1, SEGMENT_BYTES // (geometry.height * geometry.width * 3))
    total = SamplePlan(index, sampling).num_samples
    for start in range(0, total, most):
        chunk = Chunk(video, index, start, min(start + most, total), total)
        shape = (num_images(chunk), geometry.height, geometry.width, 3)
        buffer = FrameBuffer(np.empty(shape, np.uint8), partial(preprocess_decoded, session.engine))
        batch = decode_chunk(process, chunk, sampling, geometry, buffer)
        if batch.report.transient:
            raise MachineError(f"{video.path}: {batch.report.status}: {batch.report.error}")
        yield batch
