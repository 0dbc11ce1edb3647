"""The command `train`: train a recognizer on labelled clips."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from flows.cli.derive import Given, Option, OptionGroup, option_group, takes
from flows.cli.options import (
    CACHE,
    DECODING,
    ENCODING,
    EXTERNAL,
    LABELS,
    SAMPLING,
    TRAINING,
    TRAINING_PANEL,
    LabelsTable,
    Quiet,
    VideosFolder,
    default_store,
    run_options,
)
from pipeline.config import DEFAULT_SAMPLING, RunOptions, Sampling
from pipeline.errors import OptionError
from pipeline.temporal.options import TemporalOptions, TrainingOptions
from pipeline.training.finetune.options import TuningOptions
from pipeline.training.options import (
    DEFAULT_GRID,
    DEFAULT_MODEL,
    ExternalFeatures,
    LabelOptions,
    LearningOptions,
    default_options,
)

if TYPE_CHECKING:
    from pipeline.temporal.training_loop import Epoch

FEATURES = CACHE.only(
    *("backbone", "weights", "tap", "grid", "image_fps", "shots", "features", "full_hash")
).change(
    backbone={"default": "required, unless --features-from is given"},
    tap={"default": "the last module whose feature maps are a 16th of the frame; end: the end"},
    grid={"default": f"{DEFAULT_GRID}; 1 with --tap end"},
)


def with_frame_defaults(group: OptionGroup, part: int) -> OptionGroup:
    """
    Show all defaults of the options whose defaults differ in the task `frames`.

    Args:
        group: of the model or the training.
        part: 0 for the model, 1 for the training: position in `default_options`.
    """
    clips, videos, external = (
        asdict(default_options(frames=frames, external=elsewhere)[part])
        for frames, elsewhere in ((False, False), (True, False), (True, True))
    )
    changed = {}
    for name in group.options:
        more = f", with --features-from {external[name]}" * (external[name] != videos[name])
        if more or videos[name] != clips[name]:
            changed[name] = {"default": f"{clips[name]}; frames: {videos[name]}{more}"}
    return group.change(**changed)


SWITCH = Option(negative=True)
MODEL = option_group(
    TemporalOptions,
    Group("Model", sort_key=2),
    bidirectional=SWITCH,
    differences=SWITCH,
    rectified=SWITCH,
    signed_root=SWITCH,
    layer_norm=SWITCH,
)
MODEL_FIELDS = (
    *("cell", "layers", "size", "bidirectional", "pooling", "differences", "rectified"),
    *("signed_root", "layer_norm", "dropout", "refine"),
)
MODEL = replace(MODEL, defaults=asdict(DEFAULT_MODEL)).only(*MODEL_FIELDS)
MODEL = with_frame_defaults(MODEL, 0)
TRAINING_FIELDS = (
    *("epochs", "batch_size", "learning_rate", "weight_decay", "l1", "smoothing", "shortest_crop"),
    *("stretch", "drop_frames", "mix", "steps_per_second", "validation", "refit", "patience"),
    *("unroll", "seed"),
)
LEARNING = with_frame_defaults(TRAINING.only(*TRAINING_FIELDS), 1)
AUGMENTATION = option_group(
    LearningOptions,
    TRAINING_PANEL,
    mirror=Option(negative=True, default="unless a label names a side"),
).only("mirror", "compensation")
FINE_TUNING = option_group(
    TuningOptions,
    Group("Fine-tuning", sort_key=4),
    blocks=Option("--fine-tune"),
    epochs=Option("--fine-tune-epochs"),
    batch_size=Option("--fine-tune-batch"),
    learning_rate=Option("--fine-tune-rate"),
    frames=Option("--fine-tune-frames"),
).only("blocks", "epochs", "batch_size", "learning_rate", "frames")


@takes(
    LABELS,
    EXTERNAL,
    FEATURES,
    MODEL,
    LEARNING,
    AUGMENTATION,
    FINE_TUNING,
    SAMPLING,
    ENCODING.only("device", "precision"),
    DECODING,
)
def train(
    labels: LabelsTable,
    /,
    *,
    out: Annotated[Path, Parameter(alias="-o", help="Folder of the recognizer.")],
    videos: VideosFolder | None = None,
    quiet: Quiet = False,
    given: Given,
) -> None:
    """Train a recognizer on labelled clips or time lines, and save it for `run --recognizer`.

    Rows with times, several a video, are its time line: the label of each frame is learned.
    Frames are decoded and encoded once; with --fine-tune, decoded frames are stored beside the
    features (3 bytes per pixel). An interrupted training resumes after its last epoch.
    """
    from flows.cli.console import print_error
    from flows.signals import Interrupted, exit_now

    options = learning_options(given, _read_labels(labels, videos, given, quiet=quiet))
    try:
        metrics = _train(labels, videos, out, options, quiet=quiet)
    except Interrupted as interrupted:
        print_error("stopped; the same command resumes after the last epoch.")
        exit_now(interrupted.exit_code)
        return
    if not quiet:
        _print_metrics(metrics, out, external=options.external.features_from is not None)
    sys.stdout.flush()
    exit_now(0)


def _read_labels(labels: Path, videos: Path | None, given: Given, *, quiet: bool) -> LabelOptions:
    """
    Read the labels before anything slow starts, and decide the task.

    Raises:
        SourceError: labels are invalid.
        OptionError: options do not fit each other or the labels.
    """
    from flows.cli.dataset import Reading, read_labels
    from pipeline.training.label_counts import require_trainable
    from pipeline.training.time_lines import TimeLines

    chosen = LabelOptions(**given[LabelOptions])
    if given[TuningOptions].get("blocks"):
        if chosen.learns_frames:
            raise OptionError(
                "--fine-tune needs clips with one label: remove --task frames and --multi-label"
            )
        chosen = replace(chosen, task="clips")
    external = ExternalFeatures(**given[ExternalFeatures])
    found = read_labels(labels, videos, Reading(chosen, external), quiet=quiet)
    if isinstance(found, TimeLines):
        return replace(chosen, task="clips" if found.are_clips else "frames")
    require_trainable(found)
    return replace(chosen, task="clips")


def learning_options(given: Given, labels: LabelOptions) -> LearningOptions:
    """
    Build the options of a training run from values of the command line.

    Args:
        given: values of the command line.
        labels: with the task that was decided.

    Raises:
        OptionError: a value is invalid.
    """
    model = dict(given[TemporalOptions])
    if model.get("differences") is False:
        model["rectified"] = False
    external = ExternalFeatures(**given[ExternalFeatures])
    temporal, training = default_options(
        frames=labels.learns_frames, external=external.features_from is not None
    )
    run = _external_run(given, external) if external.features_from else feature_options(given)
    training = replace(training, **{**given[TrainingOptions], "device": run.encode.device})
    return LearningOptions(
        run,
        replace(temporal, **model),
        training,
        tuning=TuningOptions(**given[TuningOptions]),
        labels=labels,
        external=external,
        **given[LearningOptions],
    )


def feature_options(given: Given) -> RunOptions:
    """
    Return how videos are decoded and encoded for a training.

    Raises:
        OptionError: a value is invalid, or the backbone is missing.
    """
    if "backbone" not in given[RunOptions]:
        raise OptionError(
            "the backbone is missing: add --backbone NAME, or --features-from DIR to use features "
            "made elsewhere"
        )
    tap, grid = _layer(given[RunOptions])
    return run_options(
        {**given, RunOptions: {**given[RunOptions], "tap": tap, "grid": grid}},
        recognizer=None,
        sampling=DEFAULT_SAMPLING,
        features=default_store(),
        wait=True,
    )


def _external_run(given: Given, external: ExternalFeatures) -> RunOptions:
    """Return options that name features made elsewhere in place of a backbone."""
    from pipeline.recognition.recognizer import EXTERNAL_FEATURES

    unused = [name for name in ("backbone", "weights", "tap", "grid") if name in given[RunOptions]]
    if unused or given[TuningOptions]:
        names = [f"--{name}" for name in unused] or ["--fine-tune"]
        raise OptionError(f"{', '.join(names)} needs videos, not --features-from: remove one")
    if external.features_fps is None:
        raise OptionError("--features-from needs the rate of the features: add --features-fps")
    return run_options(
        {**given, RunOptions: {**given[RunOptions], "backbone": EXTERNAL_FEATURES}},
        recognizer=None,
        sampling=Sampling(fps=external.features_fps),
    )


def _layer(given: Any) -> tuple[str | None, int | None]:
    """Return tap and grid, with their defaults."""
    from pipeline.encode.backbone import middle_layer

    if given.get("tap") == "end":
        return None, given.get("grid")
    return given.get("tap") or middle_layer(given["backbone"]), given.get("grid", DEFAULT_GRID)


def _train(
    labels: Path, videos: Path | None, out: Path, options: LearningOptions, *, quiet: bool
) -> dict[str, Any]:
    from flows.server.launch import with_server

    given = str(labels), str(videos) if videos else None, str(out), options.to_json()

    def load() -> Callable[[bool], dict[str, Any]]:
        from flows import train as flow

        def work(has_api: bool) -> dict[str, Any]:
            with _progress(options, quiet=quiet):
                return flow.train(*given) if has_api else flow.train_without_api(*given)

        return work

    return with_server(load)


@contextlib.contextmanager
def _progress(options: LearningOptions, *, quiet: bool) -> Iterator[None]:
    """Show the progress of encoding, then of training, then of fine-tuning."""
    if quiet:
        yield
        return
    from flows.cli import console
    from flows.train import CALLBACKS, Callbacks

    with contextlib.ExitStack() as shown:
        callbacks = Callbacks(
            on_features=lambda progress: shown.enter_context(console.watch(progress, quiet=False)),
            on_epoch=_reporter(shown, "epochs", options.training.epochs),
            on_finetune_epoch=_reporter(shown, "epochs of fine-tuning", options.tuning.epochs),
        )
        token = CALLBACKS.set(callbacks)
        try:
            yield
        finally:
            CALLBACKS.reset(token)


def _reporter(shown: contextlib.ExitStack, what: str, total: int) -> Callable[[Epoch], None]:
    """Return a function that reports an epoch; its first call ends the progress shown before."""
    from flows.cli.console import count

    show: Callable[[int, str], None] | None = None

    def report(epoch: Epoch) -> None:
        nonlocal show
        if show is None:
            shown.close()
            show = shown.enter_context(count(what, total))
        show(epoch.number, _format_epoch(epoch))

    return report


def _format_epoch(epoch: Epoch) -> str:
    text = f"loss {epoch.loss:.3f}, accuracy {epoch.accuracy:.3f}"
    if epoch.validation_accuracy is not None:
        text += f"; validation {epoch.validation_loss:.3f}, {epoch.validation_accuracy:.3f}"
    return f"{text}; clipped gradients {epoch.clipped:.0%}"


def _print_metrics(metrics: dict[str, Any], out: Path, *, external: bool) -> None:
    from flows.cli.console import print_error, print_line

    for clip in metrics["left_out"]:
        print_error(f"skipped: row {clip['row']}, {clip['video']}: {clip['reason']}")
    for line in _format_training(metrics):
        print_line(line)
    if "fine_tuning" in metrics:
        print_line(_format_tuning(metrics["fine_tuning"]))
    if metrics["mirrored"]:
        print_line("clips were also flipped; use --no-mirror if labels depend on left and right")
    print_line(f"recognizer: {out}   curves: {out / 'learning.png'}")
    if not external:
        print_line(f"use it: clipline run VIDEOS -o OUT --recognizer {out}")


def _format_training(metrics: dict[str, Any]) -> list[str]:
    """Describe what was trained on, and the accuracy on the validation set."""
    training, validation = metrics["learned_from"], metrics["validation"]
    unit = "videos" if "videos" in training else "clips"
    labels = training.get("labels") or training["frames_of_labels"]
    lines = [
        f"trained on {training[unit]} {unit} of {training['groups']} groups with "
        f"{len(labels)} labels for {metrics['epochs']} epochs"
    ]
    if unit == "videos":
        counted = ", ".join(f"{label} {count}" for label, count in labels.items())
        lines.append(f"frames of labels: {counted}")
    if validation[unit]:
        refit = f"; then trained on all {unit}" if validation["learned_afterwards"] else ""
        of = " of frames" * (unit == "videos")
        lines.append(
            f"validation accuracy{of} {validation['accuracy']:.3f} ({validation[unit]} {unit}) "
            f"after epoch {metrics['best_epoch']}{refit}"
        )
    return lines


def _format_tuning(metrics: dict[str, Any]) -> str:
    """Describe the effect of fine-tuning on the validation set."""
    validation, blocks = metrics["validation"], ", ".join(metrics["blocks"])
    if not validation["clips"]:
        return f"fine-tuned {blocks} for {metrics['epochs']} epochs, without a validation set"
    before, after = validation["before"], validation["after"]
    change = (
        f"validation loss {before['loss']:.3f} before, {after['loss']:.3f} after epoch "
        f"{metrics['best_epoch']} (accuracy {before['accuracy']:.3f}, {after['accuracy']:.3f})"
    )
    if not metrics["kept"]:
        return f"fine-tuning {blocks} did not help: {change}; the backbone is left unchanged"
    refit = "; then trained on all clips" if validation["learned_afterwards"] else ""
    return f"fine-tuned {blocks}: {change}{refit}"
