"""The commands `train`, `evaluate` and `run` on time lines, as a user runs them."""

from __future__ import annotations

import json

import av
import numpy as np
import pandas as pd
import pytest

from flows.cli.app import run_command
from pipeline.recognition.recognizer import load_recognizer

FPS = 8
LABELS = ("left", "right")
QUICK = ("--size", "16", "--no-bidirectional", "--batch-size", "2", "--learning-rate", "0.01")


def random_parts(rng, seconds):
    """Draw parts (start, end, label) with pauses of half a second to a second, in seconds."""
    parts, now = [], 0.5
    while now + 2 <= seconds:
        end = now + rng.integers(2, 5) / 2
        parts.append((now, min(end, seconds), LABELS[len(parts) % 2]))
        now = end + rng.integers(1, 3) / 2
    return parts


def label_of(parts, second):
    found = [label for start, end, label in parts if start <= second < end]
    return found[0] if found else "background"


def write_features(folder, *, seed, splits=False):
    """Write features of eight videos from which labels can be told, and their labels."""
    rng = np.random.default_rng(seed)
    rows, lines = ["video,label,start_seconds,end_seconds"], ["split,video,part"]
    (folder / "frames").mkdir(parents=True)
    for number in range(8):
        parts = random_parts(rng, 12)
        names = [label_of(parts, frame / FPS) for frame in range(12 * FPS)]
        means = np.array([[("background", *LABELS).index(name) == k for k in range(3)]
                          for name in names])  # fmt: skip
        features = (means + 0.3 * rng.normal(size=means.shape)).astype(np.float32)
        np.save(folder / f"v{number}.npy", features)
        (folder / "frames" / f"v{number}.txt").write_text("\n".join(names) + "\n")
        rows += [f"v{number},{label},{start},{end}" for start, end, label in parts]
        lines.append(f"a,v{number},{'test' if number > 5 else 'train'}")
    (folder / "labels.csv").write_text("\n".join(rows))
    (folder / "splits.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return write_features(tmp_path_factory.mktemp("features"), seed=1)


def test_features_made_elsewhere_are_learned_and_evaluated(clipline, features, tmp_path):
    """The table of rows and the folder of a label a frame mean the same."""
    made, out = tmp_path / "made", tmp_path / "evaluation"
    source = ("--features-from", features)
    split = ("--splits", features / "splits.csv", "--split", "a")
    rate = ("--features-fps", FPS, "--epochs", 12)
    model = ("--cell", "gru", "--layers", 1, "--refine", 0, "--mix", 0, "--steps-per-second", 0)
    trained = clipline(
        "train", features / "labels.csv", *source, *split, *rate, "-o", made, *model, *QUICK
    )

    assert trained.code == 0, trained.err
    assert "task frames: a label for each frame of 8 videos" in trained.err
    assert "with 3 labels" in trained.out
    recognizer = load_recognizer(made)
    assert (recognizer.task, recognizer.background) == ("frames", "background")
    assert recognizer.segments is not None

    judged = clipline("evaluate", made, features / "frames", *source, *split, "-o", out, "--json")

    assert judged.code == 0, judged.err
    found = json.loads(judged.out)["methods"]["model"]
    assert found["frame_accuracy"]["mean"] > 0.9
    assert found["f1_at_50"]["mean"] > 0.8

    refused = clipline("run", features / "labels.csv", "-o", tmp_path / "out", "--recognizer", made)

    assert refused.code == 2
    assert "was trained on features made elsewhere" in refused.err
    assert refused.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--features-from", "."), "add --features-fps"),
        (("--features-fps", "8"), "add that"),
        (("--split", "1", "--backbone", "random:test_resnet"), "add --splits"),
        (("--task", "clips"), "add --backbone NAME, or --features-from DIR"),
        (("--features-from", ".", "--features-fps", "8", "--grid", "2"), "--grid needs videos"),
        (("--multi-label", "--unlabelled", "ignore"), "remove --unlabelled ignore"),
        (("--fine-tune", "1", "--task", "frames"), "--fine-tune needs clips"),
    ],
)
def test_options_that_do_not_fit_are_refused(features, capsys, monkeypatch, options, message):
    monkeypatch.chdir(features)
    (features / "clips.csv").write_text("video,label\nv0.npy,left\nv1.npy,right\n")

    code = run_command(["train", "clips.csv", "-o", "made", *options])

    printed = capsys.readouterr().err
    assert code == 2
    assert message in printed.splitlines()[-1]
    assert not (features / "made").exists()


def draw_movers(path, parts, seconds):
    """Draw a square that moves to the left or right in the labelled parts, and rests between."""
    x = 40
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=FPS, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for frame in range(seconds * FPS):
            moves = {"left": -6, "right": 6}
            x = (x + moves.get(label_of(parts, frame / FPS), 0)) % 96
            picture = np.full((64, 96, 3), 60, np.uint8)
            columns = (np.arange(16) + x) % 96
            picture[24:40, columns] = 240
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode())


@pytest.fixture(scope="module")
def movers(tmp_path_factory):
    """Six videos of 12 seconds, and a table of what happens when."""
    folder, rng = tmp_path_factory.mktemp("movers"), np.random.default_rng(2)
    rows = ["video,label,start_seconds,end_seconds"]
    for number in range(6):
        parts = random_parts(rng, 12)
        draw_movers(folder / f"{number}.mp4", parts, 12)
        rows += [f"{number}.mp4,{label},{start},{end}" for start, end, label in parts]
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


def test_time_lines_of_videos_are_learned_and_recognized(clipline, movers, tmp_path):
    made, out = tmp_path / "made", tmp_path / "out"
    trained = clipline(
        *("train", movers / "labels.csv", "-o", made, "--backbone", "random:test_resnet"),
        *("--grid", 4, "--epochs", 40, "--differences", "--rectified", *QUICK),
    )

    assert trained.code == 0, trained.err
    assert "task frames" in trained.err

    ended = clipline("run", movers / "0.mp4", "-o", out, "--recognizer", made, "--frames")

    assert ended.code == 0, ended.err
    segments = pd.read_parquet(out / "segments").sort_values("start_seconds")
    assert segments.start_seconds.iloc[0] == 0
    assert segments.end_seconds.iloc[-1] == pytest.approx(12)
    labels = pd.read_csv(movers / "labels.csv")
    truth = [row for row in labels[labels.video == "0.mp4"].itertuples()]
    frames = pd.read_parquet(out / "frames")
    wanted = [
        label_of([(r.start_seconds, r.end_seconds, r.label) for r in truth], second)
        for second in frames.pts_seconds
    ]
    assert (frames.label == wanted).mean() > 0.8
