"""The command `train`: from labelled clips to the folder of a recognizer."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.options import (
    BackboneName,
    DecodeMemory,
    DeviceName,
    Every,
    FrameTimeout,
    FullHash,
    ImageFps,
    LabelsTable,
    MaxPixels,
    MaxVideoSeconds,
    PrecisionName,
    Quiet,
    ReaderOption,
    SampleFpsOr8,
    Seed,
    SharedFeatures,
    VideosFolder,
    VideoTimeout,
    Weights,
    Workers,
    gather_options,
)

if TYPE_CHECKING:
    from pipeline.temporal.training_loop import Epoch
    from pipeline.training.options import LearningOptions

GRID = 4
"""Cells a side, where nothing else is said: 3 and 4 did best in cross-validation on real clips."""


def train(
    labels: LabelsTable,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the recognizer.", show_default=False)
    ],
    backbone: BackboneName,
    videos: VideosFolder = None,
    cell: Annotated[
        str,
        typer.Option(
            help="mean, rnn_tanh, rnn_relu, rnn_leaky_relu, lstm, gru, mingru, transformer, "
            "or gru_transformer."
        ),
    ] = "gru",
    layers: Annotated[int, typer.Option(help="Layers of the cell.", min=1)] = 1,
    size: Annotated[int, typer.Option(help="Hidden size.", min=1)] = 64,
    bidirectional: Annotated[
        bool, typer.Option("--bidirectional", help="Also read clips backwards; cannot stream.")
    ] = False,
    pooling: Annotated[
        str, typer.Option(help="Pooling of frames to a clip: mean, last, or attention.")
    ] = "mean",
    differences: Annotated[
        bool, typer.Option(help="Append temporal differences: the change since the frame before.")
    ] = True,
    rectified: Annotated[
        bool,
        typer.Option(
            help="Rectify differences to positive and negative ones, and weigh them by how they "
            "vary between clips."
        ),
    ] = True,
    signed_root: Annotated[bool, typer.Option(help="Take signed square roots of features.")] = True,
    layer_norm: Annotated[
        bool, typer.Option(help="Layer normalization of hidden states; hides how much moves.")
    ] = False,
    dropout: Annotated[float, typer.Option(help="Dropout probability.")] = 0.3,
    tap: Annotated[
        str | None,
        typer.Option(
            help="Read the backbone after this module, such as blocks.4, or at its end.",
            show_default="the last module whose feature maps are a 16th of the picture",
        ),
    ] = None,
    grid: Annotated[
        int | None,
        typer.Option(
            help="Pool feature maps to GRID × GRID cells, which keeps where things are.",
            min=1,
            show_default="4; 1 with --tap end",
        ),
    ] = None,
    mirror: Annotated[
        bool | None,
        typer.Option(
            help="Augment with clips flipped horizontally.",
            show_default="unless a label names a side",
        ),
    ] = None,
    weights: Weights = None,
    sample_fps: SampleFpsOr8 = None,
    every: Every = None,
    epochs: Annotated[int, typer.Option(help="Maximum epochs.", min=1)] = 30,
    clips_a_step: Annotated[int, typer.Option("--batch-size", help="Clips per batch.", min=1)] = 16,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    weight_decay: Annotated[
        float, typer.Option(help="Decoupled weight decay (L2) of weight matrices.")
    ] = 1e-2,
    l1: Annotated[float, typer.Option("--l1", help="L1 penalty.")] = 0.0,
    validation: Annotated[
        float, typer.Option(help="Share of groups held out to stop early and to calibrate.")
    ] = 0.2,
    refit: Annotated[
        bool,
        typer.Option(help="Then train on everything, held-out clips included, for as many epochs."),
    ] = True,
    patience: Annotated[
        int, typer.Option(help="Epochs without improvement after which training stops.", min=1)
    ] = 20,
    unroll: Annotated[
        int, typer.Option(help="Frames of truncated back-propagation through time.", min=1)
    ] = 512,
    seed: Seed = 0,
    fine_tune: Annotated[
        int,
        typer.Option(
            help="Then fine-tune the last FINE_TUNE blocks of the backbone, before its tap or end, "
            "together with the temporal model; 0 leaves it as it is.",
            min=0,
        ),
    ] = 0,
    fine_tune_epochs: Annotated[
        int, typer.Option(help="Maximum epochs of fine-tuning.", min=1)
    ] = 8,
    fine_tune_batch: Annotated[
        int, typer.Option(help="Clips per batch of fine-tuning.", min=1)
    ] = 4,
    fine_tune_rate: Annotated[
        float,
        typer.Option(help="Peak learning rate of fine-tuning; that of the blocks is a tenth."),
    ] = 5e-4,
    fine_tune_frames: Annotated[
        int,
        typer.Option(
            help="Frames per clip, sampled anew each step, that the blocks are trained on; memory "
            "grows with them.",
            min=1,
        ),
    ] = 16,
    features: SharedFeatures = None,
    image_fps: ImageFps = None,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    reader: ReaderOption = "auto",
    workers: Workers = 0,
    frame_timeout: FrameTimeout = 20.0,
    video_timeout: VideoTimeout = 900.0,
    max_pixels: MaxPixels = 200_000_000,
    max_video_seconds: MaxVideoSeconds = 172_800.0,
    decode_memory: DecodeMemory = 4096,
    full_hash: FullHash = False,
    quiet: Quiet = False,
) -> None:
    """Train a recognizer on labelled clips, and save it for `run --recognizer`.

    Frames are decoded and encoded once; with --fine-tune, pictures are kept beside the features
    (3 bytes a pixel). An interrupted training goes on from its last epoch.
    """
    from flows.cli.console import print_error
    from flows.signals import Interrupted, exit_now

    options = gather_learning_options(locals())
    try:
        metrics = _train(labels, videos, out, options, quiet=quiet)
    except Interrupted as interrupted:
        print_error("stopped; the same command goes on from the last epoch.")
        exit_now(interrupted.exit_code)
        return
    if not quiet:
        _print_metrics(metrics, out)
    sys.stdout.flush()
    exit_now(0)


def gather_learning_options(values: dict[str, Any]) -> LearningOptions:
    """Gather the options of `train`, by the names of its parameters."""
    from pipeline.run.load import cache_folder
    from pipeline.temporal.options import TemporalOptions, TrainingOptions
    from pipeline.training.finetune.options import TuningOptions
    from pipeline.training.options import LearningOptions

    given = {**values, "recognizer": None, "wait": True, "batch_size": 0}
    if values["sample_fps"] is None and values["every"] is None:
        given["sample_fps"] = 8.0
    given["features"] = values["features"] or cache_folder() / "features"
    given["tap"], given["grid"] = _place(values)
    values = {**values, "rectified": values["rectified"] and values["differences"]}
    architecture = (
        *("cell", "layers", "size", "bidirectional", "pooling", "differences", "rectified"),
        *("signed_root", "layer_norm", "dropout"),
    )
    manner = (
        *("epochs", "learning_rate", "weight_decay", "l1", "validation", "refit", "patience"),
        *("unroll", "seed", "device"),
    )
    return LearningOptions(
        gather_options(given),
        TemporalOptions(**{name: values[name] for name in architecture}),
        TrainingOptions(
            batch_size=values["clips_a_step"], **{name: values[name] for name in manner}
        ),
        values["mirror"],
        TuningOptions(
            blocks=values["fine_tune"],
            epochs=values["fine_tune_epochs"],
            batch_size=values["fine_tune_batch"],
            learning_rate=values["fine_tune_rate"],
            frames=values["fine_tune_frames"],
        ),
    )


def _place(values: dict[str, Any]) -> tuple[str | None, int | None]:
    """Choose tap and grid, where they are not given."""
    from pipeline.encode.backbone import middle_tap

    if values["tap"] == "end":
        return None, values["grid"]
    return values["tap"] or middle_tap(values["backbone"]), values["grid"] or GRID


def _train(
    labels: Path, videos: Path | None, out: Path, options: LearningOptions, *, quiet: bool
) -> dict[str, Any]:
    from flows.server.launch import call_served
    from pipeline.training.annotations import read_labels

    read_labels(labels, videos)  # mistakes are told before anything heavy is started
    given = str(labels), str(videos) if videos else None, str(out), options.to_json()

    def load() -> Callable[[bool], dict[str, Any]]:
        from flows import train as flow

        def work(served: bool) -> dict[str, Any]:
            with _shown(flow.listeners, options, quiet=quiet):
                return flow.train(*given) if served else flow.train_plainly(*given)

        return work

    return call_served(load)


@contextlib.contextmanager
def _shown(listeners: Any, options: LearningOptions, *, quiet: bool) -> Iterator[None]:
    """Show frames that are encoded, then epochs, then those of fine-tuning."""
    if quiet:
        yield
        return
    from flows.cli import console

    with contextlib.ExitStack() as shown:
        listeners.on_pipeline = lambda pipeline: shown.enter_context(
            console.watch(pipeline, quiet=False)
        )
        listeners.on_epoch = _teller(shown, "epochs", options.training.epochs)
        listeners.on_tuning = _teller(shown, "epochs of fine-tuning", options.tuning.epochs)
        yield


def _teller(shown: contextlib.ExitStack, what: str, total: int) -> Callable[[Epoch], None]:
    """Count epochs; with the first of them, what was shown before ends."""
    from flows.cli.console import count

    bar: Callable[[int, str], None] | None = None

    def tell(epoch: Epoch) -> None:
        nonlocal bar
        if bar is None:
            shown.close()
            bar = shown.enter_context(count(what, total))
        bar(epoch.number, _said(epoch))

    return tell


def _said(epoch: Epoch) -> str:
    text = f"loss {epoch.loss:.3f}, accuracy {epoch.accuracy:.3f}"
    if epoch.validation_accuracy is not None:
        text += f"; held back {epoch.validation_loss:.3f}, {epoch.validation_accuracy:.3f}"
    return f"{text}; clipped {epoch.clipped:.0%}"


def _print_metrics(metrics: dict[str, Any], out: Path) -> None:
    from flows.cli.console import print_error, print_line

    for left in metrics["left_out"]:
        print_error(f"left out: row {left['row']}, {left['video']}: {left['reason']}")
    learned, held = metrics["learned_from"], metrics["validation"]
    print_line(
        f"learned {len(learned['labels'])} labels from {learned['clips']} clips of "
        f"{learned['groups']} groups in {metrics['epochs']} epochs"
    )
    if held["clips"]:
        then = "then they were learned as well" if held["learned_afterwards"] else "it is kept"
        print_line(
            f"{held['accuracy']:.3f} of {held['clips']} clips held back are right after epoch "
            f"{metrics['best_epoch']}; {then}"
        )
    if "fine_tuning" in metrics:
        print_line(_said_of_tuning(metrics["fine_tuning"]))
    if metrics["mirrored"]:
        print_line("learned mirrored as well: --no-mirror where that makes a label false")
    print_line(f"recognizer: {out}   curves: {out / 'learning.png'}")
    print_line(f"use it: clipline run VIDEOS -o OUT --recognizer {out}")


def _said_of_tuning(found: dict[str, Any]) -> str:
    """Say what fine-tuning was good for."""
    held, blocks = found["validation"], ", ".join(found["blocks"])
    if not held["clips"]:
        return f"fine-tuned {blocks} in {found['epochs']} epochs; nothing was held back to judge it"
    before, after = held["before"], held["after"]
    change = (
        f"loss on the clips held back {before['loss']:.3f} before, {after['loss']:.3f} after epoch "
        f"{found['best_epoch']} (right: {before['accuracy']:.3f}, {after['accuracy']:.3f})"
    )
    if not found["kept"]:
        return f"fine-tuning {blocks} did not help: {change}; the backbone stays as it was"
    then = "; then they were learned as well" if held["learned_afterwards"] else ""
    return f"fine-tuned {blocks}: {change}{then}"
