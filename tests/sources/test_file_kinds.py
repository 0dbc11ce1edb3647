"""Videos are told from other files by their names and first bytes."""

from __future__ import annotations

import av
import numpy as np
import pytest

from pipeline.sources.file_kinds import describe_others, looks_like_video, may_be_video


@pytest.mark.parametrize(
    "form",
    ["mp4", "mov", "matroska", "avi", "mpegts", "mpeg", "flv", "asf", "nut", "h264", "mxf"],
)
def test_the_content_of_videos_is_recognized(tmp_path, form):
    """Written by FFmpeg, without a suffix."""
    path = tmp_path / "without-suffix"
    codec = {"mpeg": "mpeg2video", "asf": "mpeg4", "mxf": "mpeg2video"}
    with av.open(str(path), "w", format=form) as output:
        stream = output.add_stream(codec.get(form, "libx264"), rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(12):
            picture = np.full((48, 64, 3), 20 * number, np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode())

    assert looks_like_video(path)
    assert may_be_video(path)


def test_ogg_with_theora_is_a_video(tmp_path):
    (tmp_path / "v").write_bytes(b"OggS\x00\x02" + bytes(20) + b"\x01\x2a\x80theora")

    assert may_be_video(tmp_path / "v")


OTHERS = {
    "labels.h5": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "meta.pickle": b"\x80\x04\x95" + bytes(20),
    "project.slp": b"\x89HDF\r\n\x1a\n",
    "calib.mat": b"MATLAB 5.0 MAT-file" + bytes(100),
    "scores.xlsx": b"PK\x03\x04" + bytes(100),
    "annotation.eaf": b'<?xml version="1.0"?>',
    "project.boris": b"{}",
    "notes.rtf": b"{\\rtf1}",
    "a.mp4.md5": b"d41d8cd98f00b204e9800998ecf8427e  a.mp4",
    "a.mp4.description": b"My holidays",
    "Thumbs.db": bytes(500),
    "sound.ogg": b"OggS\x00\x02" + bytes(22) + b"\x01\x1e\x01vorbis",
    "clip.THM": b"\xff\xd8\xff\xe0",
    "clip.LRV": b"\x00\x00\x00\x18ftypisom",
    "README": b"Read me first",
    "zeros": bytes(2000),
    "g": b"G" * 100,
}


@pytest.mark.parametrize("name", OTHERS)
def test_files_of_other_programs_are_no_videos(tmp_path, name):
    (tmp_path / name).write_bytes(OTHERS[name])

    assert not may_be_video(tmp_path / name)


@pytest.mark.parametrize("name", ["a.mp4", "B.AVI", "c.dav", "d.h265", "e.tiff"])
def test_suffixes_of_videos_and_images_are_enough(tmp_path, name):
    (tmp_path / name).write_bytes(b"anything")

    assert may_be_video(tmp_path / name)


def test_they_are_counted_by_suffix(tmp_path):
    paths = [tmp_path / name for name in ("a.h5", "B.H5", "c.mat", "README")]

    assert describe_others(paths) == (
        "4 files of other programs left out (.h5 2, .mat 1, without suffix 1)"
    )
