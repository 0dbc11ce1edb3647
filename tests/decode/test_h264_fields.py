"""The two fields of a frame of H.264 are one frame, however containers store them."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.config import Sampling
from pipeline.decode.fallback import index_video
from pipeline.decode.h264_fields import FieldPairs
from pipeline.decode.versions import reason_to_decode_again
from pipeline.records import DecodeReport
from tests.decode.decoding import as_video, decode, numbers, read_with
from tests.decode.h264_pcm import coded_pictures, write_fields
from tests.videos import write_video

FIELDS = "t" * 14
MIXED = "ttppbbtpptbtpp"
KINDS = {
    "fields.ts": (FIELDS, False),
    "fields in one packet.ts": (FIELDS, True),
    "fields.mp4": (FIELDS, False),
    "fields in one packet.mp4": (FIELDS, True),
    "fields.mkv": (FIELDS, False),
    "fields in one packet.mkv": (FIELDS, True),
    "fields.h264": (FIELDS, False),
    "bottom field first.ts": ("b" * 14, False),
    "mixed.ts": (MIXED, False),
    "mixed.mp4": (MIXED, False),
    "mixed in one packet.mp4": (MIXED, True),
    "mixed.h264": (MIXED, False),
    "frames.ts": ("p" * 14, False),
    "frames before fields.mp4": ("ppppttttppbbtt", False),
    "frames before fields in one packet.mp4": ("ppppttttppbbtt", True),
}


@pytest.mark.parametrize("name", KINDS)
def test_frames_are_what_is_displayed(name, tmp_path, process):
    structures, joined = KINDS[name]
    path = write_fields(tmp_path / name, coded_pictures(structures), joined=joined)

    batch = decode(process, path)

    assert numbers(batch.images) == batch.frame_index.tolist() == list(range(14))
    assert batch.pts_seconds == pytest.approx(np.arange(14) / 25, abs=1e-3)
    report = batch.report
    assert (report.status, report.frames_expected, report.frames_decoded) == ("ok", 14, 14)
    assert report.frame_rate == pytest.approx(25)
    assert report.duration_seconds == pytest.approx(14 / 25)
    assert not report.variable_frame_rate


@pytest.mark.parametrize("reader", ["pyav", "opencv", "decord"])
@pytest.mark.parametrize("name", ["fields.ts", "fields.mp4", "mixed.mp4"])
def test_every_reader(name, reader, tmp_path, process):
    structures, joined = KINDS[name]
    path = write_fields(tmp_path / name, coded_pictures(structures), joined=joined)

    answer, images = read_with(process, reader, path)

    if "refused" in answer:
        assert reader == "decord"
        return
    assert answer["frame_index"] == list(range(14))
    assert answer["pts_seconds"] == pytest.approx(np.arange(14) / 25, abs=1e-3)
    if reader == "pyav":  # OpenCV 5.0 turns interlaced frames black; it is not chosen for them
        assert numbers(images) == list(range(14))


def test_readers_that_cannot_convert_fields_are_not_tried_first(tmp_path, process):
    path = write_fields(tmp_path / "a.mp4", coded_pictures("pppptttt"), joined=True)

    batch = decode(process, path, Sampling(every=3))

    assert numbers(batch.images) == [0, 3, 6]
    assert (batch.report.decoder, batch.report.attempts) == ("pyav", ())


def test_every_second_frame(tmp_path, process):
    path = write_fields(tmp_path / "a.ts", coded_pictures(FIELDS))

    batch = decode(process, path, Sampling(every=2))

    assert numbers(batch.images) == batch.frame_index.tolist() == list(range(0, 14, 2))


def test_a_chunk_of_the_middle(tmp_path, process):
    path = write_fields(tmp_path / "a.mp4", coded_pictures("t" * 40, gop=8))

    batch = decode(process, path, start=20, stop=30)

    assert numbers(batch.images) == batch.frame_index.tolist() == list(range(20, 30))
    assert (batch.report.status, batch.report.frames_expected) == ("ok", 10)


@pytest.mark.parametrize("order", [0, 1])
def test_a_field_without_its_other_field_is_not_displayed(order, tmp_path, process):
    frames = coded_pictures(FIELDS)
    del frames[4][order]
    path = write_fields(tmp_path / "a.ts", frames)

    batch = decode(process, path)

    shown = [number for number in range(14) if number != 4]
    assert numbers(batch.images) == shown
    assert batch.pts_seconds == pytest.approx(np.array(shown) / 25, abs=1e-3)
    assert batch.report.frames_expected == 13


def test_a_file_that_starts_in_the_second_field(tmp_path, process):
    frames = coded_pictures("t" * 20, gop=8)[3:]
    del frames[0][0]

    batch = decode(process, write_fields(tmp_path / "a.ts", frames))

    assert numbers(batch.images) == list(range(4, 20))
    assert not batch.report.variable_frame_rate
    assert batch.report.frame_rate == pytest.approx(25)


def test_fields_with_other_parameters(tmp_path):
    """Damaged parameters and slices are frames."""
    pairs = FieldPairs(b"")

    for packet in (b"", b"\0\0\1", b"\0\0\1\x65", b"\0\0\1\x67\x64\0\x1e\0", b"\0\0\1\x65\x80\xff"):
        pairs.add(packet)

    assert pairs.begins_frame == [True] * 5


def test_interlaced_frames_are_not_fields(tmp_path, process):
    """Macroblocks of frames may be coded as fields."""
    options = {"preset": "fast", "x264-params": "tff=1:log-level=none"}
    path = write_video(tmp_path / "a.mp4", 14, options=options)

    assert len(index_video(process, as_video(path)).pts) == 14


@pytest.mark.parametrize(
    ("report", "again"),
    [
        (DecodeReport("ok", codec="h264", packets=28, frames_decoded=14), True),
        (DecodeReport("ok", codec="h264", packets=14, frames_decoded=14), False),
        (DecodeReport("partial", codec="h264", packets=52, frames_decoded=17), True),
        (DecodeReport("partial", codec="h264", packets=52, frames_decoded=50), False),
        (DecodeReport("ok", codec="mpeg4", packets=28, frames_decoded=14), False),
    ],
)
def test_which_earlier_results_are_computed_again(report, again):
    assert bool(reason_to_decode_again(as_video("a.ts"), [report])) == again
