"""Rows of files that were deleted: they are found, and dropped from every table."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from pipeline.results.deleted_files import deleted_files, drop_deleted, file_exists, find_deleted
from pipeline.results.tables import FinishedVideo, load, write_rows
from tests.results.example_rows import FULL, OPTIONS, bad, finish, good

TABLES = ("clips", "segments", "frames", "videos")


@pytest.fixture
def place(tmp_path):
    """Give the rows of a video, and write the file."""

    def write(rows, *, there=True):
        copies = tuple((name, str(tmp_path / name)) for name, _ in rows.video.copies)
        video = replace(rows.video, location=str(tmp_path / rows.video.path), copies=copies)
        for name in (video.path, *(name for name, _ in copies)):
            if there:
                (tmp_path / name).write_bytes(b"")
        return replace(rows, video=video)

    return write


def test_rows_of_deleted_files_are_dropped_from_every_table(place, tmp_path):
    out = tmp_path / "out"
    write_rows(out, [place(good("a.mp4")), place(good("b.mp4"))], FULL)
    write_rows(out, [place(good("c.mp4")), place(bad("lost.mp4", "missing"), there=False)], FULL)
    finish(out)
    (tmp_path / "b.mp4").unlink()
    (tmp_path / "c.mp4").unlink()

    found, others = find_deleted(out)
    for config_id, rows in found.items():
        drop_deleted(out, config_id, rows)

    assert sorted(row.video for row in found[FULL.config_id]) == ["b.mp4", "c.mp4"]
    assert others == 1
    for table in TABLES:
        left = {"a.mp4", "lost.mp4"} if table == "videos" else {"a.mp4"}
        assert set(load(out, table).video) == left
    assert find_deleted(out) == ({}, 1)


def test_every_configuration_is_searched(place, tmp_path):
    out, other = tmp_path / "out", replace(OPTIONS, config_id="f" * 16)
    for options in (OPTIONS, other):
        write_rows(out, [place(good("a.mp4"))], options)
    (tmp_path / "a.mp4").unlink()

    assert sorted(find_deleted(out)[0]) == sorted([OPTIONS.config_id, other.config_id])


def test_copies_that_exist_keep_their_rows(place, tmp_path):
    """The first copy becomes the original of the others."""
    out = tmp_path / "out"
    copies = (("b.mp4", ""), ("c.mp4", ""))
    write_rows(out, [place(good("a.mp4", copies=copies))], FULL)
    finish(out)
    (tmp_path / "a.mp4").unlink()

    found, _ = find_deleted(out)
    drop_deleted(out, FULL.config_id, found[FULL.config_id])

    videos = load(out, "videos")
    assert videos.video.tolist() == ["b.mp4", "c.mp4"]
    assert videos.copy_of.fillna("").tolist() == ["", "b.mp4"]
    assert set(load(out).video) == {"b.mp4", "c.mp4"}


def test_names_that_are_not_utf_8_are_found(tmp_path):
    raw = os.path.join(os.fsencode(tmp_path), b"caf\xe9.mp4")
    with open(raw, "wb"):
        pass

    assert file_exists(f"{tmp_path}/caf\\xe9.mp4")
    assert not file_exists(f"{tmp_path}/caf\\xe8.mp4")


def test_files_that_were_missing_are_not_deleted(tmp_path):
    rows = [
        FinishedVideo(name, str(tmp_path / name), name, status)
        for name, status in (("a", "missing"), ("b", "ok"), ("c", "partial"))
    ]

    assert [row.video for row in deleted_files(rows)] == ["b", "c"]
