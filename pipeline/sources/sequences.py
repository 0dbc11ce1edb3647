"""
Group the numbered images of a folder into sequences, by their names.

`camA_0001.png …` and `camB_0001.png …` in one folder are the sequences `camA_*.png` and
`camB_*.png`. An image without others of its kind is a still picture.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

TIME_STAMP = (
    r"(?:\d{4}[-_.]?\d\d[-_.]?\d\d[-_T .]*)\d\d[-_.:h]?\d\d(?:[-_.:m]?\d\d(?:[.,]\d+)?)?(?!\d)"
    r"|\d\d[-:]\d\d[-:]\d\d(?:[.,]\d+)?(?!\d)"
)
"""Date and time of day, or a time of day: one number, though it has several parts."""
NUMBER = re.compile(rf"{TIME_STAMP}|\d+", re.ASCII)
VIEW = re.compile(r"(?:^|[^a-z])(?:cam|camera|view|sensor|lens|ch|channel|eye|stream|c|v)[-_ ]?$")
"""Text before a number that counts cameras, not frames."""
MIN_FRAMES = 5
"""A number with fewer values counts cameras, if another number has more."""


@dataclass(frozen=True, slots=True)
class _Name:
    """The name of an image without its suffix: texts with numbers between them."""

    path: Path
    texts: tuple[str, ...]
    numbers: tuple[int, ...]

    @classmethod
    def of(cls, path: Path) -> _Name:
        numbers = NUMBER.findall(path.stem)
        texts = NUMBER.split(path.stem)
        return cls(path, tuple(texts), tuple(int(re.sub(r"\D", "", n)) for n in numbers))


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key that puts `img_2` before `img_10`: numbers by value, the rest as text."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts if part)


def frame_numbers(names: list[str]) -> list[int] | None:
    """
    Read the frame number from the last digits in each file name.

    Returns:
        Ascending numbers; None where a name has no number, or where they repeat.
    """
    found = [re.findall(r"[0-9]+", Path(name).stem) for name in names]
    if not all(found):
        return None
    numbers = [int(digits[-1]) for digits in found]
    rising = all(a < b for a, b in pairwise(numbers))
    return numbers if rising else None


def varying_numbers(paths: Sequence[Path]) -> list[int] | None:
    """Read the one number in which file names differ; None if it does not ascend."""
    names = [_Name.of(path) for path in paths]
    if len({len(name.numbers) for name in names}) != 1:
        return None
    positions = _varying(names)
    if len(positions) != 1 or not NUMBER.findall(names[0].path.stem)[positions[0]].isdigit():
        return None  # times of day do not count frames
    numbers = [name.numbers[positions[0]] for name in names]
    return numbers if all(a < b for a, b in pairwise(numbers)) else None


def group_images(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """
    Group images of one folder into sequences.

    Names that differ in numbers only belong together. If several of their numbers differ, and none
    is different in every name, one counts the frames and the others count cameras or recordings.
    Sequences whose texts differ are one if their numbers ascend from one to the next, and their
    images have one size.

    Returns:
        For each sequence its images in natural order, by its name: that of an image with `*` for
        the numbers that differ. A still picture has its own name.
    """
    ordered = sorted(paths, key=lambda path: natural_key(path.name))
    families: dict[tuple[str, ...], list[_Name]] = defaultdict(list)
    for path in ordered:
        name = _Name.of(path)
        families[tuple(text.lower() for text in name.texts)].append(name)
    rising = len(families) > 1 and frame_numbers([path.name for path in ordered]) is not None
    if rising and len({_size(family[0].path) for family in families.values()}) == 1:
        return {f"*{_common_suffix(ordered)}": ordered}
    groups = [group for family in families.values() for group in _split(family)]
    return {_group_name(group): [name.path for name in group] for group in groups}


def _size(path: Path) -> tuple[int, int] | None:
    """Read width and height from the header of an image; None where it cannot be read."""
    from PIL import Image  # for few folders only

    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _varying(names: Sequence[_Name]) -> list[int]:
    """Return the positions of the numbers that are not the same in all names."""
    columns = zip(*(name.numbers for name in names), strict=True)
    return [position for position, column in enumerate(columns) if len(set(column)) > 1]


def _split(family: list[_Name]) -> list[list[_Name]]:
    """Split names with the same texts into sequences."""
    varying = _varying(family)
    values = {p: len({name.numbers[p] for name in family}) for p in varying}
    if len(varying) < 2 or max(values.values()) == len(family):
        return [family]
    frame = _frame_position(family[0], values)
    groups: dict[tuple[int, ...], list[_Name]] = defaultdict(list)
    for name in family:
        groups[tuple(name.numbers[p] for p in varying if p != frame)].append(name)
    return list(groups.values())


def _frame_position(name: _Name, values: dict[int, int]) -> int:
    """Choose the number that counts frames: the last one that does not count cameras."""
    most = max(values.values())
    for position in reversed(values):
        few = values[position] < min(MIN_FRAMES, most)
        if not few and not VIEW.search(name.texts[position].lower()):
            return position
    return max(values, key=lambda position: values[position])


def _group_name(group: list[_Name]) -> str:
    if len(group) == 1:
        return group[0].path.name
    first, varying = group[0], set(_varying(group))
    texts = list(first.texts)
    found = NUMBER.findall(first.path.stem)
    shown = ["*" if p in varying else number for p, number in enumerate(found)]
    stem = "".join(part for pair in zip(texts, [*shown, ""], strict=True) for part in pair)
    return stem + _common_suffix([name.path for name in group])


def _common_suffix(paths: Sequence[Path]) -> str:
    return Counter(path.suffix for path in paths).most_common(1)[0][0]
