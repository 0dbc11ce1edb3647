"""
Find hard cuts, exact to the frame, in small pictures of all frames.

Most frames are dismissed by one number, their difference from the frame before. A frame that
differs more than its neighbours is compared further:

* Where a frame shortly before resembles one shortly after, it was a flash or a passing object.
* Parts of the last frame before a cut are not found anywhere in the first frame after it, while
  parts of a moving picture are, at another place.

The result for a frame depends on `REACH` frames before and after it, and on nothing else: so parts
of a video give what the whole video gives.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.decode.shot_pictures import HEIGHT, WIDTH

Pictures = NDArray[np.uint8]
"""(T, 48, 64), of consecutive frames."""

NEIGHBOURS = 6
"""Frames before and after a cut whose differences are compared with its own."""
FLASH = 5
"""Longest flash, in frames."""
REACH = NEIGHBOURS + 1
"""Frames before and after a frame that decide whether it begins a shot."""
MIN_CHANGE = 4.0
"""Least mean difference of grey levels of a cut."""
MIN_RATIO = 1.2
"""Least ratio of the difference to the third largest one nearby."""
MIN_RETURN = 0.45
"""Least difference between any frame before and any after, as a share of that at the cut."""
FLAT = 5.0
"""Standard deviation of grey levels below which a picture shows nothing."""
MIN_CHANGE_FLAT = 15.0
"""Least difference of a cut from or to a flat picture: otherwise it is a part of a fade."""
PATCH, PATCH_ROWS, PATCH_COLUMNS = 20, (3, 25), (2, 22, 42)
"""Side and places of the six parts of a picture that are searched for in another one, in pixels."""
SEARCH_ROWS, SEARCH_COLUMNS = 10, 20
"""How far they are searched for, in pixels."""
MIN_CONTRAST = 2.0
"""Standard deviation of grey levels above which a part is searched for."""
UNKNOWN_SIMILARITY = 0.5
"""Where no part of a picture shows anything that could be found again."""
WEIGHTS = {"change": 0.25, "ratio": 3.4, "difference": 19.5, "motion": -8.6}
"""Of the logistic regression; fitted to videos of `tests/benchmarks/shot_clips.py`."""
BIAS = -7.2
MIN_LOGIT = -3.0
"""Least logit, with the similarity of pictures reduced by 2, to examine a picture further."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A hard cut."""

    position: int
    """Of the first frame after it, among the pictures."""
    score: float
    """Probability, in [0.5, 1]."""


def find_cuts(pictures: Pictures, start: int = 0, stop: int | None = None) -> list[Cut]:
    """
    Find the hard cuts in front of the pictures [start, stop), all by default.

    Args:
        pictures: with `REACH` pictures before `start` and after `stop`, except at the ends of a
            video.
        start, stop: which positions are examined.
    """
    stop = len(pictures) if stop is None else stop
    first = max(0, start - REACH)
    changes = differences(pictures[first : stop + REACH])
    found = []
    for position in range(max(1, start), stop):
        if changes[position - first] >= MIN_CHANGE:
            score = _cut_score(pictures, changes, position, first)
            if score >= 0.5:
                found.append(Cut(position, score))
    return found


def differences(pictures: Pictures) -> list[float]:
    """Compute the difference of each picture to the one before, (T,); 0 for the first."""
    return [0.0, *(difference(a, b) for a, b in pairwise(pictures))] if len(pictures) else []


def difference(a: Pictures, b: Pictures) -> float:
    """Compute the mean absolute difference of two pictures in grey levels."""
    return float(cv2.norm(a, b, cv2.NORM_L1)) / (HEIGHT * WIDTH)


def _cut_score(pictures: Pictures, changes: list[float], position: int, first: int) -> float:
    """Compute the probability of a cut in front of a picture; 0 where it is certainly none."""
    here = position - first
    change = changes[here]
    near = sorted(
        [*changes[max(1, here - NEIGHBOURS) : here], *changes[here + 1 : here + 1 + NEIGHBOURS]]
    )
    near = [0.0, 0.0, 0.0, *near]
    if change <= MIN_RATIO * near[-3]:
        return 0.0
    before, after = pictures[position - 1], pictures[position]
    if change < MIN_CHANGE_FLAT and min(contrast(before), contrast(after)) < FLAT:
        return 0.0
    if _returns(pictures, position, MIN_RETURN * change):
        return 0.0
    logit = (
        BIAS
        + WEIGHTS["change"] * math.log(change)
        + WEIGHTS["ratio"] * math.log((change + 1) / (near[-2] + 1))
    )
    for scale, least in ((2, MIN_LOGIT), (1, 0.0)):
        different = 1 - similarity(before, after, scale)
        if logit + WEIGHTS["difference"] * different < least:
            return 0.0
    logit += WEIGHTS["difference"] * different
    pairs = [(p, p + 1) for p in (position - 2, position) if 0 <= p < len(pictures) - 1]
    motion = 1 - min([similarity(pictures[a], pictures[b]) for a, b in pairs], default=1.0)
    return 1 / (1 + math.exp(-(logit + WEIGHTS["motion"] * motion)))


def contrast(picture: Pictures) -> float:
    """Compute the standard deviation of the grey levels."""
    return float(cv2.meanStdDev(picture)[1][0, 0])


def _returns(pictures: Pictures, position: int, limit: float) -> bool:
    """
    Whether the picture before a flash returns after it.

    Either the picture before the position differs less than a limit from one shortly after it, or
    the picture at the position from one shortly before it.
    """
    before, after = pictures[position - 1], pictures[position]
    later = pictures[position + 1 : position + FLASH + 1]
    earlier = pictures[max(0, position - FLASH) : position - 1]
    return any(difference(before, picture) < limit for picture in later) or any(
        difference(after, picture) < limit for picture in earlier
    )


def similarity(a: Pictures, b: Pictures, scale: int = 1) -> float:
    """
    Compute how well parts of a picture are found in another one, near their place.

    Args:
        a, b: two pictures.
        scale: by which both are reduced first; 2 is less exact and ten times as fast.

    Returns:
        The median over six parts of the best normalized cross-correlation, at most 1.
    """
    if scale > 1:
        size = (WIDTH // scale, HEIGHT // scale)
        a, b = (cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in (a, b))
    side, rows, columns = PATCH // scale, SEARCH_ROWS // scale, SEARCH_COLUMNS // scale
    found = []
    for row in (place // scale for place in PATCH_ROWS):
        for column in (place // scale for place in PATCH_COLUMNS):
            patch = a[row : row + side, column : column + side]
            if contrast(patch) <= MIN_CONTRAST:
                continue
            top, left = max(0, row - rows), max(0, column - columns)
            area = b[top : row + side + rows, left : column + side + columns]
            matches = cv2.matchTemplate(area, patch, cv2.TM_CCOEFF_NORMED)
            found.append(cv2.minMaxLoc(matches)[1])
    return float(statistics.median(found)) if found else UNKNOWN_SIMILARITY
