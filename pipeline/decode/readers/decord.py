"""Read with Decord, sequentially and strictly: the only way in which it never hangs or repeats."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any, cast

from pipeline.decode.readers.base import Frame, ReaderRefused, Request
from pipeline.records import Images


class DecordReader:
    """Read with Decord; refuses every video in which it misses, adds or cannot convert frames."""

    def __init__(self, request: Request) -> None:
        self.failed_ticks: list[int | None] = []
        self.problem = ""
        self._request, self._index = request, request.index

    def frames(self) -> Iterator[Frame]:
        """Decode and convert all frames."""
        decord = import_decord()
        if self._index.video_streams > 1 or self._index.mirrored:
            raise ReaderRefused("Decord can neither select a stream nor flip a frame")
        decord.logging.set_level(decord.logging.ERROR)
        errors = (RuntimeError, decord.DECORDError, decord.DECORDLimitReachedError)
        try:
            # strict mode: a fault tolerance above 0 and below one frame; 0 would turn it off
            video = decord.VideoReader(self._request.location, num_threads=1, fault_tol=1e-9)
        except errors as error:
            raise ReaderRefused(f"Decord cannot open it: {_first_line(error)}") from error
        for ticks in self._index.pts.tolist():
            try:
                frame = video.next()
            except StopIteration:
                break
            except errors as error:
                raise ReaderRefused(f"Decord stopped: {_first_line(error)}") from error
            yield Frame(ticks, partial(_rgb, frame))
        else:
            # strict mode reports packets that an edit list hides as missing, after the last frame
            with contextlib.suppress(StopIteration, *errors):
                video.next()
                raise ReaderRefused("Decord gave more frames than the container holds")


def import_decord() -> Any:
    """
    Import Decord without the CUDA libraries that torch has installed.

    Decord would load all of them, 600 MiB per process and a quarter of a second, in case it was
    built to decode on the GPU.
    """
    hidden = sys.modules.setdefault("nvidia", None) is None  # type: ignore[arg-type]
    try:
        import decord
    except (ImportError, OSError):  # built for the GPU
        if hidden:
            del sys.modules["nvidia"]
        import decord
    return decord


def _rgb(frame: Any) -> Images:
    image = cast(Images, frame.asnumpy())
    # Decord reads the padding of a row as more channels where the padded row length is a multiple
    # of the width. How far rows are padded depends on the processor, so the result is checked.
    if image.shape[2] != 3:
        raise ReaderRefused(f"Decord cannot convert frames of this width: got {image.shape}")
    return image


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
