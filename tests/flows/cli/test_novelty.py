"""`clipline novelty fit` as a user runs it."""

from __future__ import annotations

import pandas as pd
import pytest

from flows.signals import USAGE


def test_fit_and_run(clipline, labelled_folder, plain_recognizer, tmp_path):
    model, out = tmp_path / "M", tmp_path / "out"
    fitted = clipline(
        "novelty", "fit", labelled_folder, "-o", model, "--recognizer", plain_recognizer
    )

    assert fitted.code == 0, fitted.err
    assert "of 6 videos, a subspace of" in fitted.out
    assert f"--recognizer {plain_recognizer} --novelty {model}" in fitted.out
    ended = clipline(
        *("run", labelled_folder, "-o", out, "--recognizer", plain_recognizer, "--novelty", model)
    )
    assert ended.code == 0, ended.err
    assert pd.read_parquet(out / "clips").novelty.notna().all()


@pytest.mark.slow
def test_features_of_another_backbone_are_refused(
    clipline, labelled_folder, plain_recognizer, tiny_recognizer, tmp_path
):
    model, out = tmp_path / "M", tmp_path / "out"
    clipline("novelty", "fit", labelled_folder, "-o", model, "--recognizer", plain_recognizer, "-q")
    ended = clipline(
        *("run", labelled_folder, "-o", out, "--recognizer", tiny_recognizer, "--novelty", model)
    )

    assert ended.code == USAGE
    assert "was fitted to features of random:test_resnet" in ended.err
    assert "of pairs" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.slow
def test_a_backbone_is_enough(clipline, labelled_folder, tmp_path):
    ended = clipline(
        *(
            "novelty",
            "fit",
            labelled_folder,
            "-o",
            tmp_path / "M",
            "--backbone",
            "random:test_resnet",
        )
    )

    assert ended.code == 0, ended.err
    assert (tmp_path / "M" / "novelty.json").exists()


def test_too_few_frames_fail(clipline, labelled_folder, plain_recognizer, tmp_path):
    ended = clipline(
        *("novelty", "fit", labelled_folder / "v0.mp4", "-o", tmp_path / "M"),
        *("--recognizer", plain_recognizer),
    )

    assert ended.code == USAGE
    assert "have 16 sampled frames, at least 64 are needed" in ended.err
