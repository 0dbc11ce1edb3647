"""
Downscale images towards the size that an encoder needs, in the process that decoded them.

One function for all readers, so that an image does not depend on the reader.
"""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.config import Geometry
from pipeline.records import Images


def decoded_size(height: int, width: int, geometry: Geometry) -> tuple[int, int]:
    """
    Compute the size, (h, w), in which frames leave the decode process.

    With a `reducing_gap` of 1 this is the size of the geometry; otherwise the frame divided by an
    integer factor that leaves the encoder enough pixels for its own antialiased resize.
    """
    if geometry.reducing_gap == 1:
        return geometry.height, geometry.width
    factor = _factor(height, width, geometry)
    return max(1, height // factor), max(1, width // factor)


def _factor(height: int, width: int, geometry: Geometry) -> int:
    scaled_height, scaled_width = geometry.scaled
    if geometry.fit == "short":
        ratio = min(height, width) / min(scaled_height, scaled_width)
    else:
        ratio = min(height / scaled_height, width / scaled_width)
    return max(1, int(ratio / geometry.reducing_gap))


def downscale(image: Images, size: tuple[int, int]) -> Images:
    """
    Resize one RGB image, (H, W, 3), to the size, (h, w), that `decoded_size` returned.

    Enlarges as well: where a video changes its resolution, all frames leave in the size of the
    first.
    """
    height, width = size
    if image.shape[:2] == size:
        return image
    factor = image.shape[0] // height
    if factor > 1 and image.shape[1] // width == factor:
        # an integer factor averages blocks of pixels: odd rows and columns at the edge are cropped
        image = image[: height * factor, : width * factor]
    smaller = image.shape[0] >= height and image.shape[1] >= width
    interpolation = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation))
