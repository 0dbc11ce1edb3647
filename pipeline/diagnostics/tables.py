"""Results of a diagnosis: tables, a summary, and a figure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline.diagnostics.compare_cells import CellDiagnosis, Measurement
from pipeline.results.plots import Curve, plot_diagnosis
from pipeline.storage import write_json, write_table


@dataclass(frozen=True)
class Diagnosis:
    """Cells that were measured on the same sequences."""

    cells: tuple[CellDiagnosis, ...]
    seconds_per_frame: float

    def lags(self) -> pd.DataFrame:
        """Tabulate gradients by lag, one row per cell, stage and lag."""
        return pd.concat([self._lags(cell, at) for cell, at in self._all()], ignore_index=True)

    def _all(self) -> list[tuple[CellDiagnosis, Measurement]]:
        return [(cell, at) for cell in self.cells for at in cell.measurements]

    def _lags(self, cell: CellDiagnosis, at: Measurement) -> pd.DataFrame:
        lag = np.arange(len(at.gradients.norms))
        return pd.DataFrame(
            {
                "cell": cell.name,
                "stage": at.stage,
                "lag": lag,
                "lag_seconds": lag * self.seconds_per_frame,
                "gradient_norm": at.gradients.norms,
                "relative": at.gradients.relative,
                "sequences": at.gradients.sequences,
            }
        )

    def gates(self) -> pd.DataFrame:
        """Tabulate the saturation of gates, one row per cell, stage, layer and gate."""
        names = ["cell", "stage", "layer", "gate", "shut", "open"]
        rows = [
            [cell.name, at.stage, gate.layer, gate.gate, gate.closed, gate.open]
            for cell, at in self._all()
            for gate in at.gates
        ]
        return pd.DataFrame(rows, columns=names)

    def training(self) -> pd.DataFrame:
        """Tabulate the trainings, one row per cell and epoch."""
        names = ["cell", "epoch", "loss", "accuracy", "gradient_norm", "clipped"]
        rows = [
            [cell.name, e.number, e.loss, e.accuracy, e.gradient_norm, e.clipped]
            for cell in self.cells
            for e in cell.history
        ]
        return pd.DataFrame(rows, columns=names)

    def summary(self) -> pd.DataFrame:
        """Tabulate the cells, one row per cell and stage."""
        return pd.DataFrame([self._summary(cell, at) for cell, at in self._all()])

    def _summary(self, cell: CellDiagnosis, at: Measurement) -> dict[str, object]:
        gates = [gate.saturated for gate in at.gates]
        return {
            "cell": cell.name,
            "stage": at.stage,
            "memory_seconds": at.gradients.effective_memory * self.seconds_per_frame,
            "memory_frames": at.gradients.effective_memory,
            "furthest_relative": float(at.gradients.relative[-1]),
            "saturated_gates": float(np.mean(gates)) if gates else np.nan,
            "accuracy": at.accuracy,
        }


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
    """Give the curves of the figure, by panel."""
    lags = [
        Curve(
            panel="before training" if at.stage == "start" else "after training",
            name=cell.name,
            x=np.arange(len(at.gradients.norms)) * diagnosis.seconds_per_frame,
            y=at.gradients.relative,
        )
        for cell in diagnosis.cells
        for at in cell.measurements
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
