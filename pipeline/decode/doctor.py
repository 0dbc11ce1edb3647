"""Report for every file what it holds and what can be decoded, without keeping an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import partial

from pipeline.config import DecodeOptions, Geometry, Sampling
from pipeline.decode.fallback import decode_chunk, failure_report, index_video
from pipeline.decode.process_pool import DecodePool, DecodeProcess
from pipeline.decode.sampling import SamplePlan, sampling_of
from pipeline.decode.shared_memory import discard_buffer
from pipeline.errors import VideoError
from pipeline.records import Chunk, DecodeReport, Video

THUMBNAIL = Geometry(8, 8, "squash", reducing_gap=1)


def examine(
    videos: Sequence[Video], options: DecodeOptions, sampling: Sampling
) -> Iterator[tuple[Video, DecodeReport]]:
    """
    Decode every frame of every video, and yield the reports in order.

    Args:
        videos: to examine.
        options: how to decode.
        sampling: of later runs; which reader they use depends on it.
    """
    with DecodePool(options) as pool:
        futures: list[tuple[Video, Future[DecodeReport]]] = [
            (video, pool.submit(partial(_examine, video=video, sampling=sampling)))
            for video in videos
        ]
        for video, future in futures:
            yield video, future.result()


def _examine(process: DecodeProcess, video: Video, sampling: Sampling) -> DecodeReport:
    try:
        index = index_video(process, video)
    except VideoError as error:
        return failure_report(error)
    total = SamplePlan(index, sampling_of(index, sampling)).num_samples
    chunk = Chunk(video, index, 0, total, total)
    return decode_chunk(process, chunk, sampling, THUMBNAIL, discard_buffer()).report
