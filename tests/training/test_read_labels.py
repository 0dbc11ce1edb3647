from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.training.feature_files import open_feature_files
from pipeline.training.feature_source import FeatureSource
from pipeline.training.labelled import build, find_videos_of
from pipeline.training.options import LabelOptions
from pipeline.training.read_labels import read_labels


@pytest.mark.parametrize("folder", ["../features", "./../features/", "../link"])
def test_features_and_their_labels_are_found_by_relative_paths(tmp_path, monkeypatch, folder):
    (tmp_path / "features").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to("features")
    values = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float16)
    np.savez(tmp_path / "features" / "a.npz", features=values, labels=np.arange(20) // 10)
    monkeypatch.chdir(tmp_path / "here")

    options = LabelOptions()
    labelled = read_labels(Path(folder), None, options, Path(folder))
    files = open_feature_files(Path(folder), 10.0, None)
    dataset = build(labelled, FeatureSource.of_files(files), find_videos_of(labelled), options)

    assert len(dataset.sequences.items) == 1
    assert dataset.skipped == ()
