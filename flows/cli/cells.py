"""The command `cells`: compare cells of recurrent models without videos."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from flows.cli.derive import integer
from flows.cli.diagnose import EPOCHS_HELP, cell_reporter, print_diagnosis
from flows.cli.options import OutputFolder, Quiet, Seed
from pipeline.temporal.options import CellName, TemporalOptions, TrainingOptions

TIMED_CELLS: tuple[CellName, ...] = ("rnn_tanh", "lstm", "gru", "mingru")
MIN_TEST_SEQUENCES = 16


def cells(
    *,
    out: OutputFolder,
    lag: Annotated[
        int, integer(1), Parameter(help="Frames from the one that shows the label to the last.")
    ] = 39,
    sequences: Annotated[
        int, integer(16), Parameter(help="Number of random training sequences.")
    ] = 1024,
    epochs: Annotated[int, integer(1), Parameter(help=EPOCHS_HELP)] = 12,
    steps: Annotated[
        int, integer(0), Parameter(help="Frames of the sequence for timing; 0 skips the timing.")
    ] = 4096,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Compare cells without videos: on a copy task with a known lag, and by training speed.

    A label is shown in one frame and must be predicted in the last; cells are trained with all lags
    up to LAG and measured at LAG. Each frame stands for a second.
    """
    from pipeline.diagnostics.compare_cells import COMPARED, diagnose_cell
    from pipeline.diagnostics.copy_task import LABELS, make_copy_task
    from pipeline.diagnostics.tables import Diagnosis

    examples = make_copy_task(sequences, lag + 1, seed=seed)
    count = max(MIN_TEST_SEQUENCES, sequences // 8)
    test = make_copy_task(count, lag + 1, lag=lag, seed=seed + 1)
    training = TrainingOptions(
        epochs=epochs, seed=seed, learning_rate=5e-3, label_smoothing=0, validation=0
    )
    temporal, report = TemporalOptions(size=32), cell_reporter(epochs, quiet=quiet)
    found = [
        diagnose_cell(*(cell, examples, LABELS, temporal, training), test=test, on_epoch=report)
        for cell in COMPARED
    ]
    print_diagnosis(Diagnosis(tuple(found), 1.0), out, quiet=quiet)
    if steps:
        _print_speeds(steps)


def _print_speeds(steps: int) -> None:
    """Time a training step of each cell on one long sequence."""
    from flows.cli.console import print_line, print_table
    from pipeline.diagnostics.timing import scan_max_abs_error, time_step

    times = {cell: time_step(cell, steps).seconds for cell in TIMED_CELLS}
    print_line()
    rows = [
        [cell, f"{1000 * seconds:.1f}", f"{times['gru'] / seconds:.2f}"]
        for cell, seconds in times.items()
    ]
    print_table(["cell", f"ms per training step, {steps} frames", "times as fast as gru"], rows)
    error = scan_max_abs_error(steps)
    print_line(f"maximum difference between minGRU as a scan and frame by frame: {error:.1e}")
