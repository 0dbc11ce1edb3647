"""Read the frames of an animated WebP, with Pillow."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from PIL import Image

from pipeline.decode.readers.base import Frame, Request, require_image


class PillowReader:
    """Read all frames in order: each is drawn over the one before."""

    def __init__(self, request: Request) -> None:
        self.failed_ticks: list[int | None] = []
        self.problem = ""
        self._request = request

    def frames(self) -> Iterator[Frame]:
        """Read until the end, or the first frame that cannot be decoded."""
        request = self._request
        ticks: int | None = None
        try:
            with Image.open(request.location, formats=["WEBP"]) as image:
                for position, ticks in enumerate(request.index.pts.tolist()):
                    image.seek(position)
                    rgb = np.asarray(image.convert("RGB"))
                    yield Frame(ticks, partial(require_image, rgb))
        except (OSError, EOFError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            self.failed_ticks.append(ticks)
            self.problem = f"Pillow: {error}" if str(error) else "Pillow: no more frames"
