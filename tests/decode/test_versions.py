"""Which videos are decoded again after a change of the decoding."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.config import DecodeOptions
from pipeline.decode import versions
from pipeline.decode.doctor import examine
from pipeline.decode.versions import (
    CHANGES,
    Change,
    decoding_version,
    describe_reasons,
    reason_to_decode_again,
)
from pipeline.records import DecodeReport
from tests.decode.decoding import ALL, as_video
from tests.videos import write_video

GREY = Change("grey is read", lambda video, report: report.pixel_format == "gray")
TIFF = Change("TIFF is read", lambda video, report: video.location.endswith(".tif"))


@pytest.fixture(autouse=True)
def changes(monkeypatch):
    monkeypatch.setattr(versions, "CHANGES", (GREY, TIFF))


def reason(path, *reports):
    return reason_to_decode_again(as_video(path), reports)


class TestReason:
    def test_new_reports_have_the_newest_version(self, tmp_path):
        (tmp_path / "text.mp4").write_text("no video")
        videos = [as_video(write_video(tmp_path / "a.mp4", 3)), as_video(tmp_path / "text.mp4")]

        reports = [report for _, report in examine(videos, DecodeOptions(workers=1), ALL)]

        assert [report.decoding_version for report in reports] == [3, 3] == 2 * [decoding_version()]

    def test_only_changes_after_the_report_count(self):
        assert reason("a.mp4", DecodeReport("ok", pixel_format="gray")) == "grey is read"
        assert reason("a.mp4", DecodeReport("ok", pixel_format="gray", decoding_version=2)) == ""
        assert reason("a.tif", DecodeReport("ok", decoding_version=2)) == "TIFF is read"
        assert reason("a.tif", DecodeReport("ok", decoding_version=3)) == ""

    def test_videos_that_no_change_affects_keep_their_results(self):
        assert reason("a.mp4", DecodeReport("ok", pixel_format="yuv420p")) == ""
        assert reason("a.mp4") == ""

    def test_one_chunk_of_an_earlier_version_is_enough(self):
        new, old = DecodeReport("ok", decoding_version=3), DecodeReport("ok")
        assert reason("a.tif", new, old) == "TIFF is read"


def test_reports_without_a_version_are_of_the_first():
    values = DecodeReport("ok", decoding_version=7).to_json()
    del values["decoding_version"]

    assert DecodeReport.from_json(values).decoding_version == 1


def test_a_sentence_says_how_many_and_why():
    assert describe_reasons(["x"]) == (
        "1 video is decoded again, because this version decodes them differently: x"
    )
    assert describe_reasons(["x", "y", "x"]).endswith(
        "3 videos are decoded again, because this version decodes them differently: x (2); y (1)"
    )


class TestChanges:
    """The changes that were made."""

    def affected(self, path, **report):
        video, earlier = as_video(path, 10), DecodeReport("ok", **report)
        return [change.reason for change in CHANGES if change.affects(video, earlier)]

    def test_time_lapse(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", 3)

        assert self.affected(path, frame_rate=0.1, frames_decoded=12, frames_sampled=960) != []
        assert self.affected(path, frame_rate=0.1, frames_decoded=12, frames_sampled=12) == []
        assert self.affected(path, frame_rate=5.0, frames_decoded=50, frames_sampled=80) == []

    @pytest.mark.parametrize(("largest", "affected"), [(255, False), (4095, True), (65535, False)])
    def test_deep_pictures(self, tmp_path, largest, affected):
        kind = np.uint8 if largest == 255 else np.uint16
        for number in range(2):
            assert cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((8, 8), largest, kind))

        assert bool(self.affected(tmp_path)) is affected

    def test_pages(self, tmp_path):
        pages = [Image.fromarray(np.zeros((8, 8), np.uint8)) for _ in range(2)]
        pages[0].save(tmp_path / "1.tif")
        assert self.affected(tmp_path) == []

        pages[0].save(tmp_path / "1.tif", save_all=True, append_images=pages[1:])
        assert self.affected(tmp_path) != []
