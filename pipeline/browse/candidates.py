"""
Clips that can be labelled, each with one vector that describes its content and its motion.

The vector is a random projection of the mean of the features, and of the means of their positive
and negative differences in time, each after a signed square root, as in the linear baselines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.browse.media import ClipPart
from pipeline.config import ClipWindows, Sampling
from pipeline.encode.feature_store import FeatureStore
from pipeline.errors import SourceError
from pipeline.recognition.recognize import sample_times
from pipeline.recognition.windows import Samples, ShotSplitter, WindowCutter
from pipeline.records import Video, merge_reports
from pipeline.results.tables import load, open_features, read_run

VECTOR_SIZE = 512
MAX_CLIPS_PER_VIDEO = 200
"""Candidates of a long video, at equal distances."""


@dataclass(frozen=True)
class Candidates:
    """Clips, their videos, and their vectors."""

    videos: Sequence[Video]
    clips: Sequence[ClipPart]
    vectors: NDArray[np.float32]
    """Standardized, (n, F)."""
    margins: NDArray[np.float32] | None = None
    """Difference of the two highest scores of a recognizer, (n,)."""
    durations: Sequence[float] = field(default_factory=list)
    """Of each video, in seconds."""

    @property
    def num_clips(self) -> int:
        """Number of clips."""
        return len(self.clips)

    @property
    def num_videos(self) -> int:
        """Number of videos."""
        return len(self.videos)

    def clip(self, row: int) -> ClipPart:
        """Return a clip."""
        return self.clips[row]

    def video(self, row: int) -> Video:
        """Return the source of a video."""
        return self.videos[row]


def candidates_of_videos(
    videos: Sequence[Video], store: FeatureStore, sampling: Sampling, windows: ClipWindows
) -> Candidates:
    """
    Cut videos into clips, and describe them by their stored features.

    Args:
        videos: those that were not decoded completely are left out.
        store: the features.
        sampling: of the features.
        windows: how clips are cut; without a length each video is one clip.

    Raises:
        SourceError: no video was decoded completely.
    """
    kept: list[Video] = []
    durations: list[float] = []
    clips: list[ClipPart] = []
    vectors: list[NDArray[np.float32]] = []
    for video in videos:
        found = _read(video, store, sampling)
        if found is None:
            continue
        samples, duration = found
        for start, end, features in _cut(samples, duration, windows):
            clips.append(ClipPart(len(kept), start, end))
            vectors.append(describe(features))
        kept.append(video)
        durations.append(duration)
    if not clips:
        raise SourceError("no video was decoded completely, so there is nothing to label")
    return Candidates(kept, clips, standardize(np.stack(vectors)), durations=durations)


def candidates_of_results(out: Path) -> Candidates:
    """
    Read the clips of a results folder, with the margins of their scores.

    Raises:
        SourceError: it has no clips of completely decoded videos, or no features.
    """
    configuration = read_run(out)["configuration"]
    sampling = Sampling(**configuration["sampling"])
    columns = ["video", "video_id", "path", "status", "copy_of", "duration_seconds", "frame_rate"]
    table = load(out, "videos", columns=columns)
    table = table[(table.status == "ok") & table.copy_of.isna()]
    store = open_features(out)
    names = ["video", "video_id", "start_seconds", "end_seconds", "scores"]
    rows = {key: part for key, part in load(out, columns=names).groupby(["video", "video_id"])}
    videos: list[Video] = []
    durations: list[float] = []
    clips: list[ClipPart] = []
    vectors: list[NDArray[np.float32]] = []
    margins: list[float] = []
    for source in table.itertuples():
        part = rows.get((source.video, source.video_id))
        video = _video(source)
        found = _read(video, store, sampling) if part is not None else None
        if part is None or found is None:
            continue
        samples, duration = found
        for clip in part.itertuples():
            inside = (samples.seconds >= clip.start_seconds) & (samples.seconds < clip.end_seconds)
            clips.append(ClipPart(len(videos), clip.start_seconds, clip.end_seconds))
            vectors.append(describe(samples.features[inside].astype(np.float32)))
            best = np.sort(np.append(np.asarray(clip.scores, np.float32), 0.0))
            margins.append(float(best[-1] - best[-2]))
        videos.append(video)
        durations.append(duration)
    if not clips:
        raise SourceError(
            f"{out} has no clips of completely decoded videos with stored features: name the "
            "videos, and a --backbone"
        )
    spread = standardize(np.stack(vectors))
    return Candidates(videos, clips, spread, np.array(margins, np.float32), durations)


def _video(row: object) -> Video:
    path = str(getattr(row, "path"))  # noqa: B009 (a row of pandas has no type)
    video_id = str(getattr(row, "video_id"))  # noqa: B009
    if Path(path).is_dir():
        return Video(path, path, "images", video_id, 0, image_fps=getattr(row, "frame_rate", None))
    return Video(path, path, "file", video_id, 0)


def _read(video: Video, store: FeatureStore, sampling: Sampling) -> tuple[Samples, float] | None:
    """Read the features of a video, and its duration; None if it was not decoded completely."""
    if not store.has(video.video_id):
        return None
    report = merge_reports(store.reports(video.video_id))
    if report.status != "ok" or not report.frames_sampled:
        return None
    parts = list(store.stream(video.video_id))
    samples = Samples(
        np.concatenate([sample_times(part, sampling) for part in parts]),
        np.concatenate([part.values for part in parts]),
    )
    return samples, report.duration_seconds or float(samples.seconds[-1])


def _cut(
    samples: Samples, duration: float, windows: ClipWindows
) -> Iterator[tuple[float, float, NDArray[np.float32]]]:
    """Yield start, end and features (L, D) of each clip."""
    if not windows.seconds:
        yield 0.0, duration, samples.features.astype(np.float32)
        return
    splitter, cutter = ShotSplitter(), WindowCutter(windows)
    no_cuts = np.zeros(len(samples), np.bool_)
    chunks = [*splitter.feed(samples, no_cuts), *splitter.finish(duration)]
    found = [window for chunk in chunks for window in cutter.feed(chunk)]
    for window in found[:: -(-len(found) // MAX_CLIPS_PER_VIDEO)]:
        features = window.samples.features.astype(np.float32)
        yield window.start_seconds, window.end_seconds, features


def describe(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Describe the features of a clip, (L, D), by one vector, (F,)."""
    differences = np.diff(features, axis=0)
    count = max(len(differences), 1)
    parts = [
        features.sum(0) / max(len(features), 1),
        np.maximum(differences, 0).sum(0) / count,
        np.maximum(-differences, 0).sum(0) / count,
    ]
    vector = np.concatenate([np.sign(part) * np.sqrt(np.abs(part)) for part in parts])
    return project(vector.astype(np.float32))


def project(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Project a vector to at most `VECTOR_SIZE` numbers, by sums with random signs."""
    if len(vector) <= VECTOR_SIZE:
        return vector
    rng = np.random.default_rng(0)  # the same projection for all clips
    target = rng.integers(VECTOR_SIZE, size=len(vector))
    sign = rng.choice(np.array([-1.0, 1.0], np.float32), size=len(vector))
    return np.bincount(target, weights=vector * sign, minlength=VECTOR_SIZE).astype(np.float32)


def standardize(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shift and scale each column to mean 0 and standard deviation 1; constant ones become 0."""
    deviation = vectors.std(0)
    scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0)
    standardized: NDArray[np.float32] = ((vectors - vectors.mean(0)) * scale).astype(np.float32)
    return standardized
