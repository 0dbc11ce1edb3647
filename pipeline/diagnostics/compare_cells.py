"""
Cells side by side on labelled sequences: tables, a picture, and a summary.

    cells = [diagnose_cell(name, examples, num_labels, temporal, training) for name in COMPARED]
    write_diagnosis(Diagnosis(tuple(cells), seconds_per_frame), Path("DIAG"))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline.diagnostics.gradients import CellDiagnosis, Measured, measure
from pipeline.recognition.recognizer import Recognizer
from pipeline.results.plots import Curve, plot_diagnosis
from pipeline.storage import write_json, write_table
from pipeline.temporal.batching import Example


@dataclass(frozen=True)
class Diagnosis:
    """Cells that were measured on the same sequences."""

    cells: tuple[CellDiagnosis, ...]
    seconds_per_frame: float

    def lags(self) -> pd.DataFrame:
        """Tabulate gradients by lag, one row a cell, stage and lag."""
        return pd.concat([self._lags(cell, at) for cell, at in self._measured()], ignore_index=True)

    def _measured(self) -> list[tuple[CellDiagnosis, Measured]]:
        return [(cell, at) for cell in self.cells for at in cell.measured]

    def _lags(self, cell: CellDiagnosis, at: Measured) -> pd.DataFrame:
        lag = np.arange(len(at.lags.norms))
        return pd.DataFrame(
            {
                "cell": cell.name,
                "stage": at.stage,
                "lag": lag,
                "lag_seconds": lag * self.seconds_per_frame,
                "gradient_norm": at.lags.norms,
                "relative": at.lags.relative,
                "sequences": at.lags.sequences,
            }
        )

    def gates(self) -> pd.DataFrame:
        """Tabulate how gates are used, one row a cell, stage, layer and gate."""
        names = ["cell", "stage", "layer", "gate", "shut", "open"]
        rows = [
            {"cell": cell.name, "stage": at.stage, **asdict(gate)}
            for cell, at in self._measured()
            for gate in at.gates
        ]
        return pd.DataFrame(rows, columns=names)

    def training(self) -> pd.DataFrame:
        """Tabulate how training went, one row a cell and epoch."""
        names = ["cell", "epoch", "loss", "accuracy", "gradient_norm", "clipped"]
        rows = [
            [cell.name, e.number, e.loss, e.accuracy, e.gradient_norm, e.clipped]
            for cell in self.cells
            for e in cell.history
        ]
        return pd.DataFrame(rows, columns=names)

    def summary(self) -> pd.DataFrame:
        """Tabulate the cells, one row a cell and stage."""
        return pd.DataFrame([self._summary(cell, at) for cell, at in self._measured()])

    def _summary(self, cell: CellDiagnosis, at: Measured) -> dict[str, object]:
        gates = [gate.saturated for gate in at.gates]
        return {
            "cell": cell.name,
            "stage": at.stage,
            "memory_seconds": at.lags.memory_steps * self.seconds_per_frame,
            "memory_frames": at.lags.memory_steps,
            "furthest_relative": float(at.lags.relative[-1]),
            "saturated_gates": float(np.mean(gates)) if gates else np.nan,
            "accuracy": at.accuracy,
        }


def diagnose_saved(
    recognizer: Recognizer, examples: Sequence[Example], labels: Sequence[str]
) -> CellDiagnosis:
    """
    Measure a recognizer as it is.

    Args:
        recognizer: what to measure.
        examples: labelled sequences of its features.
        labels: names of the labels of the examples, which it knows.
    """
    number = [recognizer.labels.index(label) for label in labels]
    named = [replace(example, label=number[example.label]) for example in examples]
    at = measure(recognizer.model, named, "saved")
    return CellDiagnosis(f"{recognizer.name} ({recognizer.temporal.cell})", (at,))


def seconds_per_frame(examples: Sequence[Example]) -> float:
    """Tell how far frames are apart, from the lengths of the clips: their median."""
    gaps = [(e.end_seconds - e.start_seconds) / len(e.features) for e in examples]
    return float(np.median(gaps))


def write_diagnosis(diagnosis: Diagnosis, folder: Path) -> None:
    """Write `lags`, `gates` and `training` as Parquet, `summary.json`, and `diagnosis.png`."""
    tables = {
        "lags": diagnosis.lags(),
        "gates": diagnosis.gates(),
        "training": diagnosis.training(),
    }
    for name, rows in tables.items():
        write_table(pa.Table.from_pandas(rows, preserve_index=False), folder / f"{name}.parquet")
    summary = diagnosis.summary()
    write_json(
        summary.astype(object).where(summary.notna(), None).to_dict("records"),
        folder / "summary.json",
    )
    plot_diagnosis(_curves(diagnosis), folder / "diagnosis.png")


def _curves(diagnosis: Diagnosis) -> list[Curve]:
    """Give the lines of the picture by panel."""
    lags = [
        Curve(
            panel="before training" if at.stage == "start" else "after training",
            name=cell.name,
            x=np.arange(len(at.lags.norms)) * diagnosis.seconds_per_frame,
            y=at.lags.relative,
        )
        for cell in diagnosis.cells
        for at in cell.measured
    ]
    training = [
        Curve(
            panel="during training",
            name=cell.name,
            x=np.array([epoch.number for epoch in cell.history], float),
            y=np.array([epoch.gradient_norm for epoch in cell.history]),
        )
        for cell in diagnosis.cells
        if cell.history
    ]
    return lags + training
