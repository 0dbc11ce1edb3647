"""Precision by evidence: a reduced one is used only where features stay what they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.encode.encoder import encode_frames
from pipeline.encode.engines import Arithmetic, Engine
from pipeline.progress import Turns
from pipeline.records import FrameBatch

LEAST_COSINE = 0.999
"""A frame whose features in reduced precision agree less with those in float32 forbids it."""


@dataclass(frozen=True, slots=True)
class PrecisionCheck:
    """How a precision was chosen."""

    precision: Arithmetic
    """The one that is used."""
    tried: Arithmetic | None = None
    """The reduced one that was measured against float32."""
    cosine_min: float | None = None
    """Between its features and those of float32, of the frame where they agree least."""
    cosine_mean: float | None = None
    frames: int = 0
    """Frames that were measured."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> PrecisionCheck:
        """Read what `to_json` wrote."""
        return cls(**values)


def cosines(values: NDArray[np.floating], reference: NDArray[np.floating]) -> NDArray[np.float64]:
    """
    Give the cosine of each row of features, (T, D), with its row of the reference, (T,).

    Two rows of nothing but zeros agree; one of zeros agrees with no other.
    """
    a, b = values.astype(np.float64), reference.astype(np.float64)
    product = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    same = np.all(a == b, axis=1)
    dots = np.einsum("td,td->t", a, b)
    return np.where(same, 1.0, dots / np.where(product > 0, product, np.inf))


def compare_precisions(
    plain: Engine, reduced: Engine, batches: Sequence[FrameBatch]
) -> PrecisionCheck:
    """
    Choose between an engine in float32 and the same in reduced precision, by what frames give.

    Features that are not finite in reduced precision forbid it.
    """
    found = encode_alone(reduced, batches)
    expected = encode_alone(plain, batches)
    if not len(found):
        return PrecisionCheck("float32", tried=reduced.precision)
    agree = np.nan_to_num(cosines(found, expected), nan=-1.0)
    kept = bool(agree.min() >= LEAST_COSINE)
    return PrecisionCheck(
        precision=reduced.precision if kept else "float32",
        tried=reduced.precision,
        cosine_min=round(float(agree.min()), 6),
        cosine_mean=round(float(agree.mean()), 6),
        frames=len(agree),
    )


def encode_alone(engine: Engine, batches: Sequence[FrameBatch]) -> NDArray[np.float16]:
    """Encode decoded frames as a run does, with nobody else at the engine. Gives (T, D)."""
    encoded = encode_frames(engine, batches, Turns())
    return np.concatenate([part.values for part in encoded] or [np.zeros((0, 1), np.float16)])
