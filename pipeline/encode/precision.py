"""Measure whether a reduced precision gives the features of float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.encode.encoder import encode_frames
from pipeline.encode.engine import Arithmetic, Engine
from pipeline.encode.engine_lock import EngineLock
from pipeline.records import FrameBatch

MIN_COSINE = 0.999
"""Smallest cosine similarity, of every frame, between its features in reduced precision and in
float32 with which the reduced precision is used."""


@dataclass(frozen=True, slots=True)
class PrecisionCheck:
    """The comparison that chose a precision."""

    precision: Arithmetic
    """The chosen one."""
    tried: Arithmetic | None = None
    """The reduced precision that was compared with float32."""
    cosine_min: float | None = None
    """Smallest cosine similarity of a frame, between reduced precision and float32."""
    cosine_mean: float | None = None
    frames: int = 0
    """Frames that were compared."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values; `from_json` reads them."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> PrecisionCheck:
        """Read what `to_json` returned; fields of other versions are ignored."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


def cosine_similarities(
    values: NDArray[np.floating], reference: NDArray[np.floating]
) -> NDArray[np.float64]:
    """
    Return the cosine similarity of each row of features, (T, D), with the reference, (T,).

    Of two rows of zeros it is 1; of a row of zeros and another one it is 0.
    """
    a, b = values.astype(np.float64), reference.astype(np.float64)
    product = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    same = np.all(a == b, axis=1)
    dots = np.einsum("td,td->t", a, b)
    return np.where(same, 1.0, dots / np.where(product > 0, product, np.inf))


def compare_precisions(
    full: Engine, reduced: Engine, batches: Sequence[FrameBatch]
) -> PrecisionCheck:
    """
    Choose between float32 and a reduced precision by comparing their features of some frames.

    If features in reduced precision are not finite, float32 is chosen.

    Args:
        full: engine in float32.
        reduced: engine in reduced precision, with the same backbone.
        batches: frames to compare on.
    """
    found = encode_exclusively(reduced, batches)
    expected = encode_exclusively(full, batches)
    if not len(found):
        return PrecisionCheck("float32", tried=reduced.precision)
    cosines = np.nan_to_num(cosine_similarities(found, expected), nan=-1.0)
    is_close = bool(cosines.min() >= MIN_COSINE)
    return PrecisionCheck(
        precision=reduced.precision if is_close else "float32",
        tried=reduced.precision,
        cosine_min=round(float(cosines.min()), 6),
        cosine_mean=round(float(cosines.mean()), 6),
        frames=len(cosines),
    )


def encode_exclusively(engine: Engine, batches: Sequence[FrameBatch]) -> NDArray[np.float16]:
    """Encode decoded frames as a run does, but without sharing the engine. Returns (T, D)."""
    encoded = encode_frames(engine, batches, EngineLock())
    return np.concatenate([part.values for part in encoded] or [np.zeros((0, 1), np.float16)])
