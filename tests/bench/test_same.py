"""Whether two runs give the same rows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.bench.same import compare_rows
from pipeline.results import write_rows
from tests.test_results import OPTIONS, finish, good

OTHER = replace(OPTIONS, config_id="fedcba9876543210", recognizer="other")


def write(out, rows, options=OPTIONS):
    write_rows(out, rows, options)
    finish(out, options)
    return out


@pytest.fixture
def one(tmp_path):
    return write(tmp_path / "one", [good("a.mp4", 2), good("b.mp4", 1)])


def test_rows_of_other_configurations_and_orders_can_be_equal(one, tmp_path):
    other = write(tmp_path / "other", [good("b.mp4", 1), good("a.mp4", 2)], OTHER)

    assert compare_rows(one, other) == {
        "equal": True,
        "score_difference": 0.0,
        "clips": 3,
        "segments": 3,
    }


def test_scores_that_differ_are_told_apart_from_rows(one, tmp_path):
    rows = [good("a.mp4", 2), good("b.mp4", 1)]
    clip = rows[0].recognition.clips[0]
    rows[0].recognition.clips[0] = replace(clip, probabilities=clip.probabilities * 0.75)

    said = compare_rows(one, write(tmp_path / "other", rows))

    assert said["equal"]
    assert said["score_difference"] == pytest.approx(0.125)


def test_another_label_is_another_row(one, tmp_path):
    rows = [good("a.mp4", 2), good("b.mp4", 1)]
    clip = rows[0].recognition.clips[0]
    rows[0].recognition.clips[0] = replace(clip, probabilities=clip.probabilities[::-1].copy())

    assert not compare_rows(one, write(tmp_path / "other", rows))["equal"]


def test_a_missing_row_is_seen(one, tmp_path):
    assert not compare_rows(one, write(tmp_path / "other", [good("a.mp4", 2)]))["equal"]
