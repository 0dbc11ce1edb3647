"""The command `train`: train a recognizer on labelled clips."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from flows.cli.derive import Given, Option, option_group, takes
from flows.cli.options import (
    CACHE,
    DECODING,
    ENCODING,
    SAMPLING,
    TRAINING,
    TRAINING_PANEL,
    LabelsTable,
    Quiet,
    VideosFolder,
    default_store,
    run_options,
)
from pipeline.config import DEFAULT_SAMPLING, RunOptions
from pipeline.temporal.options import TemporalOptions, TrainingOptions
from pipeline.training.finetune.options import TuningOptions
from pipeline.training.options import DEFAULT_GRID, DEFAULT_MODEL, LearningOptions

if TYPE_CHECKING:
    from pipeline.temporal.training_loop import Epoch

FEATURES = CACHE.only(
    *("backbone", "weights", "tap", "grid", "image_fps", "features", "full_hash")
).change(
    backbone={"required": True},
    tap={"default": "the last module whose feature maps are a 16th of the frame; end: the end"},
    grid={"default": f"{DEFAULT_GRID}; 1 with --tap end"},
)
SWITCH = Option(negative=True)
MODEL = option_group(
    TemporalOptions,
    Group("Model", sort_key=2),
    differences=SWITCH,
    rectified=SWITCH,
    signed_root=SWITCH,
    layer_norm=SWITCH,
)
MODEL = replace(MODEL, defaults=asdict(DEFAULT_MODEL)).only(
    *("cell", "layers", "size", "bidirectional", "pooling", "differences", "rectified"),
    *("signed_root", "layer_norm", "dropout"),
)
TRAINING_FIELDS = (
    *("epochs", "batch_size", "learning_rate", "weight_decay", "l1", "validation", "refit"),
    *("patience", "unroll", "seed"),
)
AUGMENTATION = option_group(
    LearningOptions,
    TRAINING_PANEL,
    mirror=Option(negative=True, default="unless a label names a side"),
).only("mirror")
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
    FEATURES,
    MODEL,
    TRAINING.only(*TRAINING_FIELDS),
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
    """Train a recognizer on labelled clips, and save it for `run --recognizer`.

    Frames are decoded and encoded once; with --fine-tune, decoded frames are stored beside the
    features (3 bytes per pixel). An interrupted training resumes after its last epoch.
    """
    from flows.cli.console import print_error
    from flows.signals import Interrupted, exit_now

    options = learning_options(given)
    try:
        metrics = _train(labels, videos, out, options, quiet=quiet)
    except Interrupted as interrupted:
        print_error("stopped; the same command resumes after the last epoch.")
        exit_now(interrupted.exit_code)
        return
    if not quiet:
        _print_metrics(metrics, out)
    sys.stdout.flush()
    exit_now(0)


def learning_options(given: Given) -> LearningOptions:
    """
    Build the options of a training run from values of the command line.

    Raises:
        OptionError: a value is invalid.
    """
    model = dict(given[TemporalOptions])
    if model.get("differences") is False:
        model["rectified"] = False
    temporal = replace(DEFAULT_MODEL, **model)
    training = TrainingOptions(**given[TrainingOptions])
    tuning = TuningOptions(**given[TuningOptions])
    tap, grid = _layer(given[RunOptions])
    run = run_options(
        {**given, RunOptions: {**given[RunOptions], "tap": tap, "grid": grid}},
        recognizer=None,
        sampling=DEFAULT_SAMPLING,
        features=default_store(),
        wait=True,
    )
    training = replace(training, device=run.encode.device)
    return LearningOptions(run, temporal, training, tuning=tuning, **given[LearningOptions])


def _layer(given: Any) -> tuple[str | None, int | None]:
    """Return tap and grid, with their defaults."""
    from pipeline.encode.backbone import middle_layer

    if given.get("tap") == "end":
        return None, given.get("grid")
    return given.get("tap") or middle_layer(given["backbone"]), given.get("grid", DEFAULT_GRID)


def _train(
    labels: Path, videos: Path | None, out: Path, options: LearningOptions, *, quiet: bool
) -> dict[str, Any]:
    from flows.cli.dataset import read_labels
    from flows.server.launch import with_server
    from pipeline.training.label_counts import require_trainable

    # report mistakes before anything slow starts
    require_trainable(read_labels(labels, videos, quiet=quiet))
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


def _print_metrics(metrics: dict[str, Any], out: Path) -> None:
    from flows.cli.console import print_error, print_line

    for clip in metrics["left_out"]:
        print_error(f"skipped: row {clip['row']}, {clip['video']}: {clip['reason']}")
    training, validation = metrics["learned_from"], metrics["validation"]
    print_line(
        f"trained on {training['clips']} clips of {training['groups']} groups with "
        f"{len(training['labels'])} labels for {metrics['epochs']} epochs"
    )
    if validation["clips"]:
        refit = "; then trained on all clips" if validation["learned_afterwards"] else ""
        print_line(
            f"validation accuracy {validation['accuracy']:.3f} ({validation['clips']} clips) "
            f"after epoch {metrics['best_epoch']}{refit}"
        )
    if "fine_tuning" in metrics:
        print_line(_format_tuning(metrics["fine_tuning"]))
    if metrics["mirrored"]:
        print_line("clips were also flipped; use --no-mirror if labels depend on left and right")
    print_line(f"recognizer: {out}   curves: {out / 'learning.png'}")
    print_line(f"use it: clipline run VIDEOS -o OUT --recognizer {out}")


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
