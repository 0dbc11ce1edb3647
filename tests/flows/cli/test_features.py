"""`clipline features` as a user runs it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pipeline.results.tables import load


def test_only_features_are_written(clipline, clips_folder, tmp_path):
    ended = clipline(
        *("features", clips_folder, "-o", tmp_path, "--backbone", "random:test_resnet", "--json")
    )

    assert ended.code == 0, ended.err
    assert ended.json["counts"]["frames_encoded"] == 32
    stored = pd.read_parquet(tmp_path / "features")
    assert len(stored) == 32
    loaded = load(tmp_path, "features")
    assert loaded.video.unique().tolist() == load(tmp_path, "videos").video.tolist()
    assert np.stack(loaded.feature).tolist() == np.stack(stored.feature).tolist()
    assert len(stored.feature[0]) == ended.json["configuration"]["feature_size"]
