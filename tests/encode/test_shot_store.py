"""Shots beside the features: written atomically, found by later runs, forgotten."""

from __future__ import annotations

import json

import pytest

from pipeline.encode.shot_store import FoundShots, Shots, ShotStore, Transition


def found(video_id, start=0, stop=8, total=8, name="x"):
    return FoundShots(video_id, start, stop, total, {"events": [], "name": name})


def test_a_later_run_finds_what_was_written(tmp_path):
    ShotStore(tmp_path).write([found("a"), found("b")], keep={"a"})
    store = ShotStore(tmp_path)

    assert store.find("a") == [{"events": [], "name": "x"}]
    assert store.has("a")
    assert not store.has("b")


def test_what_is_not_kept_is_remembered(tmp_path):
    store = ShotStore(tmp_path)
    store.write([found("a")], keep=())

    assert store.has("a")
    assert list(tmp_path.iterdir()) == []


def test_all_chunks_of_a_video_are_needed(tmp_path):
    store = ShotStore(tmp_path)
    store.write([found("a", 4, 8, name="second")], keep={"a"})
    assert store.find("a") is None

    store.write([found("a", 0, 4, name="first")], keep={"a"})
    assert [chunk["name"] for chunk in ShotStore(tmp_path).find("a")] == ["first", "second"]


def test_forgotten_shots_are_gone_for_later_runs(tmp_path):
    store = ShotStore(tmp_path)
    store.write([found("a"), found("b")], keep={"a", "b"})
    store.forget({"a"})

    for known in (store, ShotStore(tmp_path)):
        assert not known.has("a")
        assert known.has("b")


@pytest.mark.parametrize("content", ["", "{", json.dumps({"version": 99, "chunks": []}), "[]"])
def test_damaged_files_and_other_versions_are_not_used(tmp_path, content):
    ShotStore(tmp_path).write([found("a")], keep={"a"})
    (path,) = tmp_path.iterdir()
    path.write_text(content)

    assert not ShotStore(tmp_path).has("a")


def test_the_first_shot_starts_with_the_video():
    shots = Shots((Transition(7, 0.5, "cut", 0.9),))

    assert shots.start_frames.tolist() == [0, 7]
    assert shots.start_seconds.tolist() == [0.0, 0.5]
