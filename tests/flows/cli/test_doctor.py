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


def test_copies_are_listed(clipline, clips_folder, tmp_path):
    (source,) = list(clips_folder.glob("*.mp4"))[:1]
    (tmp_path / "a.mp4").write_bytes(source.read_bytes())
    (tmp_path / "b.mp4").write_bytes(source.read_bytes())
    (tmp_path / "c.mp4").symlink_to("a.mp4")

    _, a, b, c, *_, last = clipline("doctor", tmp_path).out.splitlines()

    assert [line.split("\t")[0] for line in (a, b, c)] == [
        str(tmp_path / name) for name in ("a.mp4", "b.mp4", "c.mp4")
    ]
    assert b.endswith(f"same content as {tmp_path}/a.mp4")
    assert last == "3 files, 0 not fully decodable"
