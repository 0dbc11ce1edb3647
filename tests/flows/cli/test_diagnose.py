"""`diagnose`, `cells` and `novelty fit` as a user runs them."""

from __future__ import annotations

import pandas as pd
import pytest

from flows.cli.diagnose import training_options
from flows.signals import USAGE
from pipeline.config import EncodeOptions, RunOptions
from pipeline.temporal.options import TrainingOptions
from tests.videos import write_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six videos of two seconds, with two labels."""
    folder = tmp_path_factory.mktemp("labelled")
    rows = ["video,label"]
    for number in range(6):
        write_video(folder / f"v{number}.mp4", 48, fps=24, first=90 * number)
        rows.append(f"v{number}.mp4,{('left', 'right')[number % 2]}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


class TestNovelty:
    def test_fit_and_run(self, clipline, folder, plain_recognizer, tmp_path):
        model, out = tmp_path / "M", tmp_path / "out"
        fitted = clipline("novelty", "fit", folder, "-o", model, "--recognizer", plain_recognizer)

        assert fitted.code == 0, fitted.err
        assert "of 6 videos, a subspace of" in fitted.out
        assert f"--recognizer {plain_recognizer} --novelty {model}" in fitted.out
        ended = clipline(
            *("run", folder, "-o", out, "--recognizer", plain_recognizer, "--novelty", model)
        )
        assert ended.code == 0, ended.err
        assert pd.read_parquet(out / "clips").novelty.notna().all()

    @pytest.mark.slow
    def test_features_of_another_backbone_are_refused(
        self, clipline, folder, plain_recognizer, tiny_recognizer, tmp_path
    ):
        model, out = tmp_path / "M", tmp_path / "out"
        clipline("novelty", "fit", folder, "-o", model, "--recognizer", plain_recognizer, "-q")
        ended = clipline(
            *("run", folder, "-o", out, "--recognizer", tiny_recognizer, "--novelty", model)
        )

        assert ended.code == USAGE
        assert "was fitted to features of random:test_resnet" in ended.err
        assert "of pairs" in ended.err
        assert "Traceback" not in ended.err

    @pytest.mark.slow
    def test_a_backbone_alone_will_do(self, clipline, folder, tmp_path):
        ended = clipline(
            *("novelty", "fit", folder, "-o", tmp_path / "M", "--backbone", "random:test_resnet")
        )

        assert ended.code == 0, ended.err
        assert (tmp_path / "M" / "novelty.json").exists()

    def test_too_little_material_fails(self, clipline, folder, plain_recognizer, tmp_path):
        ended = clipline(
            *("novelty", "fit", folder / "v0.mp4", "-o", tmp_path / "M"),
            *("--recognizer", plain_recognizer),
        )

        assert ended.code == USAGE
        assert "hold 16 sampled frames, wanted 64 or more" in ended.err


class TestDiagnose:
    def test_cells_side_by_side_on_labelled_videos(
        self, clipline, folder, plain_recognizer, tmp_path
    ):
        ended = clipline(
            *("diagnose", plain_recognizer, folder / "labels.csv", "-o", tmp_path / "DIAG"),
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
    def test_cells_are_trained_where_frames_are_encoded(self, device):
        options = RunOptions(encode=EncodeOptions(device=device))

        assert training_options(options, {"epochs": 3, "seed": 5}) == TrainingOptions(
            epochs=3, seed=5, validation=0, device=device
        )

    def test_unknown_labels_fail_before_any_work(
        self, clipline, folder, plain_recognizer, tmp_path
    ):
        (folder / "other.csv").write_text("video,label\nv0.mp4,up\nv1.mp4,left\n")
        ended = clipline(
            "diagnose", plain_recognizer, folder / "other.csv", "-o", tmp_path / "DIAG"
        )

        assert ended.code == USAGE
        assert "plain does not know the labels up; it knows left, right, still" in ended.err
        assert not (tmp_path / "DIAG").exists()


def test_cells_compares_without_videos(clipline, tmp_path):
    ended = clipline(
        *("cells", "-o", tmp_path, "--lag", "9", "--sequences", "32", "--epochs", "1"),
        *("--steps", "256"),
    )

    assert ended.code == 0, ended.err
    assert "mingru\ttrained" in ended.out
    assert "times as fast as gru" in ended.out
    assert "maximum difference" in ended.out
    assert len(pd.read_parquet(tmp_path / "lags.parquet")) == 6 * 2 * 10
