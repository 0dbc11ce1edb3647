"""Build a dataset of labelled clips: features, and decoded frames for fine-tuning."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.config import ClipWindows, Sampling
from pipeline.errors import SourceError
from pipeline.recognition.recognizer import BackboneSpec
from pipeline.records import Video
from pipeline.run.session import Session
from pipeline.sources.discovery import find_videos
from pipeline.sources.table_problems import Problems
from pipeline.storage import printable
from pipeline.temporal.batching import Example, Examples
from pipeline.training.annotations import Annotation, Annotations
from pipeline.training.clip_dataset import ClipDatasetBuilder, SkippedClip
from pipeline.training.feature_source import FeatureSource
from pipeline.training.finetune.frame_cache import FrameCache, cache_frames


@dataclass(frozen=True)
class LabelledDataset:
    """Examples, and how their features were made."""

    examples: Examples
    splits: tuple[str | None, ...]
    """Split of each example: `train`, `validation`, `test`, or None."""
    backbone: BackboneSpec
    licence: str | None
    """Of the weights of the backbone."""
    sampling: Sampling
    windows: ClipWindows
    """As long as the labelled clips; whole videos if no row has times."""
    skipped: tuple[SkippedClip, ...]
    frame_cache: FrameCache | None = None
    """Decoded frames of the examples, for fine-tuning."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels."""
        return self.examples.labels

    def of(self, *splits: str | None) -> list[Example]:
        """Give the examples of some splits."""
        pairs = zip(self.examples.items, self.splits, strict=True)
        return [example for example, split in pairs if split in splits]


def find_labelled_videos(annotations: Annotations, image_fps: float | None = None) -> list[Video]:
    """
    Find the labelled videos; copies of a video are found once.

    Raises:
        SourceError: copies of a video have different groups, splits or labels, or a row names a
            folder of several videos.
    """
    videos = find_videos(sorted({clip.video for clip in annotations.clips}), image_fps=image_fps)
    problems = Problems(annotations.path)
    if not annotations.path.is_dir():
        _require_found(annotations, videos, problems)
    for video, clips in _clips_by_video(annotations, videos):
        if video.copies:
            _check_agreement(clips, problems, from_table=not annotations.path.is_dir())
    problems.raise_if_any()
    return videos


def _require_found(annotations: Annotations, videos: Sequence[Video], problems: Problems) -> None:
    """Require that each labelled path is a video: it may be a folder of several."""
    found = {video.location for video in videos}
    found |= {location for video in videos for _, location in video.copies}
    for clip in annotations.clips:
        if clip.video not in found:
            inside = sorted(place for place in found if os.path.dirname(place) == clip.video)
            named = f", such as {printable(inside[0])}" if inside else ""
            problems.add(
                f"{printable(clip.video)} holds several videos: name one of them{named}", [clip.row]
            )


def _check_agreement(clips: Sequence[Annotation], problems: Problems, *, from_table: bool) -> None:
    """Require that copies of one video have the same annotations."""
    parts = defaultdict(list)
    for clip in clips:
        parts[clip.start_seconds, clip.end_seconds].append(clip)
    for same in parts.values():
        if len({clip.label for clip in same}) > 1:
            problems.add(
                f"copies of one video have different labels: {_list_files(same, 'label')}",
                [clip.row for clip in same if from_table],
            )
    groups = {clip.group for clip in clips if clip.group != clip.video}
    splits = {clip.split for clip in clips}
    if len(groups) > 1 or len(splits) > 1:
        name = "split" if len(splits) > 1 else "group"
        problems.add(
            f"copies of one video are in different groups or splits, which would test on what was "
            f"trained on: {_list_files(clips, name)}",
            [clip.row for clip in clips if from_table],
        )


def _list_files(clips: Sequence[Annotation], name: str) -> str:
    """Name the files of clips, each with its label, group or split."""
    named = {(clip.video, getattr(clip, name)): None for clip in clips}
    return ", ".join(f"{printable(video)} ({value})" for video, value in named)


def build_dataset(
    annotations: Annotations, source: FeatureSource, videos: Sequence[Video]
) -> LabelledDataset:
    """
    Build the examples of labelled clips from the stored features of their videos.

    Args:
        annotations: labelled clips.
        source: of the features.
        videos: from `find_labelled_videos`.

    Raises:
        SourceError: times are outside of a video, features are not finite, or a label has no usable
            clip; the message names the rows.
    """
    builder = ClipDatasetBuilder(annotations, source)
    built, skipped = _build_examples(builder, videos)
    _require_labels(annotations, built, skipped)
    return LabelledDataset(
        examples=Examples(tuple(example for _, example in built), annotations.labels),
        splits=tuple(clip.split for clip, _ in built),
        backbone=source.backbone,
        licence=source.licence,
        sampling=source.sampling,
        windows=windows_for(annotations),
        skipped=tuple(skipped),
    )


def _build_examples(
    builder: ClipDatasetBuilder, videos: Sequence[Video]
) -> tuple[list[tuple[Annotation, Example]], list[SkippedClip]]:
    """Build the examples of all videos, and list the skipped clips, both in order of the rows."""
    built: list[tuple[Annotation, Example]] = []
    skipped: list[SkippedClip] = []
    for video, clips in _clips_by_video(builder.annotations, videos):
        if video.copies:
            clips = _merge_copies(video, clips)
        problem = builder.problem(video)
        if problem:
            skipped += [SkippedClip(clip.row, clip.video, problem) for clip in clips]
            continue
        for clip, result in zip(clips, builder.build(video, clips), strict=True):
            if isinstance(result, SkippedClip):
                skipped.append(result)
            else:
                built.append((clip, result))
    built.sort(key=lambda pair: pair[0].row)
    skipped.sort(key=lambda clip: clip.row)
    return built, skipped


def add_frame_cache(
    dataset: LabelledDataset, session: Session, videos: Sequence[Video]
) -> LabelledDataset:
    """
    Decode the frames for fine-tuning that are not cached yet.

    Args:
        dataset: made with the same session.
        session: its decode processes are used.
        videos: those of the dataset; others are ignored.
    """
    wanted = {example.video_id for example in dataset.of("train", "validation", None)}
    found = [video for video in videos if video.video_id in wanted]
    return replace(dataset, frame_cache=cache_frames(session, found))


def _clips_by_video(
    annotations: Annotations, videos: Sequence[Video]
) -> Iterator[tuple[Video, list[Annotation]]]:
    by_path: dict[str, list[Annotation]] = defaultdict(list)
    for clip in annotations.clips:
        by_path[clip.video].append(clip)
    for video in videos:
        paths = [video.location, *(location for _, location in video.copies)]
        yield video, [clip for path in paths for clip in by_path[path]]


def _merge_copies(video: Video, clips: Sequence[Annotation]) -> list[Annotation]:
    """
    Attribute the clips of all copies to the first copy, without duplicates.

    `_require_agreement` has checked that they agree. An explicit group takes precedence.
    """
    explicit = [clip.group for clip in clips if clip.group != clip.video]
    group = explicit[0] if explicit else video.location
    parts: dict[tuple[float | None, float | None], Annotation] = {}
    for clip in sorted(clips, key=lambda clip: clip.row):
        merged = replace(clip, video=video.location, group=group)
        parts.setdefault((clip.start_seconds, clip.end_seconds), merged)
    return list(parts.values())


def _require_labels(
    annotations: Annotations,
    built: Sequence[tuple[Annotation, Example]],
    skipped: Sequence[SkippedClip],
) -> None:
    """Require an example of each label."""
    missing = sorted(set(annotations.labels) - {clip.label for clip, _ in built})
    if missing:
        raise SourceError(
            f"no clip of the labels {', '.join(missing)} can be used; the first problem: "
            f"{skipped[0].video} (row {skipped[0].row}): {skipped[0].reason}"
        )


def windows_for(annotations: Annotations) -> ClipWindows:
    """Give clip windows for the labelled clips that have times."""
    return clip_windows(
        [
            clip.end_seconds - (clip.start_seconds or 0.0)
            for clip in annotations.clips
            if clip.end_seconds is not None
        ]
    )


def clip_windows(durations: Sequence[float]) -> ClipWindows:
    """Give clip windows of the median duration with an overlap of one half; whole shots if none."""
    if not durations:
        return ClipWindows()
    median = round(float(np.median(durations)), 3)
    return ClipWindows(median, median / 2)
