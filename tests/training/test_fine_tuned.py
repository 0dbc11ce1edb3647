"""From annotations to a recognizer with a fine-tuned backbone, and its use."""

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
from pipeline.run.features import ensure_features
from pipeline.run.load import load_models, open_session
from pipeline.run.process import process_videos
from pipeline.temporal.options import TemporalOptions, TrainingOptions
from pipeline.temporal.trainer import predict
from pipeline.training.annotations import read_annotations
from pipeline.training.build_dataset import add_frame_cache, build_dataset, find_labelled_videos
from pipeline.training.feature_source import FeatureSource
from pipeline.training.finetune.encoder import ClipEncoder
from pipeline.training.finetune.options import TuningOptions
from pipeline.training.options import LearningOptions
from pipeline.training.train_recognizer import train_recognizer
from tests.videos import write_video

TUNING = TuningOptions(blocks=1, epochs=2, batch_size=2, learning_rate=5e-3, frames=4)
CLIPS = 8


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """The networks are small: with several threads, these tests would be slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A backbone with small inputs, in the format of timm."""
    folder = tmp_path_factory.mktemp("networks") / "net"
    folder.mkdir()
    torch.manual_seed(3)
    made = timm.create_model("test_efficientnet", num_classes=0, pad_type="same")
    save_file(made.state_dict(), folder / "model.safetensors")
    picture = {"input_size": [3, 48, 64], "mean": [0.5] * 3, "std": [0.5] * 3, "license": "mit"}
    config = {**picture, "interpolation": "bilinear", "crop_pct": 1.0}
    metadata = {
        "architecture": "test_efficientnet",
        "model_args": {"pad_type": "same"},
        "pretrained_cfg": config,
    }
    (folder / "config.json").write_text(json.dumps(metadata))
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
def options(network, tmp_path_factory):
    run = RunOptions(
        recognizer=None,
        backbone=f"local-dir:{network}",
        tap="blocks.1",
        grid=2,
        sampling=Sampling(fps=8),
        encode=EncodeOptions(device="cpu", precision="float32"),
        features=str(tmp_path_factory.mktemp("features")),
    )
    training = TrainingOptions(epochs=2, batch_size=4, device="cpu", refit=False)
    return LearningOptions(run, TemporalOptions(size=8), training, tuning=TUNING)


@pytest.fixture(scope="module")
def dataset(videos, options, tmp_path_factory, engine_cache):
    annotations = read_annotations(videos / "labels.csv")
    with open_session(None, options.run, engine_cache) as session:
        found = find_labelled_videos(annotations)
        not_stored = ensure_features(session, found)
        dataset = build_dataset(annotations, FeatureSource.of_session(session, not_stored), found)
        return add_frame_cache(dataset, session, found)


@pytest.fixture(scope="module")
def made(dataset, options, tmp_path_factory):
    """The folder of a recognizer, its metrics, and the epochs of fine-tuning."""
    out, epochs = tmp_path_factory.mktemp("made") / "mine", []
    return out, train_recognizer(dataset, out, options, on_finetune_epoch=epochs.append), epochs


def parts(folder):
    return load_models(RunOptions(recognizer=str(folder)))


class TestDataset:
    def test_frames_of_test_clips_are_not_cached(self, dataset):
        videos = [item.video_id for item in dataset.examples.items]

        assert [dataset.frame_cache.has(video_id) for video_id in videos] == [True] * 6 + [
            False
        ] * 2

    def test_frames_have_their_sample_index(self, dataset):
        assert all(item.sample_index.tolist() == list(range(8)) for item in dataset.examples.items)

    def test_fine_tuning_without_cached_frames_fails(self, dataset, options, tmp_path):
        with pytest.raises(ValueError, match="call add_frame_cache first"):
            train_recognizer(replace(dataset, frame_cache=None), tmp_path / "made", options)


class TestMade:
    def test_its_metrics_describe_fine_tuning(self, made):
        out, metrics, epochs = made
        found = metrics["fine_tuning"]

        assert json.loads((out / "metrics.json").read_text()) == metrics
        assert found["kept"] is True
        assert found["blocks"] == ["blocks.1.0"]
        assert found["validation"]["after"]["loss"] < found["validation"]["before"]["loss"]
        assert [epoch.number for epoch in epochs] == [1, 2]
        assert (out / "fine-tuning.png").exists()
        assert list(out.glob("checkpoint*")) == []

    def test_its_metadata_have_the_metrics_without_history(self, made):
        notes = load_recognizer(made[0]).notes

        assert TuningOptions(**notes["tuning"]) == TUNING
        assert notes["metrics"]["fine_tuning"]["kept"] is True
        assert "history" not in notes["metrics"]["fine_tuning"]

    def test_it_has_its_own_backbone(self, made, dataset):
        recognizer, backbone = parts(made[0])

        assert (made[0] / "backbone.safetensors").exists()
        assert recognizer.backbone.weights_hash == backbone.weights_hash
        assert backbone.weights_hash != dataset.backbone.weights_hash
        assert recognizer.backbone == replace(dataset.backbone, weights_hash=backbone.weights_hash)

    def test_its_metadata_list_the_training_videos(self, made, dataset):
        videos = {item.video_id for item in dataset.examples.items[:6]}

        assert trained_on(load_recognizer(made[0])) == videos

    def test_the_original_weights_are_not_needed(self, made, network, tmp_path):
        (network / "config.json").rename(tmp_path / "config.json")
        try:
            _, backbone = parts(made[0])
        finally:
            (tmp_path / "config.json").rename(network / "config.json")

        assert backbone.licence == "mit"

    def test_run_gives_the_predictions_of_training(self, made, dataset, videos, tmp_path):
        recognizer, backbone = parts(made[0])
        encoder = ClipEncoder(backbone, dataset.frame_cache, TrainingOptions(device="cpu"), 4)
        clips = encoder.encode_examples(dataset.examples.items[:3])
        logits = torch.from_numpy(predict(recognizer.model, clips) / recognizer.temperature)

        paths = [str(videos / f"{n}.mp4") for n in range(3)]
        process_videos(paths, tmp_path, RunOptions(recognizer=str(made[0])))

        scores = np.stack(load(tmp_path, "clips").sort_values("video").scores)
        np.testing.assert_allclose(scores, logits.softmax(1), atol=2e-3)

    def test_training_is_reproducible(self, made, dataset, options, tmp_path):
        train_recognizer(dataset, tmp_path / "mine", options)

        assert load_recognizer(tmp_path / "mine").identity == load_recognizer(made[0]).identity

    def test_an_interrupted_training_is_resumed(self, made, dataset, options, tmp_path):
        def stop(epoch):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train_recognizer(dataset, tmp_path / "mine", options, on_finetune_epoch=stop)
        trained, finetuned = [], []
        train_recognizer(
            *(dataset, tmp_path / "mine", options),
            on_epoch=trained.append,
            on_finetune_epoch=finetuned.append,
        )

        assert trained == []
        assert [epoch.number for epoch in finetuned] == [2]
        assert load_recognizer(tmp_path / "mine").identity == load_recognizer(made[0]).identity

    def test_fine_tuning_that_does_not_help_is_discarded(self, dataset, options, tmp_path):
        wild = replace(options, tuning=replace(TUNING, epochs=1, learning_rate=50.0))

        metrics = train_recognizer(dataset, tmp_path / "mine", wild)

        recognizer = load_recognizer(tmp_path / "mine")
        assert metrics["fine_tuning"]["kept"] is False
        assert recognizer.backbone == dataset.backbone
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
        metadata = json.loads((copy / "recognizer.json").read_text())
        metadata["weights"]["backbone.safetensors"] = hash_file(path)
        (copy / "recognizer.json").write_text(json.dumps(metadata))

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


def test_options_of_versions_without_fine_tuning_are_read(options):
    metadata = options.to_json()
    del metadata["tuning"]

    assert LearningOptions.from_json(metadata).tuning == TuningOptions()


def test_unknown_options_fail(options):
    with pytest.raises(OptionError, match="invalid options"):
        LearningOptions.from_json({**options.to_json(), "tuning": {"layers": 1}})
