"""Build examples from labelled clips and the stored features of their videos."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Sampling
from pipeline.encode.shot_store import Shots
from pipeline.errors import SourceError
from pipeline.recognition.recognize import sample_times
from pipeline.recognition.windows import (
    EPSILON_SECONDS,
    Samples,
    first_in,
    run_length_encode,
)
from pipeline.records import DecodeReport, Integers, Seconds, Video, merge_reports
from pipeline.storage import printable
from pipeline.temporal.batching import Example
from pipeline.training.annotations import Annotation, Annotations
from pipeline.training.feature_source import FeatureSource


@dataclass(frozen=True, slots=True)
class SkippedClip:
    """A labelled clip without features."""

    row: int
    video: str
    reason: str


@dataclass(frozen=True, slots=True)
class _VideoFeatures:
    """Features of all sampled frames of one video."""

    video: Video
    samples: Samples
    sample_index: Integers
    """(T,)."""
    report: DecodeReport
    duration_seconds: float
    shot: Integers
    """Index of the shot of each frame, (T,); all 0 where the shots are not known."""


@dataclass(frozen=True)
class ClipDatasetBuilder:
    """
    Builds examples from labelled clips.

    Args:
        annotations: all clips; they define the label indices.
        source: of the features.
    """

    annotations: Annotations
    source: FeatureSource

    def problem(self, video: Video) -> str:
        """Give the reason why a video has no features, or an empty string if it has some."""
        return feature_problem(video, self.source)

    def build(self, video: Video, clips: list[Annotation]) -> list[Example | SkippedClip]:
        """
        Build the examples of one video; clips whose frames were not decoded are skipped.

        Raises:
            SourceError: a clip is outside of the video or too short, or features are not finite.
        """
        parts = list(self.source.store.stream(video.video_id))
        samples = Samples(
            np.concatenate([sample_times(part, self.source.sampling) for part in parts]),
            np.concatenate([part.values for part in parts]),
        )
        sample_index = np.concatenate([part.sample_index for part in parts])
        report = merge_reports(self.source.store.reports(video.video_id))
        duration = report.duration_seconds or float(samples.seconds[-1])
        shots = self.source.shots(video.video_id) or Shots()
        frames = np.concatenate([part.frame_index for part in parts])
        shot = np.searchsorted(shots.start_frames, frames, side="right") - 1
        features = _VideoFeatures(video, samples, sample_index, report, duration, shot)
        return [self._build(clip, features) for clip in clips]

    def _build(self, clip: Annotation, source: _VideoFeatures) -> Example | SkippedClip:
        start = clip.start_seconds or 0.0
        end = source.duration_seconds if clip.end_seconds is None else clip.end_seconds
        first, stop = frame_range(
            clip, source.samples.seconds, shown_on=source.report.one_sample_per_frame
        )
        if first >= stop and source.report.status != "ok":
            return SkippedClip(clip.row, clip.video, _missing_frames(start, end, source.report))
        require_inside(clip, source.duration_seconds, self.source.sampling)
        first, stop = longest_in_one_shot(source.shot, first, stop)
        features = source.samples.features[first:stop].astype(np.float32)
        if not len(features):
            raise SourceError(
                f"row {clip.row}: no frame was sampled between {start:g} and {end:g} seconds of "
                f"{printable(clip.video)}: increase --sample-fps"
            )
        if not np.isfinite(features).all():
            raise SourceError(
                f"row {clip.row}: features of {printable(clip.video)} are not finite: the weights "
                "of the backbone are damaged, or its precision is too low"
            )
        return Example(
            name=_name(clip),
            video_id=source.video.video_id,
            group=clip.group,
            label=self.annotations.labels.index(clip.label),
            features=features,
            mask=self._mask(source.shot, first, len(features)),
            start_seconds=start,
            end_seconds=end,
            sample_index=source.sample_index[first:stop],
            video=printable(clip.video),
        )

    def _mask(self, shot: Integers, first: int, length: int) -> NDArray[np.bool_]:
        """Mask the first frame of a shot if frames are encoded with the previous one, (L,)."""
        starts_shot = first == 0 or shot[first - 1] != shot[first]
        mask = np.ones(length, np.bool_)
        mask[0] = not (self.source.backbone.context and starts_shot and length > 1)
        return mask


def feature_problem(video: Video, source: FeatureSource) -> str:
    """Give the reason why a video has no features, or an empty string if it has some."""
    if not source.store.has(video.video_id):
        failed = source.not_stored.get(video.video_id)
        return f"{failed.status}: {failed.error}" if failed else "its features are not stored"
    report = merge_reports(source.store.reports(video.video_id))
    return "" if report.frames_sampled else f"{report.status}: {report.error}"


def require_inside(clip: Annotation, duration: float, sampling: Sampling) -> None:
    """
    Require that a clip ends with its video, up to one sample later.

    Args:
        clip: a labelled part of the video.
        duration: of the video, in seconds.
        sampling: of its frames.

    Raises:
        SourceError: it is outside of the video.
    """
    start = clip.start_seconds or 0.0
    end = duration if clip.end_seconds is None else clip.end_seconds
    tolerance = 1 / sampling.fps if sampling.fps else 0.1
    if (start > 0 and start >= duration) or end > duration + tolerance:
        raise SourceError(
            f"row {clip.row}: {start:g} to {end:g} seconds are outside of "
            f"{printable(clip.video)}, which is {duration:g} seconds long"
        )


def frame_range(clip: Annotation, seconds: Seconds, *, shown_on: bool) -> tuple[int, int]:
    """
    Give the sampled frames of a clip, [first, stop).

    Args:
        clip: a labelled part of a video.
        seconds: times of the sampled frames of the video, (T,).
        shown_on: whether a frame stays displayed until the next one.
    """
    first = first_in(seconds, clip.start_seconds or 0.0, shown_on=shown_on)
    if clip.end_seconds is None:  # the last sample may lie exactly at the end of the video
        return first, len(seconds)
    return first, int(np.searchsorted(seconds, clip.end_seconds - EPSILON_SECONDS))


def longest_in_one_shot(shot: Integers, first: int, stop: int) -> tuple[int, int]:
    """
    Give the longest part of the frames [first, stop) that contains no shot boundary.

    Args:
        shot: index of the shot of each frame of the video, (T,).
        first, stop: frames of a labelled clip.
    """
    parts = [(first + a, first + b) for a, b, _ in run_length_encode(shot[first:stop])]
    return max(parts, key=lambda part: part[1] - part[0], default=(first, stop))


def _missing_frames(start: float, end: float, report: DecodeReport) -> str:
    error = f": {report.error}" * bool(report.error)
    return f"{report.status}: no frame between {start:g} and {end:g} seconds was decoded{error}"


def _name(clip: Annotation) -> str:
    if clip.end_seconds is None:
        return printable(clip.video)
    return f"{printable(clip.video)} [{clip.start_seconds:g}, {clip.end_seconds:g})"
