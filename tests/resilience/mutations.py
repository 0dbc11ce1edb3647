"""Damage files as disks, networks, cutting tools and wrong headers do, deterministically."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.videos import write_video

SOURCES = {
    "mp4": "libx264",
    "mkv": "libx264",
    "avi": "mpeg4",
    "mpg": "mpeg2video",
    "webm": "libvpx-vp9",
    "ts": "libx264",
}
"""Containers of the generated videos, and their codecs."""
HEADER_BYTES = 2048
Mutation = Callable[[bytearray, random.Random], None]


def truncate(data: bytearray, rng: random.Random) -> None:
    """Truncate the file at a random position."""
    del data[rng.randrange(len(data)) :]


def flip_header(data: bytearray, rng: random.Random) -> None:
    """Flip bits in the headers: at one end of the file."""
    start = rng.choice([0, max(0, len(data) - HEADER_BYTES)])
    _flip(data, range(start, min(len(data), start + HEADER_BYTES)), rng.randint(1, 12), rng)


def flip_payload(data: bytearray, rng: random.Random) -> None:
    """Flip bits at random positions, few or many."""
    _flip(data, range(len(data)), rng.choice([1, 10, 100, 1000]), rng)


def _flip(data: bytearray, where: range, count: int, rng: random.Random) -> None:
    for place in rng.choices(where, k=count):
        data[place] ^= 1 << rng.randrange(8)


def swap(data: bytearray, rng: random.Random) -> None:
    """Swap two ranges of bytes."""
    length = rng.randint(1, len(data) // 3)
    one, other = sorted(rng.randrange(len(data) - length) for _ in range(2))
    length = min(length, max(1, other - one))
    first, second = data[one : one + length], data[other : other + length]
    data[one : one + length], data[other : other + length] = second, first


def lie(data: bytearray, rng: random.Random) -> None:
    """Overwrite some numbers of a header with large, small and negative ones."""
    for _ in range(rng.randint(1, 4)):
        width = rng.choice([1, 2, 4, 8])
        start = rng.choice([0, max(0, len(data) - HEADER_BYTES)])
        place = start + rng.randrange(min(HEADER_BYTES, len(data) - width))
        value = rng.choice([0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1) - 1])
        data[place : place + width] = value.to_bytes(width, rng.choice(["big", "little"]))


def lose(data: bytearray, rng: random.Random) -> None:
    """Remove a range of bytes, or overwrite it with zeros."""
    start = rng.randrange(len(data))
    stop = min(len(data), start + rng.randint(1, len(data) // 4))
    data[start:stop] = rng.choice([b"", bytes(stop - start)])


def repeat(data: bytearray, rng: random.Random) -> None:
    """Duplicate a range of bytes."""
    start = rng.randrange(len(data))
    stop = min(len(data), start + rng.randint(1, len(data) // 4))
    data[stop:stop] = data[start:stop]


MUTATIONS: tuple[Mutation, ...] = (
    truncate,
    flip_header,
    flip_payload,
    swap,
    lie,
    lose,
    repeat,
)


def draw_sources(folder: Path) -> list[Path]:
    """Write one undamaged video per container format."""
    return [
        write_video(folder / f"sound.{suffix}", 30, codec=codec, gop=10)
        for suffix, codec in SOURCES.items()
    ]


def write_mutated(sources: list[Path], folder: Path, count: int) -> Iterator[Path]:
    """Write damaged copies of videos: every mutation of every container in turn."""
    originals = {path.suffix: path.read_bytes() for path in sources}
    for number in range(count):
        suffix = list(originals)[number % len(originals)]
        mutate = MUTATIONS[number // len(originals) % len(MUTATIONS)]
        data = bytearray(originals[suffix])
        mutate(data, random.Random(number))
        path = folder / f"{number:04}_{mutate.__name__}{suffix}"
        path.write_bytes(data)
        yield path
