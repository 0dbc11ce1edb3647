from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path

import pytest

from pipeline.config import DecodeOptions, Sampling
from pipeline.decode.doctor import examine
from pipeline.records import Video
from tests.decode.decoding import as_video
from tests.videos import cut_copy, spoil, write_images, write_sound, write_video

EIGHT_FPS = Sampling(fps=8)
OPTIONS = DecodeOptions(workers=2, frame_timeout_seconds=20)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("source") / "a.mp4", 48, size=(128, 64), gop=12)


def reports_of(videos, options=OPTIONS, sampling=EIGHT_FPS):
    return [report for _, report in examine(videos, options, sampling)]


def children():
    """Ids of the child processes."""
    found = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that ended meanwhile
            found.update(path.read_text().split())
    return found


def test_reports_come_in_the_order_of_the_videos(source, tmp_path):
    (tmp_path / "text.mp4").write_text("just some text\n")
    sources = {
        "ok": as_video(source),
        "not_video": as_video(tmp_path / "text.mp4"),
        "partial": as_video(spoil(source, tmp_path / "b.mp4", range(12, 24))),
        "unreadable": as_video(tmp_path / "gone.mp4"),
        "undecodable": as_video(spoil(source, tmp_path / "c.mp4", range(48))),
        "missing": Video("x", "/x", "file", "x", 0, None, ("missing", "No such file: x")),
    }

    found = list(examine(list(sources.values()), OPTIONS, Sampling(fps=8)))

    assert [video for video, _ in found] == list(sources.values())
    assert [report.status for _, report in found] == list(sources)
    assert found[-1][1].error == "No such file: x"


def test_every_frame_is_decoded_with_any_sampling(source):
    [report] = reports_of([as_video(source)], sampling=Sampling(fps=1))

    assert (report.status, report.frames_decoded, report.frames_expected) == ("ok", 48, 48)
    assert report.frames_sampled == 2


@pytest.mark.parametrize(
    ("sampling", "reader"), [(Sampling(fps=8), "opencv"), (Sampling(every=1), "decord")]
)
def test_uses_the_reader_that_a_run_would_use(source, sampling, reader):
    [report] = reports_of([as_video(source)], sampling=sampling)

    assert report.decoder == reader


def test_counts_missing_frames(source, tmp_path):
    [report] = reports_of([as_video(spoil(source, tmp_path / "b.mp4", range(12, 24)))])

    assert (report.frames_decoded, report.frames_missing, report.frames_damaged) == (36, 12, 12)
    assert report.error == "36 of 48 frames: invalid data found when processing input"


def test_counts_packets_hidden_by_an_edit_list(source, tmp_path):
    [report] = reports_of([as_video(cut_copy(source, tmp_path / "b.mp4", 0.9))])

    assert report.status == "ok"
    assert report.edit_list
    assert (report.packets, report.packets_discarded, report.frames_decoded) == (24, 3, 21)


def test_image_sequences(tmp_path):
    folder = write_images(tmp_path / "images", [5, 10, 20])

    [report] = reports_of([as_video(folder, 10)])

    assert report.status == "partial"
    assert report.error == "numbers missing between the images: 15 (1 in all)"
    assert report.frames_decoded == 3


def test_sound_only(tmp_path):
    [report] = reports_of([as_video(write_sound(tmp_path / "a.m4a"))])

    assert (report.status, report.error) == ("not_video", "holds no video stream, only audio")


def test_a_file_that_hangs_does_not_stop_the_others(source, tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    options = DecodeOptions(workers=1, frame_timeout_seconds=3)

    reports = reports_of([as_video(tmp_path / "pipe.mp4"), as_video(source)], options)

    assert [report.status for report in reports] == ["decode_timeout", "ok"]


def test_no_videos():
    assert reports_of([]) == []


@pytest.mark.parametrize("wanted", [3, 1])
def test_leaves_no_process_behind(source, wanted):
    """Not even if the iterator is not exhausted."""
    before = children()

    found = examine([as_video(source)] * 3, OPTIONS, EIGHT_FPS)
    assert len(list(itertools.islice(found, wanted))) == wanted
    assert children() - before or wanted == 3
    found.close()

    assert children() <= before
