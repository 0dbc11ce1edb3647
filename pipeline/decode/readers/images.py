"""Read a folder of numbered images, with OpenCV."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pipeline.decode.readers.base import Frame, ReaderRefused, Request, require_image
from pipeline.records import Images
from pipeline.sources.image_sequence import image_files, read_image


class ImageReader:
    """Read the images of a folder that are needed, in natural order."""

    def __init__(self, request: Request) -> None:
        self.failed_ticks: list[int | None] = []
        self.problem = ""
        self._request = request

    def frames(self) -> Iterator[Frame]:
        """Read the images that are needed."""
        request = self._request
        files = image_files(request.location)
        for position, (path, ticks) in enumerate(
            zip(files, request.index.pts.tolist(), strict=True)
        ):
            if request.start is not None and ticks < request.start:
                continue
            if request.wants(position):
                image = read_image(path)
                if image is None:
                    self.failed_ticks.append(ticks)
                    self.problem = self.problem or _unreadable(path)
                    continue
                yield Frame(ticks, partial(require_image, image))
            else:
                yield Frame(ticks, partial(_read, path))


def _read(path: Path) -> Images:
    image = read_image(path)
    if image is None:
        raise ReaderRefused(_unreadable(path))
    return image


def _unreadable(path: Path) -> str:
    # `storage.printable` would load the libraries for tables into every decode process
    name = os.fsencode(path.name).decode("utf-8", "backslashreplace")
    return f"{name} is not an image that can be read"
