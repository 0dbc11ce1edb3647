"""
From gathered examples to a recognizer: training, fine-tuning where that is wanted, the bundle.

    options = LearningOptions(RunOptions(recognizer=None, backbone="resnet18", ...))
    labelled = read_labels(Path("labels.csv"))
    with open_session(out, options.run) as pipeline:
        gathered = gather_examples(labelled, pipeline)
    learn(gathered, Path("my-recognizer"), options)
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.encode.backbone import require_same_weights
from pipeline.encode.custom_backbone import copy_weights, describe_network
from pipeline.errors import OptionError, SourceError
from pipeline.recognition.recognizer import Recognizer, save_recognizer
from pipeline.results.plots import plot_training
from pipeline.storage import file_lock, write_json
from pipeline.temporal.batching import Example, hash_examples
from pipeline.temporal.options import TrainingOptions
from pipeline.temporal.schedule import train_validation_split
from pipeline.temporal.trainer import TrainingResult, fit
from pipeline.temporal.training_loop import Epoch, OnEpoch
from pipeline.training.build_dataset import Gathered
from pipeline.training.finetune.finetune import Outcome, fine_tune, load_tunable
from pipeline.training.finetune.lesson import TuningLesson
from pipeline.training.options import LearningOptions

CHECKPOINT = "checkpoint.safetensors"
TUNING_CHECKPOINT = "checkpoint-tuning.safetensors"
CHECKPOINTS = "checkpoint*.safetensors"
METRICS = "metrics.json"
CURVES = "learning.png"
TUNING_CURVES = "fine-tuning.png"
SIDES = frozenset(
    {
        *("left", "leftward", "leftwards", "lefthand", "l", "west"),
        *("right", "rightward", "rightwards", "righthand", "r", "east"),
        *("clockwise", "counterclockwise", "anticlockwise", "cw", "ccw"),
    }
)
"""Words in labels that a mirror makes false."""
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+")
"""In camel case as well: TurnLeft is two, and so is moveL."""


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
    with file_lock(out / ".lock", f"recognizer {out}"):
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
        notes = _notes(gathered, metrics, (learned, held_back), options)
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
    words = {word.lower() for label in labels for word in WORD.findall(label)}
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
        learned, held_back = train_validation_split(learned, options.validation, options.seed)
    names = gathered.examples.labels
    missing = set(range(len(names))) - {example.label for example in learned}
    if missing:
        said = ", ".join(names[number] for number in sorted(missing))
        raise SourceError(f"no clip of the split `train` has the label {said}")
    return learned, held_back


def describe(
    gathered: Gathered,
    fitted: TrainingResult,
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
            "frames": sum(int(example.mask.sum()) for example in learned),
            "groups": len({example.group for example in learned}),
            "labels": dict(Counter(labels[example.label] for example in learned)),
        },
        "left_out": [dataclasses.asdict(left) for left in gathered.left_out],
        "history": [dataclasses.asdict(epoch) for epoch in fitted.history],
    }


def _notes(
    gathered: Gathered,
    metrics: dict[str, Any],
    parts: tuple[Sequence[Example], Sequence[Example]],
    options: LearningOptions,
) -> dict[str, Any]:
    """Give what a person may want to know of a recognizer."""
    learned, held_back = parts
    return {
        "licence": f"weights of the backbone: {gathered.licence or 'unknown'}; those of the "
        "temporal model belong to whoever trained it, within the licence of the videos",
        "training_data": hash_examples(learned, held_back),
        "training_videos": sorted({example.video_id for example in (*learned, *held_back)}),
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
    fitted: TrainingResult,
    parts: tuple[Sequence[Example], Sequence[Example]],
    options: LearningOptions,
) -> TuningLesson:
    """Begin with the backbone as it is, and with a model that has not seen what is held back."""
    if gathered.pictures is None:
        raise ValueError("fine-tuning needs pictures: call with_pictures first")
    backbone = load_tunable(options.run, options.tuning.blocks)
    require_same_weights(gathered.backbone.weights_hash, backbone.weights_hash, backbone.name)
    return TuningLesson(
        *parts,
        backbone=backbone,
        model=fitted.validation_model or fitted.model,
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
    save_recognizer(own, out, copy_weights(tuned.backbone))


def _draw(history: Sequence[Epoch], best: int, path: Path) -> None:
    plot_training(
        [
            ("loss", [e.loss for e in history], [e.validation_loss for e in history]),
            ("accuracy", [e.accuracy for e in history], [e.validation_accuracy for e in history]),
            ("share of steps with clipped gradient", [e.clipped for e in history], []),
        ],
        best,
        path,
    )


def as_recognizer(
    name: str, gathered: Gathered, fitted: TrainingResult, notes: dict[str, Any]
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
