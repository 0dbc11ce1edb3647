"""The command `diagnose`: how many frames back cells of a recurrent model use."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.cli.derive import Given, takes
from flows.cli.evaluate import FEATURES, RecognizerName
from flows.cli.options import (
    DECODING,
    ENCODING,
    TRAINING,
    LabelsTable,
    OutputFolder,
    Quiet,
    VideosFolder,
    recognizer_options,
)
from pipeline.temporal.options import TrainingOptions

if TYPE_CHECKING:
    from pipeline.config import RunOptions
    from pipeline.diagnostics.compare_cells import OnCellEpoch
    from pipeline.diagnostics.tables import Diagnosis
    from pipeline.temporal.training_loop import Epoch

EPOCHS_HELP = "Epochs that each cell is trained for."


@takes(
    TRAINING.only("epochs", "seed").change(epochs={"help": EPOCHS_HELP}),
    FEATURES,
    ENCODING.only("device", "precision"),
    DECODING,
)
def diagnose(
    recognizer: RecognizerName,
    labels: LabelsTable,
    /,
    *,
    out: OutputFolder,
    videos: VideosFolder | None = None,
    quiet: Quiet = False,
    given: Given,
) -> None:
    """Show how many frames back cells use on labelled clips: RNN, LSTM, GRU, minGRU, Transformer.

    Each cell replaces that of the recognizer, and is measured before and after training; the
    recognizer itself is measured without training.
    """
    from flows.cli.dataset import gather_clips, read_clips
    from flows.signals import exit_now
    from pipeline.diagnostics.compare_cells import (
        COMPARED,
        diagnose_cell,
        diagnose_saved,
        seconds_per_frame,
    )
    from pipeline.diagnostics.tables import Diagnosis
    from pipeline.recognition.recognizer import load_recognizer, require_labels

    labelled, saved = read_clips(labels, videos, quiet=quiet), load_recognizer(recognizer)
    require_labels(saved, labelled.labels, "use labels that it was trained on")
    options = recognizer_options(given, recognizer, saved.backbone.precision)
    training = training_options(options, given[TrainingOptions])
    found = gather_clips(labelled, options, quiet=quiet)[0].examples
    report = cell_reporter(training.epochs, quiet=quiet)
    cells = [
        diagnose_cell(
            *(cell, found.items, len(found.labels), saved.temporal, training), on_epoch=report
        )
        for cell in COMPARED
    ]
    own = diagnose_saved(saved, found.items, found.labels)
    print_diagnosis(Diagnosis((*cells, own), seconds_per_frame(found.items)), out, quiet=quiet)
    sys.stdout.flush()
    exit_now(0)


def training_options(options: RunOptions, given: Mapping[str, Any]) -> TrainingOptions:
    """Return the options with which cells are trained, on the device of the run."""
    return TrainingOptions(**given, validation=0, device=options.encode.device)


def cell_reporter(epochs: int, *, quiet: bool) -> OnCellEpoch:
    """Return a function that prints the last epoch of each cell."""
    from flows.cli.console import print_error

    def report(cell: str, epoch: Epoch) -> None:
        if epoch.number == epochs and not quiet:
            print_error(f"{cell}: trained, loss {epoch.loss:.3f}, accuracy {epoch.accuracy:.2f}")

    return report


def print_diagnosis(diagnosis: Diagnosis, out: Path, *, quiet: bool) -> None:
    """Write tables and the figure, and print the summary."""
    from flows.cli.console import print_line, print_table
    from pipeline.diagnostics.tables import write_diagnosis

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
    print_line(f"figure: {out / 'diagnosis.png'}   tables: {out}/lags, gates, training (.parquet)")


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"
