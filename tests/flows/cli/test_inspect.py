"""`clipline inspect` as a user runs it."""

from __future__ import annotations


def test_labels_are_counted(clipline, clips_folder, tiny_recognizer, tmp_path):
    clipline("run", clips_folder, "-o", tmp_path, "--recognizer", tiny_recognizer)
    found = clipline("inspect", tmp_path, "--json").json

    assert found["videos"] == 2
    assert sum(found["labels"].values()) == found["clips"] == 4
    assert found["failures"] == []
