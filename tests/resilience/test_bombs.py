"""Small files that claim, or expand to, far more data: cost is bounded, and they are reported."""

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
    """Replace all occurrences of some bytes in a file."""
    data = path.read_bytes()
    assert before in data
    path.write_bytes(data.replace(before, after))


def claims_16k_by_16k(folder):
    path = write_video(folder / "16k.avi", 5, codec="rawvideo", pixel_format="bgr24")
    replaced(path, struct.pack("<II", 96, 64), struct.pack("<II", 16_000, 16_000))
    # the height of the frames is negative: stored from the top row
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
    """A table of samples of equal size needs no entry for each of them."""
    path = write_video(folder / "billion.mp4", 12)
    data = bytearray(path.read_bytes())
    struct.pack_into(">II", data, data.index(b"stsz") + 8, 1, BILLION)
    struct.pack_into(">I", data, data.index(b"stts") + 12, BILLION)
    struct.pack_into(">I", data, data.index(b"stsc") + 16, BILLION)
    path.write_bytes(data)


def lasts_a_thousand_hours(folder):
    write_video(folder / "1000 hours.mkv", 2, times=[0, 3.6e6])


def expands(folder):
    """Half a megabyte that holds 650 MB: 24 frames of 9 million pixels."""
    codec = {"size": (3000, 3000), "options": {"preset": "ultrafast", "crf": "51"}}
    path = write_video(folder / "expands.mkv", 24, gop=250, **codec)
    assert path.stat().st_size < 600_000


def png_of_nothing(folder):
    """An image of 16,000 × 16,000 pixels in about 30 kB."""
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
def results(tmp_path_factory, tiny_recognizer):
    """Rows of one run over all files, and its seconds."""
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
            strict=True,  # still pictures of a folder are left out otherwise
        )
        process_videos([str(videos)], folder / "out", options)
    rows = load(folder / "out", "videos")
    rows.index = rows.video.map(os.path.basename)
    return rows, time.monotonic() - begin


@pytest.mark.parametrize(
    ("name", "status", "message"),
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
def test_each_file_has_the_right_status(results, name, status, message):
    row = results[0].loc[name]

    assert row.status == status, row.error
    assert message in row.error


def test_a_billion_samples_stay_within_the_limits(results):
    """FFmpeg allocates a table: it exceeds the memory limit, or finds no samples in the file."""
    assert results[0].loc["billion.mp4"].status in {"out_of_memory", "undecodable", "not_video"}


def test_existing_frames_are_used(results):
    assert results[0].loc["billion.avi"].frames_decoded == 12


def test_time_is_bounded(results):
    rows, seconds = results

    assert len(rows) == 8  # the folder that leads back to itself is entered once
    assert seconds < len(rows) * LIMITS.video_timeout_seconds / LIMITS.workers
