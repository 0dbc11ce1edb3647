"""Clips and recognizers to measure with."""

from __future__ import annotations

from pipeline.config import RunOptions, Sampling
from pipeline.encode.backbone import load_backbone
from pipeline.recognition.recognizer import load_recognizer
from pipeline.run.load import load_models
from pipeline.sources.discovery import find_videos
from tests.benchmarks.synthetic import make_clips, untrained_recognizer


def test_clips_differ(tmp_path):
    found = find_videos([str(make_clips(tmp_path / "clips", 3, (96, 64)))])

    assert len(found) == 3  # copies would be one video


def test_an_untrained_recognizer_can_be_loaded(tmp_path):
    backbone = load_backbone("random:test_resnet")
    one = untrained_recognizer(tmp_path / "one", backbone, Sampling(fps=8), seed=1)
    other = untrained_recognizer(tmp_path / "other", backbone, Sampling(fps=8), seed=2)

    assert load_recognizer(one).backbone.weights_hash == backbone.weights_hash
    assert load_recognizer(one).identity != load_recognizer(other).identity


def test_an_untrained_recognizer_names_its_features(tmp_path):
    backbone = load_backbone("random:test_resnet", layer="layer2", pool_size=2)
    made = untrained_recognizer(
        tmp_path / "one", backbone, Sampling(fps=8), seed=1, tap="layer2", grid=2
    )

    _, found = load_models(RunOptions(recognizer=str(made)))

    assert found.feature_size == backbone.feature_size == 2 * 2 * 48
