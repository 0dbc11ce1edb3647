"""What `diagnose` writes: tables, a summary, a picture; and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipeline.config import ClipWindows, Sampling
from pipeline.diagnostics.compare_cells import (
    Diagnosis,
    diagnose_saved,
    seconds_per_frame,
    write_diagnosis,
)
from pipeline.diagnostics.copy_task import LABELS, draw_recall
from pipeline.diagnostics.gradients import diagnose_cell, measure
from pipeline.recognition.recognizer import BackboneSpec, Recognizer
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import TemporalOptions, TrainingOptions

CELLS = ("rnn_tanh", "lstm")
NAMES = ("a", "b", "c", "d")
EPOCHS = 2


@pytest.fixture(scope="module")
def drawn():
    return draw_recall(24, 10)


@pytest.fixture(scope="module")
def recognizer():
    torch.manual_seed(0)
    options = TemporalOptions(cell="gru", size=8)
    return Recognizer(
        name="mine",
        labels=("d", "c", "b", "a", "other"),
        sampling=Sampling(fps=8),
        clips=ClipWindows(),
        backbone=BackboneSpec("toy", "", LABELS + 1),
        temporal=options,
        model=TemporalModel(LABELS + 1, 5, options).eval(),
    )


@pytest.fixture(scope="module")
def diagnosis(drawn, recognizer):
    training = TrainingOptions(epochs=EPOCHS, validation=0, device="cpu")
    temporal = TemporalOptions(size=8)
    cells = [diagnose_cell(cell, drawn, LABELS, temporal, training) for cell in CELLS]
    return Diagnosis((*cells, diagnose_saved(recognizer, drawn, NAMES)), 0.125)


@pytest.fixture(scope="module")
def folder(diagnosis, tmp_path_factory):
    made = tmp_path_factory.mktemp("diag") / "DIAG"
    write_diagnosis(diagnosis, made)
    return made


def test_lags_have_a_row_a_cell_stage_and_lag(folder, diagnosis):
    lags = pd.read_parquet(folder / "lags.parquet")

    assert len(lags) == (2 * len(CELLS) + 1) * 10
    one = lags[(lags.cell == "lstm") & (lags.stage == "trained")]
    expected = diagnosis.cells[1].measured[1].lags
    np.testing.assert_array_equal(one.gradient_norm, expected.norms)
    np.testing.assert_array_equal(one.lag_seconds, np.arange(10) * 0.125)
    assert one.relative.max() == 1
    assert set(one.sequences) == {24}


def test_gates_are_told_of_gated_cells_alone(folder):
    gates = pd.read_parquet(folder / "gates.parquet")

    assert set(gates.cell) == {"lstm", "mine (gru)"}
    assert set(gates[gates.cell == "lstm"].gate) == {"input", "forget", "output"}
    assert set(gates[gates.cell == "lstm"].stage) == {"start", "trained"}


def test_training_has_a_row_an_epoch(folder):
    training = pd.read_parquet(folder / "training.parquet")

    assert training.groupby("cell").epoch.apply(list).to_dict() == {c: [1, 2] for c in CELLS}
    assert (training.gradient_norm > 0).all()
    assert training.clipped.between(0, 1).all()


def test_the_summary_is_what_the_tables_say(folder):
    summary = json.loads((folder / "summary.json").read_text())
    lags = pd.read_parquet(folder / "lags.parquet")

    assert [(row["cell"], row["stage"]) for row in summary] == [
        *[(cell, stage) for cell in CELLS for stage in ("start", "trained")],
        ("mine (gru)", "saved"),
    ]
    for row in summary:
        one = lags[(lags.cell == row["cell"]) & (lags.stage == row["stage"])]
        weighted = (one.relative * one.lag_seconds).sum() / one.relative.sum()
        assert row["memory_seconds"] == pytest.approx(weighted)
        assert row["furthest_relative"] == pytest.approx(one.relative.iloc[-1])
    assert summary[0]["saturated_gates"] is None


def test_accuracy_is_that_of_the_clips_that_memory_is_measured_on(folder, drawn):
    """Not that of training, which is a mean over an epoch, of other clips maybe."""
    asked = draw_recall(16, 10, lag=9, seed=1)
    training = TrainingOptions(epochs=EPOCHS, validation=0, device="cpu")
    temporal = TemporalOptions(size=8)
    cell = diagnose_cell(*("gru", drawn, LABELS, temporal, training), measured_on=asked)

    summary = Diagnosis((cell,), 0.125).summary()

    assert summary.accuracy.tolist() == [at.accuracy for at in cell.measured]
    assert (summary.accuracy * 16 % 1 == 0).all()
    rows = json.loads((folder / "summary.json").read_text())
    assert all(0 <= row["accuracy"] <= 1 for row in rows)


def test_the_picture_has_a_panel_for_each_time(folder):
    with Image.open(folder / "diagnosis.png") as picture:
        assert picture.width > 3 * picture.height


def test_a_saved_recognizer_is_measured_with_its_own_labels(recognizer, drawn):
    """The examples number labels by the table, the model by its own list."""
    found = diagnose_saved(recognizer, drawn, NAMES).measured[0].lags
    turned = diagnose_saved(recognizer, drawn, NAMES[::-1]).measured[0].lags
    expected = measure(recognizer.model, drawn, "saved").lags  # as if d were a, c were b, …

    np.testing.assert_allclose(turned.norms, expected.norms)
    assert not np.allclose(found.norms, turned.norms)


def test_seconds_per_frame(drawn):
    assert seconds_per_frame(drawn) == 1
