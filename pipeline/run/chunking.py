"""Where to split a range of samples into chunks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.decode.sampling import SamplePlan
from pipeline.records import Integers


def missing_ranges(stored: Sequence[tuple[int, int]], total: int) -> list[tuple[int, int]]:
    """
    List the ranges of samples that are not stored.

    Args:
        stored: ranges [start, stop), sorted by start; of two that overlap the first one is used.
        total: samples of the video.
    """
    found, end = [], 0
    for start, stop in stored:
        if start > end:
            found.append((end, start))
        if start >= end:
            end = stop
    return [*found, (end, total)] if end < total or not stored else found


def key_frame_samples(plan: SamplePlan, context: int) -> Integers:
    """
    List the samples at which a video is best split.

    A chunk is decoded from the key frame before its first sample, its context included: if both
    follow one key frame, no frame is decoded twice.
    """
    return np.unique(np.searchsorted(plan.frame_indices(), plan.index.key_frames)) + context


def split_range(
    samples: tuple[int, int], size: int, max_size: int, preferred: Integers
) -> list[int]:
    """
    Split a range of samples into chunks of about one size.

    Args:
        samples: the range [start, stop).
        size: wanted samples a chunk.
        max_size: largest number of samples a chunk.
        preferred: where to split if possible, ascending.

    Returns:
        The boundaries, both ends of the range included.
    """
    start, stop = samples
    edges = [start]
    while stop - start > size:
        aim = start + -(-(stop - start) // -(-(stop - start) // size))
        lower, upper = start + (aim - start) // 2, min(start + max_size, stop - 1)
        near = preferred[(preferred > lower) & (preferred <= upper)]
        if not len(near) and stop - start <= min(max_size, size * 3 // 2):
            break  # decoding up to the second chunk would cost more than the split saves
        start = int(near[np.abs(near - aim).argmin()]) if len(near) else aim
        edges.append(start)
    return [*edges, stop]
