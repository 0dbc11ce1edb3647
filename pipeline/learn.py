"""
From labelled clips to a recognizer: features once, examples cut from them, training, the bundle.

    options = LearningOptions(RunOptions(recognizer=None, backbone="resnet18", ...))
    labelled = read_labels(Path("labels.csv"))
    with open_pipeline(out, options.run) as pipeline:
        gathered = gather_examples(labelled, pipeline)
    learn(gathered, Path("my-recognizer"), options)
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.clips import ClipCutter, LeftOut
from pipeline.config import (
    ClipWindows,
    RunOptions,
    Sampling,
    TemporalOptions,
    TrainingOptions,
)
from pipeline.encode.backbone import require_same
from pipeline.encode.own import describe_network, own_weights
from pipeline.errors import OptionError, SourceError
from pipeline.files import exclusive, write_json
from pipeline.labels import Labelled, LabelledClip, name_rows
from pipeline.plots import plot_learning
from pipeline.process import run
from pipeline.records import Video
from pipeline.sources import find_videos
from pipeline.stages import Pipeline
from pipeline.temporal.examples import Example, Examples, fingerprint_of
from pipeline.temporal.recognizer import BackboneSpec, Recognizer, save_recognizer
from pipeline.temporal.schedule import hold_back
from pipeline.temporal.training import Epoch, Fitted, OnEpoch, fit
from pipeline.tuning.finetune import Outcome, fine_tune, load_tunable
from pipeline.tuning.lesson import TuningLesson
from pipeline.tuning.options import TuningOptions
from pipeline.tuning.pictures import PictureCache, keep_pictures

LOCAL = "local-dir:"
CHECKPOINT = "checkpoint.safetensors"
TUNING_CHECKPOINT = "checkpoint-tuning.safetensors"
CHECKPOINTS = "checkpoint*.safetensors"
METRICS = "metrics.json"
CURVES = "learning.png"
TUNING_CURVES = "fine-tuning.png"
SIDES = frozenset(
    {
        *("left", "right", "l", "r", "east", "west"),
        *("clockwise", "counterclockwise", "anticlockwise", "cw", "ccw"),
    }
)
"""Words in labels that a mirror makes false."""
MEASURED = TemporalOptions(
    cell="gru",
    size=64,
    differences=True,
    rectified=True,
    signed_root=True,
    dropout=0.3,
    layer_norm=False,
)
"""The architecture that did best in cross-validation on real clips; layer norms, which bring each
frame to one size, take away how much moves in it."""
Encode = Callable[[Pipeline, Sequence[Video]], Sequence[Exception]]


@dataclass(frozen=True, slots=True)
class LearningOptions:
    """Everything about a training but its labels and where the recognizer goes. All is JSON."""

    run: RunOptions
    """How frames are decoded and encoded; without a recognizer."""
    temporal: TemporalOptions = MEASURED
    training: TrainingOptions = field(default_factory=TrainingOptions)
    mirror: bool | None = None
    """Whether clips are also learned mirrored; None decides by the labels."""
    tuning: TuningOptions = field(default_factory=TuningOptions)
    """How the backbone is trained as well, in the end."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> LearningOptions:
        """
        Read what `to_json` wrote.

        Raises:
            OptionError: unknown names or values.
        """
        try:
            return cls(
                RunOptions.from_json(values["run"]),
                TemporalOptions(**values.get("temporal", {})),
                TrainingOptions(**values.get("training", {})),
                values.get("mirror"),
                TuningOptions(**values.get("tuning", {})),
            )
        except (KeyError, TypeError) as error:
            raise OptionError(f"options are not understood: {error}") from error


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
    pipeline: Pipeline,
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
    videos = find_labelled(labelled, pipeline.options.image_fps) if videos is None else videos
    failures = encode(pipeline, videos)
    if failures:
        raise failures[0]
    backbone = pipeline.engine.backbone
    cutter = ClipCutter(labelled, pipeline.store, pipeline.sampling, backbone.context)
    cut: list[tuple[LabelledClip, Example]] = []
    left_out: list[LeftOut] = []
    for video, clips in _clips_by_video(labelled, videos):
        problem = cutter.problem(video)
        if problem:
            left_out += [LeftOut(clip.row, clip.video, problem) for clip in clips]
        else:
            cut += zip(clips, cutter.cut(video, clips), strict=True)
    _require_labels(labelled, cut, left_out)
    cut.sort(key=lambda pair: pair[0].row)
    return Gathered(
        examples=Examples(tuple(example for _, example in cut), labelled.labels),
        splits=tuple(clip.split for clip, _ in cut),
        backbone=spec_of(pipeline),
        licence=backbone.licence,
        sampling=pipeline.sampling,
        windows=windows_for(labelled),
        left_out=tuple(sorted(left_out, key=lambda left: left.row)),
    )


def with_pictures(gathered: Gathered, pipeline: Pipeline, videos: Sequence[Video]) -> Gathered:
    """
    Decode the pictures that are to be learned from, where that was not done before.

    Args:
        gathered: from the same pipeline.
        pipeline: its decode processes are used.
        videos: those of the examples, and maybe others.
    """
    wanted = {example.video_id for example in gathered.of("train", "validation", None)}
    found = [video for video in videos if video.video_id in wanted]
    return replace(gathered, pictures=keep_pictures(pipeline, found))


def _clips_by_video(
    labelled: Labelled, videos: Sequence[Video]
) -> Iterator[tuple[Video, list[LabelledClip]]]:
    by_place: dict[str, list[LabelledClip]] = defaultdict(list)
    for clip in labelled.clips:
        by_place[clip.video].append(clip)
    for video in videos:
        places = [video.location, *(location for _, location in video.copies)]
        yield video, [clip for place in places for clip in by_place[place]]


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


def spec_of(pipeline: Pipeline) -> BackboneSpec:
    """Describe the backbone of a pipeline so that `run` finds it from any working directory."""
    backbone, options = pipeline.engine.backbone, pipeline.options
    name = backbone.name
    if name.startswith(LOCAL):
        name = LOCAL + str(Path(name.removeprefix(LOCAL)).expanduser().resolve())
    return BackboneSpec(
        name=name,
        weights_hash=backbone.weights_hash,
        feature_size=backbone.feature_size,
        tap=options.tap,
        grid=options.grid,
        context=backbone.context,
        precision=pipeline.engine.precision,
    )


def learn(
    gathered: Gathered,
    out: Path,
    options: LearningOptions,
    *,
    on_epoch: OnEpoch | None = None,
    on_tuning: OnEpoch | None = None,
) -> dict[str, Any]:
    """
    Train a recognizer and save it: with `recognizer.json`, the folder is one.

    Examples of the split `validation` are held back to stop early and to calibrate, or where there
    is no such split, a share of the groups; those of the split `test` are not looked at.

    Args:
        gathered: examples.
        out: folder of the recognizer; an interrupted training in it is gone on with.
        options: of the training.
        on_epoch: told of each epoch.
        on_tuning: told of each epoch of fine-tuning the backbone, where that is wanted; it needs
            what `with_pictures` adds.

    Returns:
        What `metrics.json` says.
    """
    options = replace(options, training=with_mirror(gathered, options))
    learned, held_back = split(gathered, options.training)
    with exclusive(out / ".lock", f"recognizer {out}"):
        fitted = fit(
            learned,
            len(gathered.examples.labels),
            options.temporal,
            options.training,
            validation=held_back,
            on_epoch=on_epoch,
            checkpoint=out / CHECKPOINT,
        )
        metrics = describe(gathered, fitted, (learned, held_back), options.training)
        _draw(fitted.history, fitted.best.number, out / CURVES)
        tuned = None
        if options.tuning.blocks:
            lesson = _tuning_lesson(gathered, fitted, (learned, held_back), options)
            path = out / TUNING_CHECKPOINT
            tuned = fine_tune(lesson, fitted, on_epoch=on_tuning, checkpoint=path)
            metrics["fine_tuning"] = tuned.metrics
            _draw(tuned.history, tuned.metrics["best_epoch"], out / TUNING_CURVES)
        notes = _notes(gathered, metrics, fingerprint_of(learned, held_back), options)
        recognizer = as_recognizer(out.resolve().name, gathered, fitted, notes)
        _save(recognizer, tuned, out)
        write_json(metrics, out / METRICS)
        for path in out.glob(CHECKPOINTS):
            path.unlink()
    return metrics


def with_mirror(gathered: Gathered, options: LearningOptions) -> TrainingOptions:
    """
    Tell training about the grid to mirror, where clips are to be mirrored at all.

    Raises:
        OptionError: they are to be, but features do not say where in the picture they are of.
    """
    grid = gathered.backbone.grid or 1
    if options.mirror and grid == 1:
        raise OptionError("features without a grid cannot be mirrored: add --grid, or --no-mirror")
    wanted = may_mirror(gathered, options)
    return replace(options.training, mirror_grid=grid if wanted and grid > 1 else 0)


def may_mirror(gathered: Gathered, options: LearningOptions) -> bool:
    """Tell whether clips may be mirrored: as a person says, or by their labels."""
    return stays_true(gathered.examples.labels) if options.mirror is None else options.mirror


def stays_true(labels: Sequence[str]) -> bool:
    """Tell whether labels stay true in a mirror, as far as their words say."""
    words = {word for label in labels for word in re.split(r"[\W_\d]+", label.lower())}
    return not words & SIDES


def split(gathered: Gathered, options: TrainingOptions) -> tuple[list[Example], list[Example]]:
    """
    Give the examples to learn from, and those held back.

    Raises:
        SourceError: a label has no example to learn from.
    """
    held_back = gathered.of("validation")
    learned = gathered.of("train", None)
    if not held_back:
        learned, held_back = hold_back(learned, options.validation, options.seed)
    names = gathered.examples.labels
    missing = set(range(len(names))) - {example.label for example in learned}
    if missing:
        said = ", ".join(names[number] for number in sorted(missing))
        raise SourceError(f"no clip of the split `train` has the label {said}")
    return learned, held_back


def describe(
    gathered: Gathered,
    fitted: Fitted,
    parts: tuple[Sequence[Example], Sequence[Example]],
    options: TrainingOptions,
) -> dict[str, Any]:
    """Give what `metrics.json` says of what was learned and held back, and how it went."""
    learned, held_back = parts
    labels = gathered.examples.labels
    best = fitted.best
    return {
        "epochs": len(fitted.history),
        "best_epoch": best.number,
        "validation": {
            "clips": len(held_back),
            "accuracy": best.validation_accuracy,
            "loss": best.validation_loss,
            "learned_afterwards": bool(held_back) and options.refit,
        },
        "mirrored": options.mirror_grid > 0,
        "temperature": fitted.temperature,
        "learned_from": {
            "clips": len(learned),
            "frames": sum(int(example.counts.sum()) for example in learned),
            "groups": len({example.group for example in learned}),
            "labels": dict(Counter(labels[example.label] for example in learned)),
        },
        "left_out": [dataclasses.asdict(left) for left in gathered.left_out],
        "history": [dataclasses.asdict(epoch) for epoch in fitted.history],
    }


def _notes(
    gathered: Gathered, metrics: dict[str, Any], data: str, options: LearningOptions
) -> dict[str, Any]:
    """Give what a person may want to know of a recognizer."""
    return {
        "licence": f"weights of the backbone: {gathered.licence or 'unknown'}; those of the "
        "temporal model belong to whoever trained it, within the licence of the videos",
        "training_data": data,
        "training": dataclasses.asdict(options.training),
        "tuning": dataclasses.asdict(options.tuning),
        "metrics": _without_history(metrics),
    }


def _without_history(metrics: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in metrics.items() if name != "history"}
    if "fine_tuning" in kept:
        kept["fine_tuning"] = _without_history(kept["fine_tuning"])
    return kept


def _tuning_lesson(
    gathered: Gathered,
    fitted: Fitted,
    parts: tuple[Sequence[Example], Sequence[Example]],
    options: LearningOptions,
) -> TuningLesson:
    """Begin with the backbone as it is, and with a model that has not seen what is held back."""
    if gathered.pictures is None:
        raise ValueError("fine-tuning needs pictures: call with_pictures first")
    backbone = load_tunable(options.run, options.tuning.blocks)
    require_same(gathered.backbone.weights_hash, backbone.weights_hash, backbone.name)
    return TuningLesson(
        *parts,
        backbone=backbone,
        model=fitted.apart or fitted.model,
        cache=gathered.pictures,
        tuning=options.tuning,
        training=options.training,
        mirror=may_mirror(gathered, options),
    )


def _save(recognizer: Recognizer, tuned: Outcome | None, out: Path) -> None:
    """Save a recognizer, with a backbone of its own where it was fine-tuned to any use."""
    if tuned is None or tuned.backbone is None:
        save_recognizer(recognizer, out)
        return
    spec = replace(recognizer.backbone, weights_hash=tuned.backbone.weights_hash)
    own = replace(
        recognizer,
        backbone=spec,
        model=tuned.fitted.model,
        temperature=tuned.fitted.temperature,
        network=describe_network(tuned.backbone),
    )
    save_recognizer(own, out, own_weights(tuned.backbone))


def _draw(history: Sequence[Epoch], best: int, path: Path) -> None:
    plot_learning(
        [
            ("loss", [e.loss for e in history], [e.validation_loss for e in history]),
            ("accuracy", [e.accuracy for e in history], [e.validation_accuracy for e in history]),
            ("share of steps with clipped gradient", [e.clipped for e in history], []),
        ],
        best,
        path,
    )


def as_recognizer(
    name: str, gathered: Gathered, fitted: Fitted, notes: dict[str, Any]
) -> Recognizer:
    """Make a trained model a recognizer that can be saved and run."""
    return Recognizer(
        name=name,
        labels=gathered.examples.labels,
        sampling=gathered.sampling,
        clips=gathered.windows,
        backbone=gathered.backbone,
        temporal=fitted.model.options,
        model=fitted.model,
        temperature=fitted.temperature,
        notes=notes,
    )
