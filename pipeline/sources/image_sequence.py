"""Read folders of numbered images, `img_00001.jpg …`, as videos."""

from __future__ import annotations

import math
import re
from collections import Counter
from fractions import Fraction
from functools import reduce
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import cast

import cv2
import numpy as np

from pipeline.errors import VideoError
from pipeline.records import Images, VideoIndex

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key that puts `img_2` before `img_10`: numbers by value, the rest as text."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts if part)


def image_files(folder: str | Path) -> list[Path]:
    """
    List the images of a folder in natural order, without hidden files.

    If a frame exists in two formats (0001.jpg and 0001.png), the format that is more common in the
    folder is listed.
    """
    found = [
        path
        for path in Path(folder).iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    ]
    return sorted(_drop_duplicates(found), key=lambda path: natural_key(path.name))


def _drop_duplicates(paths: list[Path]) -> list[Path]:
    """Drop images that exist in a more common format too: previews, masks, partial conversions."""
    counts = Counter(path.suffix.lower() for path in paths)
    max_counts: dict[str, int] = {}
    for path in paths:
        max_counts[path.stem] = max(max_counts.get(path.stem, 0), counts[path.suffix.lower()])
    return [path for path in paths if counts[path.suffix.lower()] == max_counts[path.stem]]


def read_image(path: Path) -> Images | None:
    """Read one image as RGB uint8, (H, W, 3); None where it cannot be read."""
    try:
        data = np.fromfile(path, dtype=np.uint8)  # OpenCV cannot open every file name
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    except (OSError, cv2.error):
        return None
    if image is None:
        return None
    return cast(Images, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


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


def read_image_index(folder: str, fps: float, max_pixels: int) -> VideoIndex:
    """
    Index a folder of images: a missing number leaves a gap in time.

    Args:
        folder: absolute path.
        fps: frame rate, as given by the user.
        max_pixels: maximum width times height of the first image.

    Raises:
        VideoError: no image, no readable image, images too large, or every image in two formats.
    """
    files = image_files(folder)
    height, width = _image_size(files, max_pixels)
    numbers = frame_numbers([path.name for path in files]) or list(range(len(files)))
    # images numbered 5, 10, 15 … have a step of 5 and no gap
    steps = [b - a for a, b in pairwise(numbers)]
    step = reduce(math.gcd, steps) if steps else 1
    pts = np.array([(n - numbers[0]) // step for n in numbers], dtype=np.int64)
    rate = Fraction(fps).limit_denominator(1_000_000)
    missing = int(pts[-1]) + 1 - len(pts)
    return VideoIndex(
        format="images",
        codec=files[0].suffix[1:].lower(),
        pixel_format="rgb24",
        width=width,
        height=height,
        rotation=0,
        mirrored=False,
        interlaced=False,
        stream=0,
        video_streams=1,
        time_base=(rate.denominator, rate.numerator),
        pts=pts,
        last_duration=1,
        start_ticks=0,
        packets=len(files),
        packets_discarded=0,
        frames_from_header=len(files) + missing if missing else None,
        problem=_missing_numbers(numbers, step, missing),
    )


def _image_size(files: list[Path], max_pixels: int) -> tuple[int, int]:
    """Read the size, (height, width), of the first readable image."""
    if not files:
        raise VideoError("not_video", "the folder holds no images")
    _refuse_duplicates(files)
    first = next((image for image in map(read_image, files) if image is not None), None)
    if first is None:
        raise VideoError("undecodable", f"none of its {len(files)} images can be read")
    height, width = first.shape[:2]
    if height * width > max_pixels:
        raise VideoError(
            "too_large", f"{width} × {height} pixels; at most {max_pixels:,} are allowed"
        )
    return height, width


def _refuse_duplicates(files: list[Path]) -> None:
    if len({path.stem for path in files}) < len(files):
        kinds = " and as ".join(sorted({path.suffix for path in files}))
        raise VideoError("undecodable", f"the folder holds the same images as {kinds}: keep one")


def _missing_numbers(numbers: list[int], step: int, missing: int) -> str:
    if not missing:
        return ""
    # lazily: where names are time stamps, billions may be missing between two
    absent = chain.from_iterable(range(a + step, b, step) for a, b in pairwise(numbers))
    shown = ", ".join(map(str, islice(absent, 5))) + (", …" if missing > 5 else "")
    return f"numbers missing between the images: {shown} ({missing} in all)"
