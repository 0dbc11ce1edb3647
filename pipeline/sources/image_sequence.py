"""Read folders of numbered images, `img_00001.jpg …`, and TIFF stacks as videos."""

from __future__ import annotations

import errno
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import reduce
from itertools import chain, islice, pairwise
from pathlib import Path

import numpy as np

from pipeline.errors import VideoError
from pipeline.records import Integers, VideoIndex
from pipeline.sources.pictures import (
    Picture,
    find_value_range,
    is_stack,
    list_pictures,
    read_image,
)
from pipeline.sources.sequences import (
    frame_numbers,
    group_images,
    natural_key,
    varying_numbers,
)
from pipeline.sources.tiff import TIFF_SUFFIXES

IMAGE_SUFFIXES = TIFF_SUFFIXES | {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".pnm"}


def image_files(location: str | Path) -> list[Path]:
    """
    List the images of a sequence in natural order, without hidden files.

    If a frame exists in two formats (0001.jpg and 0001.png), the format that is more common in the
    folder is listed.

    Args:
        location: a folder, of which all images are listed; a file, which may be a TIFF stack; or
            one of several sequences in a folder, named like `folder/camA_*.png`.

    Raises:
        OSError: there is no such file, folder or sequence.
    """
    path = Path(location)
    if path.is_dir() or not path.name:
        return _images(path)
    if path.exists():
        return [path]
    found = group_images(_images(path.parent)).get(path.name)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return found


def is_image_sequence(location: str) -> bool:
    """Whether this is a folder, a sequence like `folder/camA_*.png`, or a TIFF stack."""
    path = Path(location)
    return path.is_dir() or is_stack(path) if path.exists() else source_exists(location)


def source_exists(location: str) -> bool:
    """Whether a file, a folder, or a sequence like `folder/camA_*.png` is there."""
    if os.path.exists(location):
        return True
    try:
        return "*" in os.path.basename(location) and bool(image_files(location))
    except OSError:
        return False


def _images(folder: Path) -> list[Path]:
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    ]
    return sorted(drop_duplicates(found), key=lambda path: natural_key(path.name))


def drop_duplicates(paths: list[Path]) -> list[Path]:
    """Drop images that exist in a more common format too: previews, masks, partial conversions."""
    counts = Counter(path.suffix.lower() for path in paths)
    max_counts: dict[str, int] = {}
    for path in paths:
        max_counts[path.stem] = max(max_counts.get(path.stem, 0), counts[path.suffix.lower()])
    return [path for path in paths if counts[path.suffix.lower()] == max_counts[path.stem]]


def read_image_index(
    folder: str, fps: float, max_pixels: int, progress: Callable[[int], None] = lambda count: None
) -> VideoIndex:
    """
    Index a folder of images: a missing number leaves a gap in time.

    All pages of a TIFF are frames. Where there are several, frames follow without gaps, and a
    missing number of a file is only noted.

    Args:
        folder: absolute path of a folder, or of a TIFF stack.
        fps: frame rate, as given by the user.
        max_pixels: maximum width times height of the first image.
        progress: called with the number of pictures that were read.

    Raises:
        VideoError: no image, no readable image, images too large, or every image in two formats.
    """
    files = image_files(folder)
    pictures = list_pictures(files)
    height, width = _image_size(files, max_pixels)
    values, note = find_value_range(pictures, progress)
    pts, claimed, missing = _frame_times(files, pictures)
    stacks = any(picture.pages > 1 for picture in pictures)
    rate = Fraction(fps).limit_denominator(1_000_000)
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
        packets=len(pictures),
        packets_discarded=0,
        frames_from_header=claimed if claimed > len(pictures) else None,
        problem="" if stacks else missing,
        value_range=(values.black, values.white) if values else None,
        note="; ".join(filter(None, [note, missing if stacks else ""])),
    )


def _frame_times(files: Sequence[Path], pictures: Sequence[Picture]) -> tuple[Integers, int, str]:
    """
    Compute the times of frames from the numbers of the files; pages follow each other.

    Returns:
        Times in ticks of one frame, the number of frames that should be there, and what is missing.
    """
    numbers = frame_numbers([path.name for path in files]) or varying_numbers(files)
    numbers = numbers or list(range(len(files)))
    # images numbered 5, 10, 15 … have a step of 5 and no gap
    steps = [b - a for a, b in pairwise(numbers)]
    step = reduce(math.gcd, steps) if steps else 1
    pts = np.array([(n - numbers[0]) // step for n in numbers], dtype=np.int64)
    missing = int(pts[-1]) + 1 - len(pts)
    problem = _missing_numbers(numbers, step, missing)
    firsts = {picture.path: picture for picture in reversed(pictures)}
    pages = sum(map(_pages_claimed, firsts.values()))
    if pages > len(files):
        return np.arange(len(pictures)), pages, problem
    return pts, len(pictures) + missing, problem


def _pages_claimed(first: Picture) -> int:
    """Count the pages of a file: ImageJ may claim more than there are."""
    claimed = first.page.images_claimed if first.page is not None else None
    return max(first.pages, claimed or 0)


def _image_size(files: Sequence[Path], max_pixels: int) -> tuple[int, int]:
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


def _refuse_duplicates(files: Sequence[Path]) -> None:
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
