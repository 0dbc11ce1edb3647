"""
Bring pictures near the size that an encoder wants, in the process that decoded them.

One function for all readers, so that a picture does not depend on who read it.
"""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.config import Geometry
from pipeline.records import Images


def decoded_size(height: int, width: int, geometry: Geometry) -> tuple[int, int]:
    """
    Tell the size in which a frame leaves the decode process.

    With a `reducing_gap` of 1 that is the wanted size; otherwise the frame shrunk by a whole
    factor that leaves the encoder enough for an antialiased resize of its own.
    """
    if geometry.reducing_gap == 1:
        return geometry.height, geometry.width
    factor = _factor(height, width, geometry)
    return max(1, height // factor), max(1, width // factor)


def _factor(height: int, width: int, geometry: Geometry) -> int:
    tall, wide = geometry.scaled
    if geometry.fit == "short":
        ratio = min(height, width) / min(tall, wide)
    else:
        ratio = min(height / tall, width / wide)
    return max(1, int(ratio / geometry.reducing_gap))


def shrink(picture: Images, size: tuple[int, int]) -> Images:
    """
    Bring one RGB picture, (H, W, 3), to the size that `decoded_size` told.

    Also used where a video changes its resolution on the way: all frames of a video leave in the
    size of its first.
    """
    height, width = size
    if picture.shape[:2] == size:
        return picture
    factor = picture.shape[0] // height
    if factor > 1 and picture.shape[1] // width == factor:
        # whole factors average blocks of pixels: an odd row or column at the edge is left out
        picture = picture[: height * factor, : width * factor]
    smaller = picture.shape[0] >= height and picture.shape[1] >= width
    filter_ = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (width, height), interpolation=filter_))
