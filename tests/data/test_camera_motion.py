"""The bundled recognizer has the accuracy of its model card."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from data.camera_motion import check as check
from data.camera_motion import train
from data.camera_motion.drawing import LABELS
from data.camera_motion.train import (
    CameraMotion,
    SyntheticBatches,
    as_recognizer,
    evaluate,
    flip_batch,
    losses,
)
from pipeline.config import RunOptions
from pipeline.encode.frame_pair import load_frame_pair
from pipeline.recognition.recognizer import (
    BACKBONE_WEIGHTS,
    bundled_recognizers,
    find_recognizer,
    load_recognizer,
)
from pipeline.results.tables import load, write_run
from pipeline.run.load import open_session
from pipeline.run.process import run
from pipeline.sources.discovery import find_videos

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model() -> CameraMotion:
    """The bundled networks, as for training."""
    recognizer = load_recognizer("camera-motion")
    model = CameraMotion()
    model.backbone = load_frame_pair(recognizer.folder / BACKBONE_WEIGHTS).module
    model.temporal = recognizer.model
    return model.eval()


def test_it_is_bundled_and_small():
    folder = find_recognizer("camera-motion")

    assert bundled_recognizers() == ["camera-motion"]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5_000_000
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}


def test_it_has_notes_on_its_training():
    recognizer = load_recognizer("camera-motion")

    assert recognizer.labels == LABELS
    assert recognizer.notes["licence"] == "Apache-2.0"
    assert "drawn" in recognizer.notes["training"]


def test_accuracy_on_synthetic_video_from_another_seed(model):
    """A tenth of the videos of the model card, so the limits are lower."""
    measured = evaluate(model, batches=6, workers=0, only_visible=True)

    assert measured["clip_accuracy"] >= 0.955
    assert measured["cut_f1"] >= 0.93


def test_batches_depend_on_seed_and_number_only():
    a, b = SyntheticBatches(7, 400)[3], SyntheticBatches(7, 400)[3]

    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(a[0], SyntheticBatches(8, 400)[3][0])


def test_a_reused_batch_equals_one_drawn_again(monkeypatch):
    monkeypatch.setattr(train, "REUSE_DISTANCE", 2)
    used, fresh = SyntheticBatches(7, 400, uses=3), SyntheticBatches(7, 400, uses=3)
    seen = [used[number] for number in range(8)]

    assert all(torch.equal(x, y) for x, y in zip(seen[7], fresh[7], strict=True))
    assert torch.equal(seen[7][2].amax(1), seen[0][2].amax(1))  # batch 0, for the second time


@pytest.mark.parametrize("seed", range(8))
def test_a_flipped_batch_has_the_labels_of_its_motion(seed):
    """Phase correlation measures the motion of a flipped pan or tilt."""
    rng = np.random.default_rng(3)
    texture = np.kron(rng.integers(0, 255, (40, 50), np.uint8), np.ones((6, 6), np.uint8))
    ways = {1: (4, 0), 2: (-4, 0), 3: (0, -4), 4: (0, 4)}
    images, labels = [], []
    for label, (right, down) in ways.items():
        corners = [(80 + down * t, 100 + right * t) for t in range(6)]
        images.append(np.stack([texture[y : y + 72, x : x + 96] for y, x in corners]))
        labels.append([-100] + [label] * 5)
    batch = (
        torch.from_numpy(np.stack(images)[..., None].repeat(3, -1)),
        torch.tensor(labels),
        torch.zeros(4, 6, dtype=torch.long),
        torch.ones(4, dtype=torch.bool),
    )

    flipped, flipped_labels, shots, _ = flip_batch(batch, np.random.default_rng(seed))

    assert (shots == 0).all()
    for row, names in zip(flipped.numpy(), flipped_labels.numpy(), strict=True):
        assert names[0] == -100
        before, after = row[2, ..., 0].astype(np.float32), row[3, ..., 0].astype(np.float32)
        (x, y), _ = cv2.phaseCorrelate(before, after)
        assert ways[names[3]] == (-round(x), -round(y))


def test_a_batch_reversed_in_time_keeps_its_cuts():
    batch = (
        torch.zeros(1, 5, 4, 4, 3, dtype=torch.uint8),
        torch.tensor([[-100, 1, 1, -100, 5]]),
        torch.tensor([[0, 0, 0, 1, 1]]),
        torch.ones(1, dtype=torch.bool),
    )
    seen = {
        (tuple(labels[0].tolist()), tuple(shots[0].tolist()))
        for _, labels, shots, _ in (flip_batch(batch, np.random.default_rng(s)) for s in range(40))
    }

    assert seen == {
        ((-100, 1, 1, -100, 5), (0, 0, 0, 1, 1)),
        ((-100, 2, 2, -100, 5), (0, 0, 0, 1, 1)),
        ((-100, 6, -100, 2, 2), (0, 0, 1, 1, 1)),
        ((-100, 6, -100, 1, 1), (0, 0, 1, 1, 1)),
    }


def test_training_reduces_the_loss():
    """In a few steps on one batch."""
    torch.manual_seed(0)
    model = CameraMotion().train()
    batch = tuple(part[:8] for part in SyntheticBatches(0, 1)[0])
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    seen = []
    for _ in range(12):
        loss = sum(losses(model, batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())

    assert seen[-1] < 0.7 * seen[0]


def test_a_recognizer_is_made_of_the_trained_networks():
    recognizer = as_recognizer(CameraMotion(), {"licence": "Apache-2.0"})

    assert recognizer.cut.feature == recognizer.backbone.feature_size - 1
    assert recognizer.model.inputs.scale[-1] == 0


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Path:
    """Results of the sample videos of the project."""
    out = tmp_path_factory.mktemp("samples")
    sources = [str(ROOT / "data" / "videos"), str(ROOT / "data" / "image_sequence")]
    with open_session(out, RunOptions(image_fps=12)) as session:
        assert run(session, find_videos(sources, image_fps=12)) == []
        write_run(out, {"config_id": session.config.config_id, "configuration": session.describe()})
    return out


def test_every_sample_has_the_label_of_the_table(samples):
    labels = pd.read_csv(ROOT / "data" / "labels.csv").set_index("video").label
    clips = load(samples)
    clips["name"] = clips.video.map(lambda path: str(Path(path).relative_to(ROOT / "data")))
    labelled = clips[clips.name.isin(labels.index)]

    assert set(labelled.name) == set(labels.index)
    assert (labelled.label == labelled.name.map(labels)).all()


def test_the_cuts_of_the_sample_are_found(samples):
    segments = load(samples, "segments")
    cuts = segments[segments.video.str.endswith("cuts.mp4")]

    starts = cuts.groupby("shot_index").start_seconds.min()
    assert starts.tolist() == pytest.approx([0.0, 2.0, 4.0], abs=0.13)
    assert cuts.label.tolist() == ["static", "pan_right", "zoom_in"]


def test_the_broken_sample_is_partial(samples):
    videos = load(samples, "videos").set_index("video")
    broken = videos[videos.index.str.endswith("broken.mp4")].iloc[0]

    assert broken.status == "partial"
    assert 0 < broken.frames_decoded < broken.frames_from_header


class TestCheck:
    """The evaluation script, here on synthetic frames."""

    @pytest.fixture
    def frame(self):
        rng = np.random.default_rng(4)
        small = rng.integers(0, 255, (30, 40, 3), np.uint8)
        return np.kron(small, np.ones((12, 12, 1), np.uint8))

    @pytest.mark.parametrize("label", range(len(LABELS)), ids=LABELS)
    def test_windows_stay_inside_the_frame(self, frame, label):
        bordered = frame.copy()
        bordered[[0, -1]] = bordered[:, [0, -1]] = (255, 0, 255)
        speed = max(check.SPEEDS[LABELS[label].split("_")[0]])

        images = check.moving_window([bordered], label, speed)

        assert len(images) == 50
        for image in (images[0], images[-1]):
            magenta = (image == (255, 0, 255)).all(2)
            assert not magenta.any()

    def test_cuts_are_matched_once_each(self):
        truth = [{"file": "a", "cuts": [1.0, 2.0, 3.0]}]
        starts = [0.0, 1.05, 2.5, 3.1, 3.12]
        segments = pd.DataFrame({"file": "a", "shot_index": range(5), "start_seconds": starts})

        measured = check.check_cuts(truth, segments)

        assert measured["precision"] == 2 / 4
        assert measured["recall"] == 2 / 3


@pytest.mark.slow
def test_real_footage(shared, tmp_path, capsys, monkeypatch):
    """Moving windows, joined clips, and static cameras."""
    clips = tmp_path / "clips"
    clips.mkdir()
    wanted = sorted((shared / "data/clips").glob("*.m*"))
    wanted += sorted((shared / "data/ut_interaction").glob("*.avi"))[::4]
    for path in wanted:
        (clips / path.name).symlink_to(path)
    static = str(shared / "data/ut_interaction")
    monkeypatch.setattr("sys.argv", ["check", str(clips), "--static", static])

    check.main()

    measured = json.loads(capsys.readouterr().out)
    assert measured["windows"]["accuracy"] >= 0.95
    assert measured["playing"]["accuracy"] >= 0.95
    assert measured["cuts"]["f1"] >= 0.95
    assert measured["static"]["labelled_static"] >= 0.95
