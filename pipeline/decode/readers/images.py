"""Read a folder of numbered images, or the pages of a TIFF stack."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

from pipeline.decode.readers.base import Frame, ReaderRefused, Request, require_image
from pipeline.records import Images
from pipeline.sources.image_sequence import image_files
from pipeline.sources.pictures import Picture, PictureReader, ValueRange, list_pictures


class ImageReader:
    """Read the pictures of a folder, or of a file, that are needed, in order."""

    def __init__(self, request: Request) -> None:
        self.failed_ticks: list[int | None] = []
        self.problem = ""
        self._request = request
        values = request.index.value_range
        self._reader = PictureReader(ValueRange(*values) if values else None)

    def frames(self) -> Iterator[Frame]:
        """Read the pictures that are needed."""
        request = self._request
        pictures = list_pictures(image_files(request.location))
        times = request.index.pts.tolist()
        if len(pictures) != len(times):
            raise ReaderRefused(f"{len(pictures)} pictures, there were {len(times)} before")
        for position, (picture, ticks) in enumerate(zip(pictures, times, strict=True)):
            if request.start is not None and ticks < request.start:
                continue
            if request.wants(position):
                image = self._reader.read(picture)
                if image is None:
                    self.failed_ticks.append(ticks)
                    self.problem = self.problem or _unreadable(picture)
                    continue
                yield Frame(ticks, partial(require_image, image))
            else:
                yield Frame(ticks, partial(self._read, picture))

    def _read(self, picture: Picture) -> Images:
        image = self._reader.read(picture)
        if image is None:
            raise ReaderRefused(_unreadable(picture))
        return image


def _unreadable(picture: Picture) -> str:
    # `storage.printable` would load the libraries for tables into every decode process
    name = os.fsencode(picture.path.name).decode("utf-8", "backslashreplace")
    if picture.page is None or picture.pages == 1:
        return f"{name} is not an image that can be read"
    return f"page {picture.page.number + 1} of {name} cannot be read"
