from __future__ import annotations

import os

import pytest

from pipeline.sources.discovery import find_videos
from pipeline.sources.fingerprint import BLOCK_BYTES, MIDDLE_BLOCKS

SMALL = (MIDDLE_BLOCKS + 2) * BLOCK_BYTES
BIG = 3 * SMALL + 12345


def write(path, content):
    path.write_bytes(content)
    return path


def video_id(path, **options):
    (video,) = find_videos([str(path)], **options)
    return video.video_id


def change(path, position):
    with path.open("r+b") as file:
        file.seek(position)
        old = file.read(1)
        file.seek(position)
        file.write(bytes([old[0] ^ 1]))


@pytest.fixture
def big(tmp_path):
    return write(tmp_path / "big.mp4", bytes(range(256)) * (BIG // 256 + 1))


def test_does_not_depend_on_name_folder_and_time(tmp_path, big):
    before = video_id(big)
    (tmp_path / "sub").mkdir()
    moved = big.rename(tmp_path / "sub" / "other.mkv")
    os.utime(moved, (1, 1))

    assert video_id(moved) == before


@pytest.mark.parametrize("position", [0, SMALL // 2, SMALL - 1])
def test_depends_on_every_byte_of_a_small_file(tmp_path, position):
    path = write(tmp_path / "small.mp4", bytes(SMALL))
    before = video_id(path)

    change(path, position)

    assert video_id(path) != before


@pytest.mark.parametrize("block", range(MIDDLE_BLOCKS + 2))
def test_depends_on_head_tail_and_blocks_between(big, block):
    before = video_id(big)
    size = big.stat().st_size
    start = round(block * (size - BLOCK_BYTES) / (MIDDLE_BLOCKS + 1))

    for position in (start, start + BLOCK_BYTES - 1):
        change(big, position)
        assert video_id(big) != before
        change(big, position)

    assert video_id(big) == before


def test_only_a_full_hash_depends_on_the_rest(big):
    blocks, full = video_id(big), video_id(big, full_hash=True)

    change(big, BLOCK_BYTES + 1)

    assert video_id(big) == blocks
    assert video_id(big, full_hash=True) != full


def test_depends_on_the_length(tmp_path):
    ids = {
        video_id(write(tmp_path / f"{size}.mp4", bytes(size)))
        for size in (0, 1, BLOCK_BYTES, SMALL, SMALL + 1, BIG)
    }

    assert len(ids) == 6


def test_is_the_same_as_in_earlier_versions(tmp_path):
    """Stored features are found by it: with a change, users would decode everything again."""
    assert video_id(write(tmp_path / "a", b"clip")) == "7537e9ed738799a91abee1190875f692"
    assert video_id(write(tmp_path / "b", bytes(BIG))) == "209768c0e6ef7928eb8086540440d2b7"
