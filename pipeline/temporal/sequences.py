"""
Sequences with a label for each frame.

A labelled sequence is usually a whole video. Its targets are one label a frame, or with multi-label
a set of labels a frame.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IGNORED = -1
"""Target of a frame that has none: it is read by the model, but it is not in the loss."""


@dataclass(frozen=True, slots=True)
class LabelledSequence:
    """Frame features of one sequence, and the label of each frame."""

    name: str
    """For messages and tables."""
    video_id: str
    group: str
    """Scene, person or recording: all sequences of a group are on the same side of a split."""
    features: NDArray[np.float32]
    """(T, D)."""
    targets: NDArray[Any]
    """Indices of labels, int64 of shape (T,), with `IGNORED` for frames without target; or with
    multi-label whether the frame has each label, bool of shape (T, K)."""
    mask: NDArray[np.bool_]
    """True for frames that are used, (T,); the model does not see the others."""
    seconds: NDArray[np.float64]
    """Presentation time of each frame, (T,)."""
    video: str = ""
    """Path of the video, for tables; empty for synthetic sequences."""

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.features.dtype != np.float32:
            raise ValueError(
                f"features must be float32 of shape (T, D), got {self.features.dtype} "
                f"of shape {self.features.shape}"
            )
        length = self.features.shape[:1]
        for name, kind in (("mask", np.bool_), ("seconds", np.float64)):
            found = getattr(self, name)
            if found.shape != length or found.dtype != kind:
                raise ValueError(
                    f"{name} must be {np.dtype(kind)} of shape {length}, got {found.dtype} "
                    f"of shape {found.shape}"
                )
        kinds = {1: np.int64, 2: np.bool_}
        targets = self.targets
        if targets.shape[:1] != length or kinds.get(targets.ndim) != targets.dtype:
            raise ValueError(
                f"targets must be int64 of shape {length}, or bool of shape ({length[0]}, K) for "
                f"multi-label, got {targets.dtype} of shape {targets.shape}"
            )

    @property
    def multi_label(self) -> bool:
        """Whether a frame may have several labels."""
        return self.targets.ndim == 2

    @property
    def has_target(self) -> NDArray[np.bool_]:
        """Whether each frame is in the loss, (T,)."""
        return self.mask if self.multi_label else self.mask & (self.targets != IGNORED)

    def label_counts(self) -> Counter[int]:
        """Count the frames of each label that are in the loss."""
        targets = self.targets[self.has_target]
        found = np.nonzero(targets)[1] if self.multi_label else targets
        return Counter(found.tolist())


@dataclass(frozen=True, slots=True)
class LabelledSequences:
    """Labelled sequences, and the names of the labels."""

    items: tuple[LabelledSequence, ...]
    labels: tuple[str, ...]
    """K names; targets are indices into them."""
    background: str | None = None
    """The one of the labels that means that no other applies, if there is one."""
    multi_label: bool = False

    def __post_init__(self) -> None:
        if self.background is not None and self.background not in self.labels:
            raise ValueError(
                f"background must be one of the labels {self.labels}, got {self.background!r}"
            )
        check_sequences(self.items, len(self.labels), multi_label=self.multi_label)


def check_sequences(
    items: Sequence[LabelledSequence], num_labels: int, *, multi_label: bool
) -> None:
    """
    Check that targets and sizes of sequences match.

    Raises:
        ValueError: feature sizes differ, or targets do not have `num_labels` labels.
    """
    sizes = {item.features.shape[1] for item in items}
    if len(sizes) > 1:
        raise ValueError(f"all features must have the same size, got {sorted(sizes)}")
    wrong = [item.name for item in items if not _fits(item, num_labels, multi_label)]
    if wrong:
        expected = f"bool (T, {num_labels})" if multi_label else f"int64 in [-1, {num_labels})"
        raise ValueError(f"targets must be {expected}, but are not in the sequences {wrong}")


def _fits(item: LabelledSequence, num_labels: int, multi_label: bool) -> bool:
    if item.multi_label != multi_label:
        return False
    if multi_label:
        return bool(item.targets.shape[1] == num_labels)
    return bool(((item.targets >= IGNORED) & (item.targets < num_labels)).all())


def segments_of_equal_targets(item: LabelledSequence) -> list[NDArray[np.float32]]:
    """Split the features of the frames in the mask where the targets change, (l, D) each."""
    features, targets = item.features[item.mask], item.targets[item.mask]
    if not len(targets):
        return []
    changes = targets[1:] != targets[:-1]
    if item.multi_label:
        changes = changes.any(1)
    return np.split(features, np.nonzero(changes)[0] + 1)


def hash_sequences(*parts: Sequence[LabelledSequence]) -> str:
    """Hash the content and the order of sequences into 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        for item in part:
            metadata = (item.name, item.video_id, item.group, item.features.shape)
            digest.update(repr((metadata, item.targets.shape)).encode())
            for array in (item.features, item.targets, item.mask):
                digest.update(np.ascontiguousarray(array).data)
        digest.update(b"end of part")
    return digest.hexdigest()
