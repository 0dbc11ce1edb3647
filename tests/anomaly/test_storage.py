"""Saved novelty models: the same scores when loaded; damaged ones are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipeline.anomaly.storage import (
    DESCRIPTION,
    STATISTICS,
    load_novelty,
    save_novelty,
)
from pipeline.errors import RecognizerError
from pipeline.recognition.recognizer import CutSpec
from tests.anomaly.synthetic_features import CUT, fit, make_features, score


@pytest.fixture(scope="module")
def model():
    return fit([make_features(seed) for seed in range(2)], cut=CutSpec(CUT, 10.0))


@pytest.fixture
def folder(model, tmp_path):
    save_novelty(model, tmp_path / "M")
    return tmp_path / "M"


def rewrite(folder, **changes):
    path = folder / DESCRIPTION
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_loaded_model_equals_the_saved_one(model, folder):
    found = load_novelty(folder)

    assert found.identity == model.identity
    assert (found.features, found.cut, found.notes) == (model.features, model.cut, model.notes)
    assert found.folder == folder
    np.testing.assert_array_equal(score(found, make_features(9)), score(model, make_features(9)))


def test_files(folder):
    assert sorted(path.name for path in folder.iterdir()) == [DESCRIPTION, STATISTICS]


def test_a_missing_model_fails(tmp_path):
    with pytest.raises(RecognizerError, match=r"no novelty model .*clipline novelty fit creates"):
        load_novelty(tmp_path)


def test_changed_statistics_fail(folder):
    data = bytearray((folder / STATISTICS).read_bytes())
    data[-1] ^= 1
    (folder / STATISTICS).write_bytes(data)

    with pytest.raises(RecognizerError, match="not the file it was saved with: expected"):
        load_novelty(folder)


def test_missing_statistics_fail(folder):
    (folder / STATISTICS).unlink()

    with pytest.raises(RecognizerError, match="cannot be loaded"):
        load_novelty(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, "has format 99, this Clipline reads 1: update it"),
        ({"features": {}}, "is damaged"),
        ({"cut": {"a": 1}}, "is damaged"),
    ],
)
def test_an_invalid_description_fails(folder, changes, message):
    rewrite(folder, **changes)

    with pytest.raises(RecognizerError, match=message):
        load_novelty(folder)


def test_a_description_that_is_not_json_fails(folder):
    (folder / DESCRIPTION).write_text("{")

    with pytest.raises(RecognizerError, match="is damaged"):
        load_novelty(folder)
