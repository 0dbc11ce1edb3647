"""`clipline diagnose` as a user runs it."""

from __future__ import annotations

import pandas as pd
import pytest

from flows.cli.diagnose import training_options
from flows.signals import USAGE
from pipeline.config import EncodeOptions, RunOptions
from pipeline.temporal.options import TrainingOptions


def test_cells_are_compared_on_labelled_videos(
    clipline, labelled_folder, plain_recognizer, tmp_path
):
    ended = clipline(
        *("diagnose", plain_recognizer, labelled_folder / "labels.csv", "-o", tmp_path / "DIAG"),
        *("--epochs", "2"),
    )

    assert ended.code == 0, ended.err
    lags = pd.read_parquet(tmp_path / "DIAG" / "lags.parquet")
    assert lags.cell.unique().tolist() == [
        *("rnn_tanh", "rnn_relu", "lstm", "gru", "mingru", "transformer", "plain (gru)")
    ]
    assert lags.lag_seconds.max() == pytest.approx(15 / 8)
    assert "plain (gru)\tsaved" in ended.out
    assert (tmp_path / "DIAG" / "diagnosis.png").exists()


@pytest.mark.parametrize("device", ["cpu", "cuda", "auto"])
def test_cells_are_trained_where_frames_are_encoded(device):
    options = RunOptions(encode=EncodeOptions(device=device))

    assert training_options(options, {"epochs": 3, "seed": 5}) == TrainingOptions(
        epochs=3, seed=5, validation=0, device=device
    )


def test_unknown_labels_fail_before_any_work(clipline, labelled_folder, plain_recognizer, tmp_path):
    (labelled_folder / "other.csv").write_text("video,label\nv0.mp4,up\nv1.mp4,left\n")
    ended = clipline(
        "diagnose", plain_recognizer, labelled_folder / "other.csv", "-o", tmp_path / "DIAG"
    )

    assert ended.code == USAGE
    assert "plain does not have the label up; it has left, right, still" in ended.err
    assert not (tmp_path / "DIAG").exists()
