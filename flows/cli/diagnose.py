"""The commands that look into temporal models: `diagnose`, `cells`, and `novelty fit`."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.options import (
    BackbonePlace,
    DecodeMemory,
    DeviceName,
    Every,
    FrameTimeout,
    FullHash,
    Grid,
    ImageFps,
    LabelsTable,
    MaxPixels,
    MaxVideoSeconds,
    OutputFolder,
    PrecisionName,
    Quiet,
    ReaderOption,
    SampleFps,
    Seed,
    SharedFeatures,
    Tap,
    Videos,
    VideosFolder,
    VideoTimeout,
    Weights,
    Workers,
    gather_options,
)

if TYPE_CHECKING:
    from pipeline.config import RunOptions
    from pipeline.diagnostics.compare_cells import Diagnosis
    from pipeline.diagnostics.gradients import OnCellEpoch
    from pipeline.temporal.options import CellName, TrainingOptions
    from pipeline.temporal.training_loop import Epoch

RUN = "run"
"""Folder, under that of a command, of the run that fills the feature store."""
TIMED_CELLS: tuple[CellName, ...] = ("rnn_tanh", "lstm", "gru", "mingru")

novelty = typer.Typer(help="Tell how unusual videos are.", no_args_is_help=True)


Epochs = Annotated[int, typer.Option(help="Epochs that each cell is trained.", min=1)]


def diagnose(
    recognizer: Annotated[
        str, typer.Argument(help="Folder of a recognizer, or a bundled one.", show_default=False)
    ],
    labels: LabelsTable,
    out: OutputFolder,
    videos: VideosFolder = None,
    epochs: Epochs = 30,
    seed: Seed = 0,
    backbone: BackbonePlace = None,
    weights: Weights = None,
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
    """Show how far back cells look on labelled clips: RNN, LSTM, GRU, minGRU, Transformer.

    Each is trained in the place of the recognizer's own cell, and measured before and after; the
    recognizer is measured as it is.
    """
    from flows.signals import exit_now
    from pipeline.diagnostics.compare_cells import (
        Diagnosis,
        diagnose_saved,
        seconds_per_frame,
    )
    from pipeline.diagnostics.gradients import COMPARED, diagnose_cell
    from pipeline.recognition.recognizer import load_recognizer, require_labels
    from pipeline.run.load import open_session
    from pipeline.training.annotations import read_labels
    from pipeline.training.build_dataset import gather_examples

    labelled, saved = read_labels(labels, videos), load_recognizer(recognizer)
    require_labels(saved, labelled.labels, "use labels that it was trained on")
    same = saved.backbone.precision if precision == "auto" else precision
    options = _run_options({**locals(), "precision": same})
    _encode([clip.video for clip in labelled.clips], out / RUN, options, quiet=quiet)
    with open_session(out / RUN, options) as pipeline:
        found = gather_examples(labelled, pipeline).examples
    training = training_options(options, epochs, seed)
    tell = _teller(epochs, quiet=quiet)
    cells = [
        diagnose_cell(
            *(cell, found.items, len(found.labels), saved.temporal, training), on_epoch=tell
        )
        for cell in COMPARED
    ]
    own = diagnose_saved(saved, found.items, found.labels)
    _conclude(Diagnosis((*cells, own), seconds_per_frame(found.items)), out, quiet=quiet)
    sys.stdout.flush()
    exit_now(0)


def cells(
    out: OutputFolder,
    lag: Annotated[
        int, typer.Option(help="Frames from the one that shows the label to the last.", min=1)
    ] = 39,
    sequences: Annotated[int, typer.Option(help="Sequences drawn to train on.", min=16)] = 1024,
    epochs: Epochs = 12,
    steps: Annotated[
        int, typer.Option(help="Frames of the sequence that is timed; 0 times nothing.", min=0)
    ] = 4096,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Compare cells without videos: on a task of known lag, and how fast they train.

    A label is shown in one frame and asked for in the last; cells learn it at all lags up to LAG,
    and are measured at LAG. A drawn frame lasts a second.
    """
    from pipeline.diagnostics.compare_cells import Diagnosis
    from pipeline.diagnostics.copy_task import LABELS, draw_recall
    from pipeline.diagnostics.gradients import COMPARED, diagnose_cell
    from pipeline.temporal.options import TemporalOptions, TrainingOptions

    drawn = draw_recall(sequences, lag + 1, seed=seed)
    asked = draw_recall(max(16, sequences // 8), lag + 1, lag=lag, seed=seed + 1)
    training = TrainingOptions(
        epochs=epochs, seed=seed, learning_rate=5e-3, label_smoothing=0, validation=0
    )
    temporal, tell = TemporalOptions(size=32), _teller(epochs, quiet=quiet)
    found = [
        diagnose_cell(*(cell, drawn, LABELS, temporal, training), measured_on=asked, on_epoch=tell)
        for cell in COMPARED
    ]
    _conclude(Diagnosis(tuple(found), 1.0), out, quiet=quiet)
    if steps:
        _print_speeds(steps)


def _print_speeds(steps: int) -> None:
    """Time a step of training of each cell on one long sequence."""
    from flows.cli.console import print_line, print_table
    from pipeline.diagnostics.timing import scan_error, time_step

    times = {cell: time_step(cell, steps).seconds for cell in TIMED_CELLS}
    print_line()
    rows = [
        [cell, f"{1000 * seconds:.1f}", f"{times['gru'] / seconds:.2f}"]
        for cell, seconds in times.items()
    ]
    print_table(["cell", f"ms a step of training, {steps} frames", "times as fast as gru"], rows)
    error = scan_error(steps)
    print_line(f"minGRU as one scan and frame by frame differ by {error:.1e} at most")


@novelty.callback()
def _novelty() -> None:
    """Learn what is normal, to tell what is not."""


@novelty.command("fit")
def fit_novelty(
    videos: Videos,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the novelty model.", show_default=False)
    ],
    recognizer: Annotated[
        str | None,
        typer.Option(
            help="The recognizer of the runs to come: its backbone, sampling and cuts.",
            show_default="camera-motion, unless a backbone is named",
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Instead of a recognizer: model name in timm, local-dir:PATH, or random:NAME; "
            "with one: where its backbone is found."
        ),
    ] = None,
    weights: Weights = None,
    tap: Tap = None,
    grid: Grid = None,
    sample_fps: SampleFps = None,
    every: Every = None,
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
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Learn what is normal from videos; run --novelty then tells how unusual others are.

    The two must agree in backbone and sampling: give both the same recognizer.
    """
    from flows.signals import exit_now
    from pipeline.anomaly.fit_videos import fit_to_videos
    from pipeline.anomaly.novelty_folder import save_novelty
    from pipeline.run.load import open_session
    from pipeline.sources.discovery import find_videos

    chosen = recognizer or (None if backbone else "camera-motion")
    rate = 8.0 if chosen is None and sample_fps is None and every is None else sample_fps
    options = _run_options({**locals(), "recognizer": chosen, "sample_fps": rate})
    _encode(videos, out / RUN, options, quiet=quiet)
    normal = find_videos(videos, image_fps=image_fps)
    with open_session(out / RUN, options, videos=normal) as pipeline:
        model = fit_to_videos(pipeline, normal, seed)
    save_novelty(model, out)
    if not quiet:
        _print_novelty(model.notes, out, chosen)
    sys.stdout.flush()
    exit_now(0)


def _print_novelty(notes: dict[str, Any], out: Path, recognizer: str | None) -> None:
    from flows.cli.console import print_line

    print_line(
        f"normal: {notes['frames']} frames of {notes['videos']} videos, a subspace of "
        f"{notes['subspace']} of their features"
    )
    with_it = f" --recognizer {recognizer}" if recognizer not in (None, "camera-motion") else ""
    print_line(f"clipline run VIDEOS -o OUT{with_it} --novelty {out}")


def _run_options(values: dict[str, Any]) -> RunOptions:
    """Gather the options of the run that fills the feature store."""
    from pipeline.run.load import cache_folder

    features = values["features"] or cache_folder() / "features"
    return gather_options({**values, "features": features, "batch_size": 0})


def training_options(options: RunOptions, epochs: int, seed: int) -> TrainingOptions:
    """Give the options by which cells are trained where the run was."""
    from pipeline.temporal.options import TrainingOptions

    device = options.encode.device
    return TrainingOptions(epochs=epochs, seed=seed, validation=0, device=device)


def _encode(videos: list[str], out: Path, options: RunOptions, *, quiet: bool) -> None:
    """Fill the feature store by a run of the usual flow."""
    from flows.cli.console import watch
    from flows.server.launch import run_once
    from pipeline.errors import MachineError

    outcome = run_once(
        sorted(set(videos)), out, options, lambda pipeline: watch(pipeline, quiet=quiet)
    )
    if outcome.failures:
        raise MachineError(
            f"{outcome.failures} shards failed, see {out / 'run.json'}; the same command goes on"
        )


def _teller(epochs: int, *, quiet: bool) -> OnCellEpoch:
    """Tell of the last epoch of each cell."""
    from flows.cli.console import print_error

    def tell(cell: str, epoch: Epoch) -> None:
        if epoch.number == epochs and not quiet:
            print_error(f"{cell}: trained, loss {epoch.loss:.3f}, accuracy {epoch.accuracy:.2f}")

    return tell


def _conclude(diagnosis: Diagnosis, out: Path, *, quiet: bool) -> None:
    """Write what was found, and print the summary."""
    from flows.cli.console import print_line, print_table
    from pipeline.diagnostics.compare_cells import write_diagnosis

    write_diagnosis(diagnosis, out)
    if quiet:
        return
    columns = ["cell", "stage", "memory in seconds", "in frames", "furthest frame"]
    rows = [
        [
            row.cell,
            row.stage,
            f"{row.memory_seconds:.2f}",
            f"{row.memory_frames:.1f}",
            f"{row.furthest_relative:.0e}",
            _share(row.saturated_gates),
            _share(row.accuracy),
        ]
        for row in diagnosis.summary().itertuples()
    ]
    print_table([*columns, "saturated gates", "accuracy"], rows)
    print_line(f"picture: {out / 'diagnosis.png'}   tables: {out}/lags, gates, training (.parquet)")


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"
