"""Gather what is learned from: features of labelled videos, clips cut from them, and pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.config import ClipWindows, Sampling
from pipeline.encode.backbone import LOCAL_DIR, local_folder
from pipeline.errors import SourceError
from pipeline.recognition.recognizer import BackboneSpec
from pipeline.records import Video
from pipeline.run.process import run
from pipeline.run.session import Session
from pipeline.sources.discovery import find_videos
from pipeline.temporal.batching import Example, Examples
from pipeline.training.annotations import Labelled, LabelledClip, name_rows
from pipeline.training.clip_dataset import ClipCutter, LeftOut
from pipeline.training.finetune.frame_cache import PictureCache, keep_pictures

Encode = Callable[[Session, Sequence[Video]], Sequence[Exception]]


@dataclass(frozen=True)
class Gathered:
    """Examples, and what their features are of."""

    examples: Examples
    splits: tuple[str | None, ...]
    """What the labels say of each example: `train`, `validation`, `test`, or nothing."""
    backbone: BackboneSpec
    licence: str | None
    """Of the weights of the backbone."""
    sampling: Sampling
    windows: ClipWindows
    """As long as the labelled clips; whole videos where no row has times."""
    left_out: tuple[LeftOut, ...]
    pictures: PictureCache | None = None
    """Of the examples, where the backbone is to be fine-tuned."""

    def of(self, *splits: str | None) -> list[Example]:
        """Give the examples of some splits."""
        pairs = zip(self.examples.items, self.splits, strict=True)
        return [example for example, split in pairs if split in splits]


def find_labelled(labelled: Labelled, image_fps: float | None = None) -> list[Video]:
    """
    Find the labelled videos, once each.

    Raises:
        SourceError: one video lies under several names in different groups, or with two labels.
    """
    videos = find_videos(sorted({clip.video for clip in labelled.clips}), image_fps=image_fps)
    for video, clips in _clips_by_video(labelled, videos):
        if video.copies:
            _require_agreement(clips)
    return videos


def _require_agreement(clips: Sequence[LabelledClip]) -> None:
    """Require that copies of one video do not say different things of the same part of it."""
    same = defaultdict(list)
    for clip in clips:
        same[clip.start_seconds, clip.end_seconds].append(clip)
    for alike in same.values():
        labels = sorted({clip.label for clip in alike})
        if len(labels) > 1:
            raise SourceError(
                f"{name_rows(alike)} are copies of one video with different labels: "
                f"{', '.join(labels)}"
            )
    groups = {clip.group for clip in clips if clip.group != clip.video}
    splits = {clip.split for clip in clips}
    if len(groups) > 1 or len(splits) > 1:
        raise SourceError(
            f"{name_rows(clips)} are copies of one video in different groups or splits: what is "
            "learned from one would be tested on the other"
        )


def gather_examples(
    labelled: Labelled,
    session: Session,
    *,
    encode: Encode = run,
    videos: Sequence[Video] | None = None,
) -> Gathered:
    """
    Encode the labelled videos where that was not done before, and cut the clips.

    Args:
        labelled: what to gather.
        pipeline: opened without a recognizer.
        encode: fills the feature store with videos; by default in threads of this process.
        videos: what `find_labelled` gave.

    Raises:
        SourceError: times outside of a video, features that are no numbers, or a label of which
            nothing is left; says which rows.
    """
    videos = find_labelled(labelled, session.options.image_fps) if videos is None else videos
    failures = encode(session, videos)
    if failures:
        raise failures[0]
    backbone = session.engine.backbone
    cutter = ClipCutter(labelled, session.store, session.sampling, backbone.previous_frames)
    cut: list[tuple[LabelledClip, Example]] = []
    left_out: list[LeftOut] = []
    for video, said in _clips_by_video(labelled, videos):
        clips = _of_one_video(video, said) if video.copies else said
        problem = cutter.problem(video)
        if problem:
            left_out += [LeftOut(clip.row, clip.video, problem) for clip in clips]
            continue
        for clip, found in zip(clips, cutter.cut(video, clips), strict=True):
            if isinstance(found, LeftOut):
                left_out.append(found)
            else:
                cut.append((clip, found))
    _require_labels(labelled, cut, left_out)
    cut.sort(key=lambda pair: pair[0].row)
    return Gathered(
        examples=Examples(tuple(example for _, example in cut), labelled.labels),
        splits=tuple(clip.split for clip, _ in cut),
        backbone=spec_of(session),
        licence=backbone.licence,
        sampling=session.sampling,
        windows=windows_for(labelled),
        left_out=tuple(sorted(left_out, key=lambda left: left.row)),
    )


def with_pictures(gathered: Gathered, session: Session, videos: Sequence[Video]) -> Gathered:
    """
    Decode the pictures that are to be learned from, where that was not done before.

    Args:
        gathered: from the same pipeline.
        pipeline: its decode processes are used.
        videos: those of the examples, and maybe others.
    """
    wanted = {example.video_id for example in gathered.of("train", "validation", None)}
    found = [video for video in videos if video.video_id in wanted]
    return replace(gathered, pictures=keep_pictures(session, found))


def _clips_by_video(
    labelled: Labelled, videos: Sequence[Video]
) -> Iterator[tuple[Video, list[LabelledClip]]]:
    by_place: dict[str, list[LabelledClip]] = defaultdict(list)
    for clip in labelled.clips:
        by_place[clip.video].append(clip)
    for video in videos:
        places = [video.location, *(location for _, location in video.copies)]
        yield video, [clip for place in places for clip in by_place[place]]


def _of_one_video(video: Video, clips: Sequence[LabelledClip]) -> list[LabelledClip]:
    """
    Make the clips of copies those of the first of them, each part once.

    They agree, as `_require_agreement` has it; their group is the one that is named, if any is.
    """
    named = [clip.group for clip in clips if clip.group != clip.video]
    group = named[0] if named else video.location
    parts: dict[tuple[float | None, float | None], LabelledClip] = {}
    for clip in sorted(clips, key=lambda clip: clip.row):
        same = replace(clip, video=video.location, group=group)
        parts.setdefault((clip.start_seconds, clip.end_seconds), same)
    return list(parts.values())


def _require_labels(
    labelled: Labelled, cut: Sequence[tuple[LabelledClip, Example]], left_out: Sequence[LeftOut]
) -> None:
    """Require that something is left of each label."""
    lost = sorted(set(labelled.labels) - {clip.label for clip, _ in cut})
    if lost:
        raise SourceError(
            f"nothing is left of the labels {', '.join(lost)}, as none of their videos can be "
            f"used; the first: {left_out[0].video} (row {left_out[0].row}): {left_out[0].reason}"
        )


def windows_for(labelled: Labelled) -> ClipWindows:
    """Give clips as long as the labelled ones, each beginning in the middle of the one before."""
    lengths = [
        clip.end_seconds - (clip.start_seconds or 0.0)
        for clip in labelled.clips
        if clip.end_seconds is not None
    ]
    if not lengths:
        return ClipWindows()
    typical = round(float(np.median(lengths)), 3)
    return ClipWindows(typical, typical / 2)


def spec_of(session: Session) -> BackboneSpec:
    """Describe the backbone of a pipeline so that `run` finds it from any working directory."""
    backbone, options = session.engine.backbone, session.options
    name = backbone.name
    folder = local_folder(name)
    if folder is not None:
        name = f"{LOCAL_DIR}:{folder.resolve()}"
    return BackboneSpec(
        name=name,
        weights_hash=backbone.weights_hash,
        feature_size=backbone.feature_size,
        tap=options.tap,
        grid=options.grid,
        context=backbone.previous_frames,
        precision=session.engine.precision,
    )
