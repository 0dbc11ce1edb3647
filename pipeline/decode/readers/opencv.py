"""Read with OpenCV: converts only the frames that are needed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import cv2
import numpy as np

from pipeline.decode.readers.base import (
    Frame,
    ReaderRefused,
    Request,
    require_image,
    rotate_upright,
)
from pipeline.records import Images


class OpenCVReader:
    """Read with OpenCV, one thread, from the beginning of the file."""

    def __init__(self, request: Request) -> None:
        self.failed_ticks: list[int | None] = []
        self.problem = ""
        self._request, self._index = request, request.index

    def frames(self) -> Iterator[Frame]:
        """Decode all frames, convert those that are needed."""
        if self._index.video_streams > 1:
            raise ReaderRefused("OpenCV cannot select one of several video streams")
        capture = cv2.VideoCapture(
            self._request.location, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1]
        )
        try:
            if not capture.isOpened():
                raise ReaderRefused("OpenCV cannot open it")
            capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
            count = 0
            while capture.grab():
                ticks = self._ticks(capture.get(cv2.CAP_PROP_POS_MSEC))
                wanted = self._request.all_frames or self._request.wants(
                    self._frame_index(ticks, count)
                )
                image = self._rgb(capture) if wanted else None
                yield Frame(ticks, partial(require_image, image))
                count += 1
        finally:
            capture.release()

    def _ticks(self, milliseconds: float) -> int:
        # OpenCV counts from the start of the stream
        return self._index.start_ticks + round(milliseconds / 1e3 / self._index.tick_seconds)

    def _frame_index(self, ticks: int, count: int) -> int:
        if not self._index.steady:
            return count
        return int(np.searchsorted(self._index.pts, ticks, side="right")) - 1

    def _rgb(self, capture: Any) -> Images:
        done, image = capture.retrieve()
        if not done:
            raise ReaderRefused("OpenCV could not convert a frame")
        return rotate_upright(cast(Images, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)), self._index)
