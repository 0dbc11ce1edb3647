"""Tables, summary and figure of a diagnosis."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipeline.config import ClipWindows, Sampling
from pipeline.diagnostics.compare_cells import (
    diagnose_cell,
    diagnose_saved,
    measure,
    seconds_per_frame,
)
from pipeline.diagnostics.copy_task import LABELS, make_copy_task
from pipeline.diagnostics.tables import Diagnosis, write_diagnosis
from pipeline.recognition.recognizer import BackboneSpec, Recognizer
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import TemporalOptions, TrainingOptions

CELLS = ("rnn_tanh", "lstm")
NAMES = ("a", "b", "c", "d")
EPOCHS = 2


@pytest.fixture(scope="module")
def examples():
    return make_copy_task(24, 10)


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
def diagnosis(examples, recognizer):
    training = TrainingOptions(epochs=EPOCHS, validation=0, device="cpu")
    temporal = TemporalOptions(size=8)
    cells = [diagnose_cell(cell, examples, LABELS, temporal, training) for cell in CELLS]
    return Diagnosis((*cells, diagnose_saved(recognizer, examples, NAMES)), 0.125)


@pytest.fixture(scope="module")
def folder(diagnosis, tmp_path_factory):
    made = tmp_path_factory.mktemp("diag") / "DIAG"
    write_diagnosis(diagnosis, made)
    return made


def test_lags_have_a_row_per_cell_stage_and_lag(folder, diagnosis):
    lags = pd.read_parquet(folder / "lags.parquet")

    assert len(lags) == (2 * len(CELLS) + 1) * 10
    one = lags[(lags.cell == "lstm") & (lags.stage == "trained")]
    expected = diagnosis.cells[1].measurements[1].gradients
    np.testing.assert_array_equal(one.gradient_norm, expected.norms)
    np.testing.assert_array_equal(one.lag_seconds, np.arange(10) * 0.125)
    assert one.relative.max() == 1
    assert set(one.sequences) == {24}


def test_only_gated_cells_have_rows_of_gates(folder):
    gates = pd.read_parquet(folder / "gates.parquet")

    assert set(gates.cell) == {"lstm", "mine (gru)"}
    assert set(gates[gates.cell == "lstm"].gate) == {"input", "forget", "output"}
    assert set(gates[gates.cell == "lstm"].stage) == {"start", "trained"}


def test_training_has_a_row_per_epoch(folder):
    training = pd.read_parquet(folder / "training.parquet")

    assert training.groupby("cell").epoch.apply(list).to_dict() == {c: [1, 2] for c in CELLS}
    assert (training.gradient_norm > 0).all()
    assert training.clipped.between(0, 1).all()


def test_the_summary_agrees_with_the_tables(folder):
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


def test_accuracy_is_on_the_test_sequences(folder, examples):
    test = make_copy_task(16, 10, lag=9, seed=1)
    training = TrainingOptions(epochs=EPOCHS, validation=0, device="cpu")
    temporal = TemporalOptions(size=8)
    cell = diagnose_cell(*("gru", examples, LABELS, temporal, training), test=test)

    summary = Diagnosis((cell,), 0.125).summary()

    assert summary.accuracy.tolist() == [at.accuracy for at in cell.measurements]
    assert (summary.accuracy * 16 % 1 == 0).all()
    rows = json.loads((folder / "summary.json").read_text())
    assert all(0 <= row["accuracy"] <= 1 for row in rows)


def test_the_figure_has_three_panels(folder):
    with Image.open(folder / "diagnosis.png") as image:
        assert image.width > 3 * image.height


def test_labels_are_mapped_to_those_of_the_recognizer(recognizer, examples):
    mapped = diagnose_saved(recognizer, examples, NAMES).measurements[0].gradients
    reversed_labels = diagnose_saved(recognizer, examples, NAMES[::-1]).measurements[0].gradients
    expected = measure(recognizer.model, examples, "saved").gradients  # as if d were a, c were b, …

    np.testing.assert_allclose(reversed_labels.norms, expected.norms)
    assert not np.allclose(mapped.norms, reversed_labels.norms)


def test_seconds_per_frame(examples):
    assert seconds_per_frame(examples) == 1
