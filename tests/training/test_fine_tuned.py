"""From labelled videos to a recognizer with a backbone of its own, and what becomes of that."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from pipeline.config import EncodeOptions, RunOptions, Sampling
from pipeline.errors import OptionError, RecognizerError
from pipeline.evaluation.evaluate import trained_on
from pipeline.recognition.recognizer import hash_file, load_recognizer
from pipeline.results.tables import load
from pipeline.run.load import load_models
from pipeline.run.process import open_session, process_videos
from pipeline.temporal.options import TemporalOptions, TrainingOptions
from pipeline.temporal.trainer import predict
from pipeline.training.annotations import read_labels
from pipeline.training.build_dataset import find_labelled, gather_examples, with_pictures
from pipeline.training.finetune.encoder import ClipEncoder
from pipeline.training.finetune.options import TuningOptions
from pipeline.training.options import LearningOptions
from pipeline.training.train_recognizer import learn
from tests.videos import write_video

TUNING = TuningOptions(blocks=1, epochs=2, batch_size=2, learning_rate=5e-3, frames=4)
CLIPS = 8


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """What is computed here is small: on a busy machine, threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A backbone in timm's layout that wants small pictures."""
    folder = tmp_path_factory.mktemp("networks") / "net"
    folder.mkdir()
    torch.manual_seed(3)
    made = timm.create_model("test_efficientnet", num_classes=0, pad_type="same")
    save_file(made.state_dict(), folder / "model.safetensors")
    picture = {"input_size": [3, 48, 64], "mean": [0.5] * 3, "std": [0.5] * 3, "license": "mit"}
    config = {**picture, "interpolation": "bilinear", "crop_pct": 1.0}
    said = {
        "architecture": "test_efficientnet",
        "model_args": {"pad_type": "same"},
        "pretrained_cfg": config,
    }
    (folder / "config.json").write_text(json.dumps(said))
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Eight videos of a second, of two labels and four groups, and a table."""
    folder = tmp_path_factory.mktemp("labelled")
    rows = ["video,label,group,split"]
    for n in range(CLIPS):
        write_video(folder / f"{n}.mp4", 24, fps=24, first=n * 100)
        split = "test" if n >= 6 else "validation" if n >= 4 else "train"
        rows.append(f"{n}.mp4,{'odd' if n % 2 else 'even'},g{n // 2},{split}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def options(network):
    run = RunOptions(
        recognizer=None,
        backbone=f"local-dir:{network}",
        tap="blocks.1",
        grid=2,
        sampling=Sampling(fps=8),
        encode=EncodeOptions(device="cpu", precision="float32"),
    )
    training = TrainingOptions(epochs=2, batch_size=4, device="cpu", refit=False)
    return LearningOptions(run, TemporalOptions(size=8), training, tuning=TUNING)


@pytest.fixture(scope="module")
def gathered(videos, options, tmp_path_factory, engine_cache):
    labelled = read_labels(videos / "labels.csv")
    with open_session(tmp_path_factory.mktemp("run"), options.run, engine_cache) as session:
        found = find_labelled(labelled)
        return with_pictures(gather_examples(labelled, session), session, found)


@pytest.fixture(scope="module")
def made(gathered, options, tmp_path_factory):
    """The folder of a recognizer, what was said of it, and the epochs of fine-tuning."""
    out, told = tmp_path_factory.mktemp("made") / "mine", []
    return out, learn(gathered, out, options, on_tuning=told.append), told


def parts(folder):
    return load_models(RunOptions(recognizer=str(folder)))


class TestGather:
    def test_pictures_of_what_is_only_tested_are_not_kept(self, gathered):
        kept = [item.video_id for item in gathered.examples.items]

        assert [gathered.pictures.has(video_id) for video_id in kept] == [True] * 6 + [False] * 2

    def test_each_frame_knows_its_sample(self, gathered):
        assert all(item.sample_index.tolist() == list(range(8)) for item in gathered.examples.items)

    def test_without_pictures_nothing_is_tuned(self, gathered, options, tmp_path):
        with pytest.raises(ValueError, match="call with_pictures first"):
            learn(replace(gathered, pictures=None), tmp_path / "made", options)


class TestMade:
    def test_it_says_what_was_tuned(self, made):
        out, metrics, told = made
        said = metrics["fine_tuning"]

        assert json.loads((out / "metrics.json").read_text()) == metrics
        assert said["kept"] is True
        assert said["blocks"] == ["blocks.1.0"]
        assert said["validation"]["after"]["loss"] < said["validation"]["before"]["loss"]
        assert [epoch.number for epoch in told] == [1, 2]
        assert (out / "fine-tuning.png").exists()
        assert list(out.glob("checkpoint*")) == []

    def test_its_notes_hold_it_without_the_epochs(self, made):
        notes = load_recognizer(made[0]).notes

        assert TuningOptions(**notes["tuning"]) == TUNING
        assert notes["metrics"]["fine_tuning"]["kept"] is True
        assert "history" not in notes["metrics"]["fine_tuning"]

    def test_its_backbone_is_its_own(self, made, gathered):
        recognizer, backbone = parts(made[0])

        assert (made[0] / "backbone.safetensors").exists()
        assert recognizer.backbone.weights_hash == backbone.weights_hash
        assert backbone.weights_hash != gathered.backbone.weights_hash
        assert recognizer.backbone == replace(gathered.backbone, weights_hash=backbone.weights_hash)

    def test_it_says_what_it_was_trained_on(self, made, gathered):
        learned = {item.video_id for item in gathered.examples.items[:6]}

        assert trained_on(load_recognizer(made[0])) == learned

    def test_the_first_weights_are_not_needed(self, made, network, tmp_path):
        (network / "config.json").rename(tmp_path / "config.json")
        try:
            _, backbone = parts(made[0])
        finally:
            (tmp_path / "config.json").rename(network / "config.json")

        assert backbone.licence == "mit"

    def test_run_says_what_training_said(self, made, gathered, videos, tmp_path):
        recognizer, backbone = parts(made[0])
        encoder = ClipEncoder(backbone, gathered.pictures, TrainingOptions(device="cpu"), 4)
        clips = encoder.encoded(gathered.examples.items[:3])
        logits = torch.from_numpy(predict(recognizer.model, clips) / recognizer.temperature)

        paths = [str(videos / f"{n}.mp4") for n in range(3)]
        process_videos(paths, tmp_path, RunOptions(recognizer=str(made[0])))

        scores = np.stack(load(tmp_path, "clips").sort_values("video").scores)
        np.testing.assert_allclose(scores, logits.softmax(1), atol=2e-3)

    def test_the_same_again_is_the_same(self, made, gathered, options, tmp_path):
        learn(gathered, tmp_path / "mine", options)

        assert load_recognizer(tmp_path / "mine").identity == load_recognizer(made[0]).identity

    def test_an_interrupted_one_goes_on(self, made, gathered, options, tmp_path):
        def stop(epoch):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            learn(gathered, tmp_path / "mine", options, on_tuning=stop)
        trained, told = [], []
        learn(
            *(gathered, tmp_path / "mine", options),
            on_epoch=trained.append,
            on_tuning=told.append,
        )

        assert trained == []
        assert [epoch.number for epoch in told] == [2]
        assert load_recognizer(tmp_path / "mine").identity == load_recognizer(made[0]).identity

    def test_what_does_not_help_leaves_the_backbone(self, gathered, options, tmp_path):
        wild = replace(options, tuning=replace(TUNING, epochs=1, learning_rate=50.0))

        metrics = learn(gathered, tmp_path / "mine", wild)

        recognizer = load_recognizer(tmp_path / "mine")
        assert metrics["fine_tuning"]["kept"] is False
        assert recognizer.backbone == gathered.backbone
        assert recognizer.network is None
        assert not (tmp_path / "mine/backbone.safetensors").exists()


class TestTampered:
    @pytest.fixture
    def copy(self, made, tmp_path):
        return shutil.copytree(made[0], tmp_path / "copy")

    @staticmethod
    def change(copy):
        path = copy / "backbone.safetensors"
        state = load_file(path)
        state["blocks.0.0.conv.weight"] += 1
        save_file(state, path)
        return path

    def test_other_weights_fail_with_both_hashes(self, copy, made):
        before = hash_file(made[0] / "backbone.safetensors")
        after = hash_file(self.change(copy))

        with pytest.raises(RecognizerError, match=f"expected {before}, found {after}"):
            parts(copy)

    def test_other_weights_with_their_hash_fail_as_well(self, copy, made):
        expected = load_recognizer(made[0]).backbone.weights_hash
        path = self.change(copy)
        said = json.loads((copy / "recognizer.json").read_text())
        said["weights"]["backbone.safetensors"] = hash_file(path)
        (copy / "recognizer.json").write_text(json.dumps(said))

        with pytest.raises(
            RecognizerError, match=rf"made with weights {expected}, found weights (?!{expected})\w+"
        ):
            parts(copy)

    def test_missing_weights_fail(self, copy):
        (copy / "backbone.safetensors").unlink()

        with pytest.raises(RecognizerError, match=r"incomplete: backbone.safetensors is missing"):
            parts(copy)


def test_the_options_are_plain_json(options):
    assert LearningOptions.from_json(json.loads(json.dumps(options.to_json()))) == options


def test_options_from_before_there_was_tuning_are_read(options):
    said = options.to_json()
    del said["tuning"]

    assert LearningOptions.from_json(said).tuning == TuningOptions()


def test_unknown_options_fail(options):
    with pytest.raises(OptionError, match="invalid options"):
        LearningOptions.from_json({**options.to_json(), "tuning": {"layers": 1}})
