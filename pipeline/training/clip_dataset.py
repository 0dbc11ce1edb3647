"""Cut labelled clips out of the stored features of their videos."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Sampling
from pipeline.encode.feature_store import FeatureStore
from pipeline.errors import SourceError
from pipeline.recognition.recognize import sample_times
from pipeline.recognition.windows import EPSILON_SECONDS, Samples
from pipeline.records import DecodeReport, Integers, Video, merge_reports
from pipeline.storage import printable
from pipeline.temporal.batching import Example
from pipeline.training.annotations import Labelled, LabelledClip


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A labelled clip that nothing can be learned from."""

    row: int
    video: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Source:
    """What clips of one video are cut from."""

    video: Video
    samples: Samples
    numbers: Integers
    """Of the samples, in the video, (T,)."""
    report: DecodeReport
    duration_seconds: float


@dataclass(frozen=True)
class ClipCutter:
    """
    Cuts labelled clips.

    Args:
        labelled: all clips, for the numbers of their labels.
        store: where the features of the videos are.
        sampling: at which times they were taken.
        context: frames before each that it was encoded with.
    """

    labelled: Labelled
    store: FeatureStore
    sampling: Sampling
    context: int = 0

    def problem(self, video: Video) -> str:
        """Tell why nothing can be learned from a video; nothing where it can be."""
        if not self.store.has(video.video_id):
            return "it could not be read: clipline doctor says more"
        report = self._report(video)
        return "" if report.frames_sampled else f"{report.status}: {report.error}"

    def cut(self, video: Video, clips: list[LabelledClip]) -> list[Example | LeftOut]:
        """
        Cut the clips of one video; of what could not be decoded, tell why.

        Raises:
            SourceError: a clip is outside of the video, or its features are no numbers.
        """
        parts = list(self.store.stream(video.video_id))
        samples = Samples(
            np.concatenate([sample_times(part, self.sampling) for part in parts]),
            np.concatenate([part.values for part in parts]),
        )
        numbers = np.concatenate([part.sample_index for part in parts])
        report = self._report(video)
        duration = report.duration_seconds or float(samples.seconds[-1])
        source = _Source(video, samples, numbers, report, duration)
        return [self._cut(clip, source) for clip in clips]

    def _report(self, video: Video) -> DecodeReport:
        return merge_reports(self.store.reports(video.video_id))

    def _cut(self, clip: LabelledClip, source: _Source) -> Example | LeftOut:
        start = clip.start_seconds or 0.0
        end = source.duration_seconds if clip.end_seconds is None else clip.end_seconds
        first, last = _frames_of(clip, source.samples)
        if first >= last and source.report.status != "ok":
            return LeftOut(clip.row, clip.video, _lost(start, end, source.report))
        self._check_times(clip, start, end, source.duration_seconds)
        features = source.samples.features[first:last].astype(np.float32)
        if not len(features):
            raise SourceError(
                f"row {clip.row}: no frame is sampled between {start:g} and {end:g} seconds of "
                f"{printable(clip.video)}: sample more frames (--sample-fps)"
            )
        if not np.isfinite(features).all():
            raise SourceError(
                f"row {clip.row}: features of {printable(clip.video)} are no numbers: the weights "
                "of the backbone are damaged, or its precision is too low"
            )
        return Example(
            name=_name(clip),
            video_id=source.video.video_id,
            group=clip.group,
            label=self.labelled.labels.index(clip.label),
            features=features,
            mask=self._counts(first, len(features)),
            start_seconds=start,
            end_seconds=end,
            sample_index=source.numbers[first:last],
        )

    def _check_times(self, clip: LabelledClip, start: float, end: float, duration: float) -> None:
        spare = 1 / self.sampling.fps if self.sampling.fps else 0.1
        if (start > 0 and start >= duration) or end > duration + spare:
            raise SourceError(
                f"row {clip.row}: {start:g} to {end:g} seconds are outside of "
                f"{printable(clip.video)}, which is {duration:g} seconds long"
            )

    def _counts(self, first: int, length: int) -> NDArray[np.bool_]:
        """Tell which frames count: the first of a video was encoded without the one before."""
        counts = np.ones(length, np.bool_)
        counts[0] = not (self.context and first == 0 and length > 1)
        return counts


def _frames_of(clip: LabelledClip, samples: Samples) -> tuple[int, int]:
    """Give the numbers of the first sampled frame of a clip and of the one after its last."""
    start = (clip.start_seconds or 0.0) - EPSILON_SECONDS
    first = int(np.searchsorted(samples.seconds, start))
    if clip.end_seconds is None:  # a last frame may be sampled at the very end
        return first, len(samples.seconds)
    return first, int(np.searchsorted(samples.seconds, clip.end_seconds - EPSILON_SECONDS))


def _lost(start: float, end: float, report: DecodeReport) -> str:
    why = f": {report.error}" * bool(report.error)
    return f"{report.status}: no frame between {start:g} and {end:g} seconds was decoded{why}"


def _name(clip: LabelledClip) -> str:
    if clip.end_seconds is None:
        return printable(clip.video)
    return f"{printable(clip.video)} [{clip.start_seconds:g}, {clip.end_seconds:g})"
