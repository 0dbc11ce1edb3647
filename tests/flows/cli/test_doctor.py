"""`clipline doctor` as a user runs it."""

from __future__ import annotations

from flows.signals import SOME_FAILED


def test_files_are_reported_as_json(clipline, mixed_folder):
    ended = clipline("doctor", mixed_folder, "--json")

    assert ended.code == SOME_FAILED
    good, empty = ended.json
    assert (good["status"], good["frames_decoded"]) == ("ok", 48)
    assert (empty["status"], empty["frames_decoded"]) == ("not_video", 0)


def test_each_file_is_a_line(clipline, clips_folder):
    lines = clipline("doctor", clips_folder).out.splitlines()

    assert lines[0].startswith("video\tstatus\treader\tcodec")
    assert lines[1].split("\t")[1] == "ok"
    assert lines[1].split("\t")[4:7] == ["96×64", "48 of 48 claimed", "24/s"]
