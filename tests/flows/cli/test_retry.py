"""`clipline retry` as a user runs it."""

from __future__ import annotations

import os

import pandas as pd

from flows.signals import SOME_FAILED, USAGE
from tests.videos import write_video


def test_only_failed_videos_are_processed_again(clipline, mixed_folder, tiny_recognizer, tmp_path):
    """From any folder: paths are relative to the working folder of the run."""
    out = mixed_folder.parent / "out"
    clipline(
        "run",
        mixed_folder.name,
        "-o",
        "out",
        "--recognizer",
        tiny_recognizer,
        cwd=mixed_folder.parent,
    )
    write_video(mixed_folder / "repaired.mp4", 24, fps=24)
    os.replace(mixed_folder / "repaired.mp4", mixed_folder / "empty.mp4")

    ended = clipline("retry", out, "--json")

    assert ended.code == 0, ended.err
    assert sorted(pd.read_parquet(out / "videos").video) == ["mixed/a.mp4", "mixed/empty.mp4"]
    assert ended.json["counts"]["videos_done"] == 1
    assert ended.json["statuses"] == {"ok": 2}


def test_other_limits_may_be_given(clipline, clips_folder, tiny_recognizer, tmp_path):
    out = tmp_path / "out"
    refused = clipline(
        *("run", clips_folder, "-o", out, "--recognizer", tiny_recognizer, "--max-pixels", 100)
    )
    assert refused.code == SOME_FAILED

    ended = clipline("retry", out, "--status", "too_large", "--max-pixels", 10**6, "--json")

    assert ended.code == 0, ended.err
    assert ended.json["statuses"] == {"ok": 2}
    assert ended.json["options"]["decode"]["max_pixels"] == 10**6


def test_other_statuses_are_left_alone(clipline, mixed_folder, tiny_recognizer, tmp_path):
    out = tmp_path / "out"
    clipline("run", mixed_folder, "-o", out, "--recognizer", tiny_recognizer)

    ended = clipline("retry", out, "--status", "decode_timeout,partial", "--json")

    assert ended.code == SOME_FAILED
    assert ended.json["counts"]["videos_done"] == 0


def test_unknown_statuses_are_refused(clipline, mixed_folder, tiny_recognizer, tmp_path):
    clipline("run", mixed_folder, "-o", tmp_path / "out", "--recognizer", tiny_recognizer)
    ended = clipline("retry", tmp_path / "out", "--status", "sad")

    assert ended.code == USAGE
    assert "no status sad; there are ok, partial" in ended.err
