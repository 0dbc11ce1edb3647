"""Small files that claim, or expand to, far more than there is: bounded, and told as such."""

from __future__ import annotations

import os
import struct
import time
import zlib

import pytest

from pipeline.config import DecodeOptions, EncodeOptions, RunOptions
from pipeline.results.tables import load
from pipeline.run.process import process_videos
from tests.videos import write_video

BILLION = 10**9
LIMITS = DecodeOptions(
    workers=2,
    frame_timeout_seconds=10,
    video_timeout_seconds=30,
    max_pixels=16_000_000,
    max_video_seconds=3600,
    memory_bytes=512 << 20,
)


def replaced(path, before, after):
    """Overwrite every place of some bytes in a file."""
    data = path.read_bytes()
    assert before in data
    path.write_bytes(data.replace(before, after))


def claims_16k_by_16k(folder):
    path = write_video(folder / "16k.avi", 5, codec="rawvideo", pixel_format="bgr24")
    replaced(path, struct.pack("<II", 96, 64), struct.pack("<II", 16_000, 16_000))
    # the height of the pictures themselves is negative: stored from the top
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<Ii", 96, -64), struct.pack("<Ii", 16_000, -16_000)))


def claims_a_billion_frames(folder):
    path = write_video(folder / "billion.avi", 12, codec="mpeg4")
    data = bytearray(path.read_bytes())
    for mark, place in ((b"avih", 8 + 16), (b"strh", 8 + 32)):
        start = data.index(mark) + place
        assert struct.unpack_from("<I", data, start) == (12,)
        struct.pack_into("<I", data, start, BILLION)
    path.write_bytes(data)


def claims_a_billion_samples(folder):
    """A table of samples that all have one size needs no entry for each."""
    path = write_video(folder / "billion.mp4", 12)
    data = bytearray(path.read_bytes())
    struct.pack_into(">II", data, data.index(b"stsz") + 8, 1, BILLION)
    struct.pack_into(">I", data, data.index(b"stts") + 12, BILLION)
    struct.pack_into(">I", data, data.index(b"stsc") + 16, BILLION)
    path.write_bytes(data)


def lasts_a_thousand_hours(folder):
    write_video(folder / "1000 hours.mkv", 2, times=[0, 3.6e6])


def expands(folder):
    """Half a megabyte that holds 650 MB: 24 pictures of 9 million pixels."""
    codec = {"size": (3000, 3000), "options": {"preset": "ultrafast", "crf": "51"}}
    path = write_video(folder / "expands.mkv", 24, gop=250, **codec)
    assert path.stat().st_size < 600_000


def png_of_nothing(folder):
    """A picture of 16,000 × 16,000 pixels in some 30 kB."""
    side = 16_000
    row = b"\0" + bytes(side // 8)
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", body), (b"IEND", b"")]
    packed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    (folder / "nothing.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


@pytest.fixture(scope="module")
def bombed(tmp_path_factory, tiny_recognizer):
    """Rows of one run over everything, and its seconds."""
    folder = tmp_path_factory.mktemp("bombs")
    videos = folder / "videos"
    (videos / "deep").mkdir(parents=True)
    for draw in (
        claims_16k_by_16k,
        claims_a_billion_frames,
        claims_a_billion_samples,
        lasts_a_thousand_hours,
        expands,
        png_of_nothing,
    ):
        draw(videos)
    write_video(videos / "deep" / "sound.mp4", 12, first=7)
    (videos / "deep" / "loop").symlink_to(videos)
    (videos / "deep" / "self.mp4").symlink_to("self.mp4")
    begin = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        options = RunOptions(
            recognizer=str(tiny_recognizer),
            decode=LIMITS,
            encode=EncodeOptions(precision="float32"),
        )
        process_videos([str(videos)], folder / "out", options)
    rows = load(folder / "out", "videos")
    rows.index = rows.video.map(os.path.basename)
    return rows, time.monotonic() - begin


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("16k.avi", "too_large", "claims 16000 × 16000 pixels"),
        ("nothing.png", "too_large", "claims 16000 × 16000 pixels"),
        ("1000 hours.mkv", "too_long", "lasts 7,200,000 s; at most 3,600 s"),
        ("billion.avi", "partial", "the header claims 1000000000 frames, the file holds 12"),
        ("self.mp4", "unreadable", "Too many levels of symbolic links"),
        ("sound.mp4", "ok", ""),
        ("expands.mkv", "ok", ""),
    ],
)
def test_each_is_reported_as_what_it_is(bombed, name, status, words):
    row = bombed[0].loc[name]

    assert row.status == status, row.error
    assert words in row.error


def test_a_billion_samples_cost_no_more_than_allowed(bombed):
    """FFmpeg makes a table of them: it ends at the limit, or finds that the file holds none."""
    assert bombed[0].loc["billion.mp4"].status in {"out_of_memory", "undecodable", "not_video"}


def test_the_frames_that_are_there_are_used(bombed):
    assert bombed[0].loc["billion.avi"].frames_decoded == 12


def test_all_of_it_is_bounded(bombed):
    rows, seconds = bombed

    assert len(rows) == 8  # the folder that leads back to itself is entered once
    assert seconds < len(rows) * LIMITS.video_timeout_seconds / LIMITS.workers
