"""`clipline recognizers` as a user runs it."""

from __future__ import annotations


def test_the_bundled_recognizer_is_shown(clipline):
    ended = clipline("recognizers")

    assert ended.code == 0
    assert "camera-motion" in ended.out
    assert "pan_left" in ended.out


def test_a_saved_recognizer_is_shown(clipline, tiny_recognizer):
    found = clipline("recognizers", tiny_recognizer, "--json").json

    assert found[0]["labels"] == ["left", "right", "still"]
