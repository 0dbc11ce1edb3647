"""Evaluation of labels of frames: baselines, folds, tables and page."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipeline.config import ClipWindows, Sampling
from pipeline.evaluation.evaluate import CrossValidation
from pipeline.evaluation.evaluate_frames import (
    evaluate_frame_folds,
    evaluate_saved_frames,
    make_sequence_folds,
)
from pipeline.evaluation.frame_baselines import (
    LINEAR,
    LINEAR_SMOOTHED,
    FrameClassifier,
    targets_of,
)
from pipeline.evaluation.frame_predictions import predict_sequences
from pipeline.evaluation.frame_report import write_frame_report
from pipeline.evaluation.frame_tables import frame_metrics, write_frame_evaluation
from pipeline.evaluation.predictions import MODEL, PRIOR, SHUFFLED_FRAMES
from pipeline.recognition.recognizer import BackboneSpec
from pipeline.temporal.options import TemporalOptions, TrainingOptions
from pipeline.temporal.sequence_trainer import fit_sequences
from pipeline.temporal.sequences import LabelledSequences
from pipeline.training.sequence_dataset import SequenceDataset
from pipeline.training.train_frames import as_frame_recognizer
from tests.temporal.synthetic_sequences import make_sequence, noisy_segments

EVIL = "<script>alert('\"&x')</script>"
LABELS = ("still", "walk", f"run{EVIL}")
MODEL_OPTIONS = TemporalOptions(cell="gru", size=8, bidirectional=True)
TRAINING = TrainingOptions(
    epochs=6, learning_rate=2e-2, batch_size=4, device="cpu", validation=0.0, label_smoothing=0.0
)
METHODS = [MODEL, SHUFFLED_FRAMES, LINEAR_SMOOTHED, LINEAR, PRIOR]


def make_dataset(items, splits=None, background="still"):
    multi_label = items[0].multi_label
    return SequenceDataset(
        LabelledSequences(tuple(items), LABELS, None if multi_label else background, multi_label),
        tuple(splits or [None] * len(items)),
        BackboneSpec("toy", "0" * 32, 3),
        None,
        Sampling(fps=8),
        ClipWindows(),
        (),
    )


def train(dataset, items):
    result = fit_sequences(items, len(LABELS), MODEL_OPTIONS, TRAINING)
    notes = {"training_videos": [item.video_id for item in items]}
    return as_frame_recognizer("toy", dataset, result, items, notes)


@pytest.fixture(scope="module")
def items():
    return noisy_segments(12)


@pytest.fixture(scope="module")
def saved(items):
    """A recognizer, and its evaluation on four other sequences."""
    splits = ["train"] * 8 + ["test"] * 4
    dataset = make_dataset(items, splits)
    recognizer = train(dataset, dataset.of("train"))
    return recognizer, evaluate_saved_frames(recognizer, dataset)


@pytest.fixture(scope="module")
def folds(items):
    dataset = make_dataset(items[:8])
    recognizer = train(dataset, items[:2])
    plan = CrossValidation(tuple(make_sequence_folds(dataset, 2)), TRAINING, seeds=2)
    seen = []
    found = evaluate_frame_folds(recognizer, dataset, plan, seen.append)
    return found, seen


def mean(evaluation, method, name):
    (scores,) = [one for one in evaluation.methods if one.method == method]
    return np.mean([getattr(metrics, name) for metrics in scores.seeds])


class TestSaved:
    def test_only_the_split_test_is_evaluated(self, saved, items):
        _, found = saved

        assert [one.method for one in found.methods] == METHODS
        for method in METHODS:
            names = [one.video for one in found.frames if one.method == method]
            assert names == [item.name for item in items[8:]]
        assert found.warnings == ()

    def test_time_and_smoothing_help_on_noisy_frames(self, saved):
        """The model is better than single frames, and these than the most frequent label."""
        _, found = saved

        assert mean(found, MODEL, "f1_at_50") > mean(found, SHUFFLED_FRAMES, "f1_at_50") + 0.1
        assert mean(found, LINEAR_SMOOTHED, "f1_at_50") > mean(found, LINEAR, "f1_at_50") + 0.1
        assert mean(found, LINEAR, "frame_accuracy") > mean(found, PRIOR, "frame_accuracy") + 0.1

    def test_the_background_is_left_out_of_segments(self, saved):
        _, found = saved

        count = [one.frame_labels.segments(0) for one in found.frames if one.method == PRIOR]
        assert all(label != 0 for segments in count for *_, label in segments)
        assert frame_metrics(found)["background"] == "still"

    def test_videos_of_the_training_are_reported(self, saved, items):
        recognizer, _ = saved
        found = evaluate_saved_frames(recognizer, make_dataset(items[6:9]))

        assert any(
            "was trained on 2 of 3 videos (sequence6, sequence7)" in w for w in found.warnings
        )
        assert LINEAR in [one.method for one in found.methods]  # fitted to the other groups

    def test_one_group_has_no_baselines(self, saved, items):
        recognizer, _ = saved
        found = evaluate_saved_frames(recognizer, make_dataset(items[8:9]))

        assert [one.method for one in found.methods] == [MODEL, SHUFFLED_FRAMES]
        assert any(w.startswith("no baselines") for w in found.warnings)

    def test_a_missing_split_test_is_reported(self, saved, items):
        recognizer, _ = saved
        found = evaluate_saved_frames(recognizer, make_dataset(items[8:10], ["train", None]))

        assert any("the split test has no usable video" in w for w in found.warnings)


class TestShuffledFrames:
    def test_each_frame_keeps_its_own_prediction(self, items):
        """A model without recurrence predicts the same for each frame in any order."""
        dataset = make_dataset(items)
        options = TemporalOptions(cell="mean", size=8)
        result = fit_sequences(items[:8], len(LABELS), options, TRAINING)
        recognizer = as_frame_recognizer("toy", dataset, result, items[:8], {})

        in_order, shuffled = predict_sequences(recognizer, items[8:9])

        np.testing.assert_array_equal(in_order.predicted, shuffled.predicted)
        np.testing.assert_allclose(in_order.scores, shuffled.scores, atol=1e-5)


class TestFolds:
    def test_every_sequence_is_predicted_by_each_training(self, folds, items):
        found, seen = folds

        assert [(one.fold.name, one.seed) for one in seen] == [
            ("1", 0), ("2", 0), ("1", 1), ("2", 1),
        ]  # fmt: skip
        for method, seeds in ((MODEL, 2), (SHUFFLED_FRAMES, 2), (LINEAR, 1), (PRIOR, 1)):
            names = [one.video for one in found.frames if one.method == method]
            assert sorted(names) == sorted([item.name for item in items[:8]] * seeds)

    def test_metrics_are_given_per_fold_and_seed(self, folds):
        found, seen = folds
        rows = frame_metrics(found)["fold_metrics"]

        assert [(row["fold"], row["seed"], row["videos"]) for row in rows] == [
            ("1", 0, 4), ("2", 0, 4), ("1", 1, 4), ("2", 1, 4),
        ]  # fmt: skip
        assert [row["frame_accuracy"] for row in rows] == [
            pytest.approx(one.accuracy) for one in seen
        ]
        labels = [row["label"] for row in frame_metrics(found)["classes"]]
        assert labels == list(LABELS)
        assert len(frame_metrics(found)["methods"][MODEL]["f1_at_50"]["seeds"]) == 2


class TestBaselines:
    def test_ignored_frames_are_not_learned(self):
        """Frames with the wrong label are ignored, so the classifier is perfect."""
        features = np.array([[0.0], [1.0]] * 20)
        targets = np.array([0, 1] * 20)
        item = make_sequence(np.where(np.arange(40) < 20, targets, -1), features)
        broken = replace(item, mask=np.arange(40) != 0)
        classifier = FrameClassifier.fit([broken], 2)

        assert (classifier.probabilities(item).argmax(1) == targets).all()
        assert targets_of(broken).tolist() == [-1, *targets[1:20], *[-1] * 20]

    def test_labels_without_frames_are_unlikely(self):
        item = make_sequence(np.array([0, 1] * 10), np.array([[0.0], [1.0]] * 10))

        assert FrameClassifier.fit([item], 3).probabilities(item)[:, 2].max() < 1e-6


class TestSeveralLabels:
    def test_all_methods(self):
        items = noisy_segments(8, multi_label=True, noise=0.3)
        dataset = make_dataset(items, ["train"] * 6 + ["test"] * 2)
        found = evaluate_saved_frames(train(dataset, items[:6]), dataset)

        assert [one.method for one in found.methods] == METHODS
        assert mean(found, LINEAR_SMOOTHED, "frame_f1") > 0.9
        assert mean(found, PRIOR, "frame_f1") == 0


class TestFiles:
    def test_tables(self, folds, tmp_path):
        found, _ = folds
        write_frame_evaluation(found, tmp_path)

        frames = pd.read_parquet(tmp_path / "sequences.parquet")
        model = frames[(frames.method == MODEL) & (frames.seed == 1)]
        wanted = json.loads((tmp_path / "metrics.json").read_text())
        accuracy = wanted["methods"][MODEL]["frame_accuracy"]["seeds"][1]
        assert (model.label == model.predicted).mean() == pytest.approx(accuracy)
        segments = pd.read_parquet(tmp_path / "segments.parquet")
        truth = segments[segments.method == "truth"]
        lengths = (truth.end_seconds - truth.start_seconds).groupby(truth.video).sum()
        assert lengths.to_dict() == pytest.approx(
            {video: len(part) / 8 for video, part in model.groupby("video")}
        )

    def test_several_labels_of_a_frame_are_joined(self, tmp_path):
        items = noisy_segments(3, multi_label=True)
        both = replace(items[2], targets=items[2].targets | np.array([True, False, True]))
        dataset = make_dataset([*items[:2], both], ["train", "train", "test"])
        write_frame_evaluation(evaluate_saved_frames(train(dataset, items[:2]), dataset), tmp_path)

        frames = pd.read_parquet(tmp_path / "sequences.parquet")
        assert set(frames.label) <= {f"still|run{EVIL}", f"still|walk|run{EVIL}"}

    def test_several_labels_have_a_lane_each(self, tmp_path):
        items = noisy_segments(3, multi_label=True)
        dataset = make_dataset(items, ["train", "train", "test"])
        found = evaluate_saved_frames(train(dataset, items[:2]), dataset)
        page = write_frame_report(found, tmp_path).read_text()

        (model,) = [one for one in found.frames if one.method == MODEL]
        occurs = int((model.target | model.predicted).any(axis=0).sum())
        assert page.count('<svg class="timeline"') == 2 * occurs

    def test_the_page_shows_two_lanes_and_escapes_names(self, folds, tmp_path):
        found, _ = folds
        page = write_frame_report(found, tmp_path).read_text()

        assert "<script>" not in page
        assert page.count('<svg class="timeline"') == 2 * 8
        assert "cross-validation with 2 folds, 2 trainings per fold" in page
        assert "Segments of still are left out" in page
        assert '<td class="name">sequence0</td>' in page
        assert f"{mean(found, MODEL, 'f1_at_50'):.3f} ±" in page
