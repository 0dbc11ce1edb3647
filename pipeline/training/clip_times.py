"""
Check the times of labelled parts against their videos, before anything is decoded.

Times of videos that are not in the feature store come from their containers.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.config import Sampling
from pipeline.decode.sampling import SamplePlan, sampling_of
from pipeline.records import Seconds, Video, VideoIndex, merge_reports
from pipeline.run.indexing import index_ahead
from pipeline.run.session import Session
from pipeline.sources.table_problems import Problems, format_lines
from pipeline.storage import printable
from pipeline.training.annotations import Annotation, Annotations
from pipeline.training.clip_dataset import frame_range

logger = logging.getLogger(__name__)

MAX_OVERHANG_SECONDS = 0.5
"""A part that ends later than this after its video is a mistake; until then it is cut."""
ROUNDING_SECONDS = 0.01
"""A part that ends up to this time after its video is left as it is."""


@dataclass(frozen=True, slots=True)
class _VideoTimes:
    """Times of one video that was read without problems."""

    video: Video
    duration_seconds: float
    samples: Seconds | None
    """Times of the sampled frames, ascending; None if they are not known."""
    shown_on: bool
    """Whether a sampled frame stays displayed until the next one."""


def check_times(annotations: Annotations, session: Session, videos: Sequence[Video]) -> Annotations:
    """
    Check the parts of videos, and cut those that end a little after their video.

    Videos that cannot be read, or not completely, are not checked: their clips are skipped later.

    Args:
        annotations: labelled clips.
        session: reads the containers of videos that are not in its feature store.
        videos: those of the clips.

    Returns:
        The annotations; a warning tells which parts were cut.

    Raises:
        SourceError: parts are outside of their videos, or contain no sampled frame; the message
            names all of them.
    """
    by_path: dict[str, list[Annotation]] = defaultdict(list)
    for clip in annotations.clips:
        if clip.end_seconds is not None:
            by_path[clip.video].append(clip)
    problems = Problems(annotations.path)
    cut: dict[Annotation, float] = {}
    timed = [video for video in videos if any(path in by_path for path in _paths(video))]
    for times in _read_times(session, timed):
        for path in _paths(times.video):
            for clip in by_path[path]:
                _check(clip, times, session.sampling, problems, cut)
    problems.raise_if_any()
    if not cut:
        return annotations
    clips = [
        replace(clip, end_seconds=cut[clip]) if clip in cut else clip for clip in annotations.clips
    ]
    logger.warning(
        "%s of %s end up to %.2f s after their video: the parts are cut there",
        format_lines(clip.row for clip in cut),
        printable(annotations.path),
        max(clip.end_seconds - end for clip, end in cut.items() if clip.end_seconds),
    )
    return replace(annotations, clips=tuple(clips))


def _paths(video: Video) -> list[str]:
    return [video.location, *(location for _, location in video.copies)]


def _check(
    clip: Annotation,
    times: _VideoTimes,
    sampling: Sampling,
    problems: Problems,
    cut: dict[Annotation, float],
) -> None:
    """Check one part; note where it is to be cut."""
    start, end, duration = clip.start_seconds, clip.end_seconds, times.duration_seconds
    assert start is not None
    assert end is not None
    part = f"{start:g} to {end:g} s of {printable(clip.video)}"
    if start >= duration or end > duration + MAX_OVERHANG_SECONDS:
        problems.add(f"{part} are not in the video, which is {duration:.3f} s long", [clip.row])
        return
    if times.samples is not None:
        first, stop = frame_range(clip, times.samples, shown_on=times.shown_on)
        if first >= stop:
            rate = f"{sampling.fps:g} per second" if sampling.fps else f"every {sampling.every}"
            problems.add(
                f"{part} contain no sampled frame ({rate}): lengthen the part, or sample more "
                "(--sample-fps)",
                [clip.row],
            )
            return
    if end > duration + ROUNDING_SECONDS:
        cut[clip] = duration


def _read_times(session: Session, videos: Sequence[Video]) -> Iterator[_VideoTimes]:
    """Give the times of videos, in order, without those that have problems."""
    store, sampling = session.store, session.sampling
    unknown = []
    for video in videos:
        if not store.has(video.video_id):
            unknown.append(video)
            continue
        report = merge_reports(store.reports(video.video_id))
        duration = report.duration_seconds
        if report.status == "ok" and duration is not None:
            samples = None
            if sampling.fps and not report.one_sample_per_frame:
                samples = np.arange(report.frames_sampled) / sampling.fps
            yield _VideoTimes(video, duration, samples, shown_on=False)
    for video, index in index_ahead(session.pool, unknown):
        if isinstance(index, VideoIndex) and not index.problem:
            yield _indexed_times(video, index, sampling)


def _indexed_times(video: Video, index: VideoIndex, sampling: Sampling) -> _VideoTimes:
    own = sampling_of(index, sampling)
    plan = SamplePlan(index, own)
    numbers = np.arange(plan.num_samples)
    samples = numbers / own.fps if own.fps else index.seconds[plan.frame_indices()]
    return _VideoTimes(video, index.duration_seconds, samples, shown_on=own != sampling)
