"""Raw video streams have the frame rate that they state, or that the user gives."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
import pytest

from pipeline.config import Sampling
from pipeline.decode import versions
from pipeline.decode.fallback import index_video
from pipeline.decode.versions import reason_to_decode_again
from pipeline.records import DecodeReport
from pipeline.sources.discovery import find_videos
from tests.decode.decoding import as_video, decode, numbers, read_with
from tests.videos import write_video

COUNT = 18


@dataclass(frozen=True)
class Raw:
    """A raw stream of numbered frames."""

    codec: str
    fps: Fraction | int
    container: str
    options: dict = field(default_factory=dict)

    def write(self, path):
        return write_video(
            path, COUNT, fps=self.fps, codec=self.codec, container=self.container, **self.options
        )


NTSC = Fraction(30000, 1001)
SILENT = {"options": {"x265-params": "log-level=none"}}
STATED = {
    "a.h264": Raw("libx264", 15, "h264"),
    "a.264": Raw("libx264", NTSC, "h264", {"b_frames": 2, "options": {"b_adapt": "0"}}),
    "a.avc": Raw("libx264", 50, "h264"),
    "a.265": Raw("libx265", 10, "hevc", SILENT),
    "a.hevc": Raw(
        "libx265", NTSC, "hevc", {"options": {"x265-params": "bframes=2:log-level=none"}}
    ),
    "a.m4v": Raw("mpeg4", 15, "m4v"),
    "b.m4v": Raw("mpeg4", NTSC, "m4v", {"options": {"bf": "2"}}),
    "a.h263": Raw("h263", NTSC, "h263", {"size": (128, 96)}),
    "half.h263": Raw("h263", NTSC / 2, "h263", {"size": (128, 96)}),
    "a.m2v": Raw("mpeg2video", 50, "mpeg2video", {"options": {"bf": "2"}}),
    "a.m1v": Raw("mpeg1video", 30, "mpeg1video"),
}
"""Streams that state their frame rate."""
UNTIMED_HEVC = {"options": {"x265-params": "vui-timing-info=0:log-level=none"}}
NOT_STATED = {
    "a.mjpeg": Raw("mjpeg", 15, "mjpeg", {"pixel_format": "yuvj420p"}),
    "a.hevc": Raw("libx265", 15, "hevc", UNTIMED_HEVC),
}


@pytest.mark.parametrize("name", STATED)
def test_the_stated_rate(name, tmp_path, process):
    raw = STATED[name]
    path = raw.write(tmp_path / name)

    batch = decode(process, path)

    assert numbers(batch.images) == list(range(COUNT))
    assert batch.pts_seconds == pytest.approx(np.arange(COUNT) / float(raw.fps), abs=1e-6)
    assert batch.report.status == "ok"
    assert batch.report.duration_seconds == pytest.approx(COUNT / float(raw.fps))
    assert batch.report.frame_rate == pytest.approx(float(raw.fps))
    assert not batch.report.variable_frame_rate
    assert batch.report.frame_rate_assumed is False


@pytest.mark.parametrize("reader", ["pyav", "opencv", "decord"])
@pytest.mark.parametrize("name", ["a.264", "a.hevc", "half.h263", "b.m4v"])
def test_every_reader(name, reader, tmp_path, process):
    raw = STATED[name]

    answer, images = read_with(process, reader, raw.write(tmp_path / name))

    if "refused" not in answer:
        assert numbers(images) == list(range(COUNT))
        assert answer["pts_seconds"] == pytest.approx(np.arange(COUNT) / float(raw.fps), abs=1e-6)
    else:
        assert reader == "decord"


@pytest.mark.parametrize("name", NOT_STATED)
def test_a_rate_that_is_not_stated_is_assumed_and_the_row_says_so(name, tmp_path, process):
    report = decode(process, NOT_STATED[name].write(tmp_path / name)).report

    assert (report.frame_rate, report.frame_rate_assumed) == (pytest.approx(25), True)


@pytest.mark.parametrize("name", NOT_STATED)
def test_the_user_may_give_it(name, tmp_path, process):
    path = NOT_STATED[name].write(tmp_path / name)
    (video,) = find_videos([str(path)], image_fps=15)

    batch = decode(process, video, Sampling(fps=5))

    assert numbers(batch.images) == list(range(0, COUNT, 3))
    assert batch.report.frame_rate == pytest.approx(15)
    assert batch.report.frame_rate_assumed is False


def test_a_given_rate_does_not_replace_a_stated_one(tmp_path, process):
    video = replace(as_video(STATED["a.h264"].write(tmp_path / "a.h264")), image_fps=8)

    assert index_video(process, video).frame_rate == pytest.approx(15)


def test_the_given_rate_is_part_of_the_identity_of_raw_streams_only(tmp_path):
    raw = NOT_STATED["a.mjpeg"].write(tmp_path / "a.mjpeg")
    mp4 = write_video(tmp_path / "a.m4v", 3, container="mp4")

    def ids(path):
        found = [find_videos([str(path)], image_fps=fps) for fps in (None, 5, 10)]
        return {video.video_id for (video,) in found}

    assert (len(ids(raw)), len(ids(mp4))) == (3, 1)


class TestEarlierResults:
    """Rows of earlier versions, with 25 frames per second, are computed again."""

    EARLIER = DecodeReport("ok", codec="h264", frame_rate=25.0)

    def test_of_raw_streams(self, tmp_path):
        video = as_video(STATED["a.h264"].write(tmp_path / "a.h264"))

        assert "frame rate" in reason_to_decode_again(video, [self.EARLIER])

    def test_but_not_of_containers(self, tmp_path):
        video = as_video(write_video(tmp_path / "a.mp4", 3, fps=25))

        assert reason_to_decode_again(video, [self.EARLIER]) == ""

    def test_nor_those_of_other_codecs(self, tmp_path):
        video = as_video(NOT_STATED["a.mjpeg"].write(tmp_path / "a.mjpeg"))
        report = replace(self.EARLIER, codec="mjpeg")

        assert reason_to_decode_again(video, [report]) == ""

    def test_nor_new_ones(self, tmp_path):
        video = as_video(STATED["a.h264"].write(tmp_path / "a.h264"))
        report = replace(self.EARLIER, decoding_version=versions.decoding_version())

        assert reason_to_decode_again(video, [report]) == ""


def test_a_recording_of_a_camera_module(shared, process):
    path = shared / "data" / "reports" / "pi30.h264"
    if not path.exists():
        pytest.skip(f"{path} is not there")

    report = decode(process, path).report

    assert (report.frames_decoded, report.duration_seconds) == (60, pytest.approx(2.0))
