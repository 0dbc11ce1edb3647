"""
What all readers share: the request, the decoded frame, the interface.

A reader returns the frames of one video in display order. Where a container has no flaw and its
pixel format is a plain one, all readers return identical RGB images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.decode.shot_pictures import Picture, picture_of_rgb
from pipeline.records import Images, VideoIndex


class ReaderRefused(Exception):
    """This reader cannot decode this video correctly; the next reader should try."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a reader has to decode."""

    location: str
    """Absolute path of a file, or of a folder of images."""
    index: VideoIndex
    start: int | None
    """Timestamp of the first frame that is needed, in ticks; None reads from the beginning."""
    wants: Callable[[int], bool]
    """Whether the image of a frame, given by its position in the video, may be needed."""
    all_frames: bool = False
    """Whether the small picture of every frame is needed."""


@dataclass(slots=True)
class Frame:
    """A decoded frame; `rgb` converts it to an upright RGB image, uint8 (H, W, 3)."""

    ticks: int | None
    """Presentation timestamp in ticks; None where the decoder gives none."""
    rgb: Callable[[], Images]
    damaged: bool = False
    """Whether the decoder marked the frame as corrupt."""
    picture: Callable[[], Picture] | None = None
    """Makes the small picture without the RGB image, if the reader can."""

    def small(self) -> Picture:
        """Make the small grey picture, (48, 64), in which shots are found."""
        if self.picture is not None:
            return self.picture()
        image = self.rgb()
        self.rgb = lambda: image  # the frame may also be a sample
        return picture_of_rgb(image)


class Reader(Protocol):
    """Reads the frames of one video in display order."""

    failed_ticks: list[int | None]
    """Timestamps of the packets, or images, that could not be decoded so far."""
    problem: str
    """The first error while reading; empty if there was none."""

    def frames(self) -> Iterator[Frame]:
        """
        Decode from the beginning, or from a key frame at or before the requested start.

        Raises:
            ReaderRefused: this reader cannot decode this video, or not correctly.
        """


def rotate_upright(image: Images, index: VideoIndex) -> Images:
    """Flip and rotate a stored image, (H, W, 3), by the display matrix of its container."""
    if index.mirrored:
        image = image[:, ::-1]
    return np.rot90(image, k=-index.rotation // 90) if index.rotation else image


def require_image(image: Images | None) -> Images:
    """
    Return the image of a frame that was converted while reading.

    Raises:
        ReaderRefused: the frame was skipped, since `Request.wants` did not expect it.
    """
    if image is None:
        raise ReaderRefused("a skipped frame turned out to be needed")
    return image
