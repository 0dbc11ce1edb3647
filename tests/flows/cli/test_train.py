"""The command `train` as a user runs it, and what it makes in the hands of `run`."""

from __future__ import annotations

import json
import re

import av
import numpy as np
import pandas as pd
import pytest

LENGTH, FPS = 10, 8
QUICK = ("--backbone", "random:test_resnet", "--grid", "3", "--size", "16", "--epochs", "8")


def draw_mover(path, number):
    """Draw a bright square that goes to the right in odd clips and to the left in even ones."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=FPS, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for step in range(LENGTH):
            picture = np.full((64, 96, 3), 60 + number, np.uint8)
            x = 8 * (step if number % 2 else LENGTH - 1 - step)
            picture[24:40, x : x + 16] = 240
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode())


@pytest.fixture(scope="module")
def movers(tmp_path_factory):
    """Twelve clips of six groups, and their table."""
    folder = tmp_path_factory.mktemp("movers")
    rows = ["video,label,group"]
    for number in range(12):
        draw_mover(folder / f"{number}.mp4", number)
        rows.append(f"{number}.mp4,{'right' if number % 2 else 'left'},g{number // 2}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


def test_what_is_trained_labels_new_videos(clipline, movers, tmp_path):
    made, out = tmp_path / "movers", tmp_path / "out"
    trained = clipline("train", movers / "labels.csv", "-o", made, *QUICK)

    assert trained.code == 0, trained.err
    assert "trained on 10 clips of 5 groups with 2 labels" in trained.out
    assert "epochs 8 of 8" in trained.err
    assert "labels: left 6, right 6 (12 clips)" in trained.err
    assert json.loads((made / "metrics.json").read_text())["epochs"] == 8

    ended = clipline("run", movers / "0.mp4", movers / "1.mp4", "-o", out, "--recognizer", made)

    assert ended.code == 0, ended.err
    clips = pd.read_parquet(out / "clips")
    assert set(clips.label) <= {"left", "right"}
    assert clips.num_frames.tolist() == [LENGTH, LENGTH]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({}, "fine-tuned layer3.0: validation loss 0.900 before, 0.400 after epoch 2 "
         "(accuracy 0.500, 0.750); then trained on all clips"),
        ({"learned_afterwards": False}, "after epoch 2 (accuracy 0.500, 0.750)"),
        ({"kept": False}, "fine-tuning layer3.0 did not help: validation loss 0.900 "
         "before, 0.400 after epoch 2 (accuracy 0.500, 0.750); the backbone is left unchanged"),
        ({"clips": 0}, "fine-tuned layer3.0 for 3 epochs, without a validation set"),
    ],
)  # fmt: skip
def test_the_effect_of_fine_tuning_is_printed(change, text):
    from flows.cli.train import _format_tuning

    held = {
        "clips": 4,
        "before": {"loss": 0.9, "accuracy": 0.5},
        "after": {"loss": 0.4, "accuracy": 0.75},
        "learned_afterwards": True,
    }
    found = {"blocks": ["layer3.0"], "kept": True, "epochs": 3, "best_epoch": 2}
    held |= {name: value for name, value in change.items() if name in held}
    found |= {name: value for name, value in change.items() if name in found}

    assert _format_tuning({**found, "validation": held}).endswith(text)


@pytest.mark.slow
def test_a_fine_tuned_backbone_is_part_of_what_is_trained(clipline, movers, tmp_path):
    made, out = tmp_path / "movers", tmp_path / "out"
    tuning = ("--fine-tune", "1", "--fine-tune-epochs", "2", "--no-refit")
    trained = clipline("train", movers / "labels.csv", "-o", made, *QUICK, *tuning)

    assert trained.code == 0, trained.err
    assert "epochs of fine-tuning 2 of 2" in trained.err
    assert re.search(r"fine-tun(ed|ing) layer3.0.*validation loss", trained.out)
    said = json.loads((made / "metrics.json").read_text())["fine_tuning"]
    assert (made / "backbone.safetensors").exists() == said["kept"]

    ended = clipline("run", movers / "1.mp4", "-o", out, "--recognizer", made)

    assert ended.code == 0, ended.err
    assert pd.read_parquet(out / "clips").num_frames.tolist() == [LENGTH]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("video,lable\n0.mp4,left\n", "unknown: lable"),
        ("video,label\nlost.mp4,left\n", "row 2 .* no such file"),
        ("video,label\n0.mp4,to the left\n", "labels: to the left 1 (.*\n)*.*all clips have the "),
        ("video,label,split\n0.mp4,left,train\n1.mp4,right,test\n", "train has the label right"),
    ],
)
def test_mistakes_in_the_table_fail_before_anything_is_made(
    clipline, movers, tmp_path, table, said
):
    (movers / "wrong.csv").write_text(table)

    ended = clipline("train", movers / "wrong.csv", "-o", tmp_path / "made", *QUICK)

    assert ended.code == 2
    assert re.search(said, ended.err), ended.err
    assert not (tmp_path / "made").exists()
