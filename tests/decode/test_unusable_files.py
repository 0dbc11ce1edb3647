"""Every file that is no usable video says in one sentence what it is, or what it lacks."""

from __future__ import annotations

import errno

import av
import av.error
import numpy as np
import pytest

from pipeline.decode.container_index import read_index
from pipeline.decode.unusable_files import (
    error_text,
    explain_unopenable,
    io_error_text,
    is_encrypted,
)
from pipeline.errors import VideoError
from tests.decode.decoding import decode
from tests.videos import draw_number, write_video

FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4523411\n"
CONTENTS = {
    "empty": (b"", "not_video", "the file is empty"),
    "text": (b"hello, this is text\n" * 99, "not_video", "a text file"),
    "words": ("Grüße\n" * 300, "not_video", "a text file"),
    "UTF-16": ("hello, this is text\n".encode("utf-16") * 9, "not_video", "a text file"),
    "Latin-1": ("für alle Fälle\n".encode("latin-1") * 99, "not_video", "a text file"),
    "XHTML": ('<?xml version="1.0"?>\n<html><body/></html>', "not_video", "web page (HTML)"),
    "Git LFS": (LFS, "not_video", "Git LFS pointer"),
    "HTML": ("\n<!DOCTYPE html><html><body>Sign in</body></html>", "not_video", "web page (HTML)"),
    "zeros": (bytes(5000), "not_video", "never written"),
    "noise": (b"\xff\x00\x17" * 2000, "not_video", "no video container"),
    "MNG": (b"\x8aMNG\r\n\x1a\n" + bytes(500), "undecodable", "format MNG"),
}


def failure(path):
    with pytest.raises(VideoError) as caught:
        read_index(str(path), 10**6)
    return caught.value.status, str(caught.value)


def boxes(data):
    """List type and content of the boxes of an MP4 file."""
    found, place = [], 0
    while place < len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        found.append((data[place + 4 : place + 8], data[place : place + size]))
        place += size
    return found


def without(path, *kinds):
    """Remove boxes from an MP4 file."""
    kept = [box for kind, box in boxes(path.read_bytes()) if kind not in kinds]
    path.write_bytes(b"".join(kept))
    return path


@pytest.mark.parametrize("name", CONTENTS)
def test_content_that_is_no_video(name, tmp_path):
    content, status, words = CONTENTS[name]
    path = tmp_path / "a.mp4"
    path.write_bytes(content.encode() if isinstance(content, str) else content)

    found, message = failure(path)

    assert found == status
    assert words in message
    assert "\n" not in message


def test_a_camera_that_lost_power(tmp_path):
    path = without(write_video(tmp_path / "a.mp4", 30), b"moov")

    status, message = failure(path)

    assert status == "undecodable"
    assert message.startswith("cut off: the index (moov) is missing")
    assert "untrunc" in message


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_copy_with_the_index_at_the_end(share, tmp_path):
    path = write_video(tmp_path / "a.mov", 30)
    media = sum(len(box) for kind, box in boxes(path.read_bytes()) if kind != b"moov")
    path.write_bytes(path.read_bytes()[: round(media * share)])

    assert failure(path)[1].startswith("cut off: the index (moov) is missing")


def test_a_copy_that_ends_within_its_index(tmp_path):
    path = write_video(tmp_path / "a.mp4", 30, muxing={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[:300])

    assert "cut off: the file ends within its index" in failure(path)[1]


def test_a_copy_that_ends_before_its_media(tmp_path):
    path = write_video(tmp_path / "a.mp4", 30, muxing={"movflags": "faststart"})

    assert failure(without(path, b"mdat")) == (
        "undecodable",
        "cut off: the header claims 30 frames, the file holds none of them",
    )


def test_an_initialization_segment(tmp_path):
    path = write_video(tmp_path / "a.mp4", 30, muxing=FRAGMENTED)

    status, message = failure(without(path, b"moof", b"mdat", b"mfra"))

    assert status == "undecodable"
    assert message.startswith("an initialization segment without media")


def test_a_media_segment(tmp_path):
    path = write_video(tmp_path / "a.mp4", 30, muxing=FRAGMENTED)

    status, message = failure(without(path, b"ftyp", b"moov"))

    assert status == "undecodable"
    assert message.startswith("a media segment without its initialization segment")


def test_sound_with_a_cover_picture(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as made:
        sound = made.add_stream("aac", rate=44100)
        cover = made.add_stream("mjpeg", rate=25)
        cover.width, cover.height, cover.pix_fmt = 96, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        made.mux(cover.encode(av.VideoFrame.from_ndarray(draw_number(1))))
        made.mux(cover.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts = 44100, 0
        made.mux([*sound.encode(frame), *sound.encode()])

    assert failure(path) == ("not_video", "holds no video stream, only audio and a cover picture")


class TestEncrypted:
    @pytest.fixture
    def path(self, tmp_path):
        muxing = {
            "encryption_scheme": "cenc-aes-ctr",
            "encryption_key": "00" * 15 + "01",
            "encryption_kid": "00" * 15 + "02",
        }
        return write_video(tmp_path / "a.mp4", 20, gop=5, muxing=muxing)

    def test_the_row_says_so(self, path, process):
        assert is_encrypted(str(path))
        try:
            report = decode(process, path).report
            message = report.error
        except VideoError as error:
            message = str(error)

        assert "the video is encrypted (DRM)" in message

    def test_a_transport_stream(self, tmp_path):
        path = write_video(tmp_path / "a.ts", 60, size=(320, 240))
        data = bytearray(path.read_bytes())
        assert not is_encrypted(str(path))
        for start in range(0, len(data), 188):
            if start > 188 * 4:
                data[start + 3] |= 0x80
                data[start + 20 : start + 188] = bytes(
                    b ^ 0x5A for b in data[start + 20 : start + 188]
                )
        path.write_bytes(data)

        assert failure(path) == (
            "undecodable",
            "the video is encrypted (DRM): it cannot be decoded without its key",
        )

    def test_other_files_are_not(self, tmp_path):
        assert not is_encrypted(str(tmp_path))
        for name in ("a.mp4", "a.mkv", "a.avi"):
            assert not is_encrypted(str(write_video(tmp_path / name, 3)))


class TestErrorTexts:
    """Messages of the operating system are never shown where they mean something else."""

    def test_of_ffmpeg(self):
        denied = av.error.PermissionError(errno.EPERM, "Operation not permitted")
        again = av.error.BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        invalid = av.error.InvalidDataError(1094995529, "Invalid data found when processing input")

        assert "encrypted (DRM)" in error_text(denied)
        assert error_text(again) == "the file ends too early"
        assert error_text(invalid) == "invalid data found when processing input"

    def test_of_the_operating_system(self):
        texts = [io_error_text(OSError(code, "x")) for code in (errno.EPERM, errno.EAGAIN)]

        assert texts == [
            "access to it is denied",
            "it is in use by another program, or its disk does not answer",
        ]
        assert io_error_text(OSError(errno.EIO, "Input/output error")) == "Input/output error"

    def test_of_opening(self, tmp_path):
        path = tmp_path / "a.bin"
        path.write_bytes(b"\xff\x00\x17" * 99)
        again = av.error.BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

        error = explain_unopenable(str(path), again)

        assert (error.status, str(error)) == (
            "not_video",
            "no video container: the file ends too early",
        )


def test_files_of_users(shared):
    folder = shared / "data" / "reports" / "bad"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    names = ("crashed_camera", "empty", "episode_000000", "page")

    messages = [failure(folder / f"{name}.mp4")[1] for name in names]

    assert len(set(messages)) == 4
    assert messages[0].startswith("cut off")
