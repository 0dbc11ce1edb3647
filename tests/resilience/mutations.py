"""Damage files as disks, networks, cutters and liars do, the same way every time."""

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
"""Containers that are drawn, and what is in them."""
HEADER_BYTES = 2048
Mutation = Callable[[bytearray, random.Random], None]


def truncate(data: bytearray, chance: random.Random) -> None:
    """End the file anywhere."""
    del data[chance.randrange(len(data)) :]


def flip_header(data: bytearray, chance: random.Random) -> None:
    """Flip bits where containers say what they hold: at one end of the file."""
    start = chance.choice([0, max(0, len(data) - HEADER_BYTES)])
    _flip(data, range(start, min(len(data), start + HEADER_BYTES)), chance.randint(1, 12), chance)


def flip_payload(data: bytearray, chance: random.Random) -> None:
    """Flip bits anywhere, few or many."""
    _flip(data, range(len(data)), chance.choice([1, 10, 100, 1000]), chance)


def _flip(data: bytearray, where: range, count: int, chance: random.Random) -> None:
    for place in chance.choices(where, k=count):
        data[place] ^= 1 << chance.randrange(8)


def swap(data: bytearray, chance: random.Random) -> None:
    """Let two stretches change places."""
    length = chance.randint(1, len(data) // 3)
    one, other = sorted(chance.randrange(len(data) - length) for _ in range(2))
    length = min(length, max(1, other - one))
    first, second = data[one : one + length], data[other : other + length]
    data[one : one + length], data[other : other + length] = second, first


def lie(data: bytearray, chance: random.Random) -> None:
    """Overwrite a few numbers of a header with large, small and negative ones."""
    for _ in range(chance.randint(1, 4)):
        width = chance.choice([1, 2, 4, 8])
        start = chance.choice([0, max(0, len(data) - HEADER_BYTES)])
        place = start + chance.randrange(min(HEADER_BYTES, len(data) - width))
        value = chance.choice([0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1) - 1])
        data[place : place + width] = value.to_bytes(width, chance.choice(["big", "little"]))


def lose(data: bytearray, chance: random.Random) -> None:
    """Leave out a stretch, or leave zeros in its place."""
    start = chance.randrange(len(data))
    stop = min(len(data), start + chance.randint(1, len(data) // 4))
    data[start:stop] = chance.choice([b"", bytes(stop - start)])


def repeat(data: bytearray, chance: random.Random) -> None:
    """Store a stretch twice."""
    start = chance.randrange(len(data))
    stop = min(len(data), start + chance.randint(1, len(data) // 4))
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
    """Draw one sound video a container."""
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
