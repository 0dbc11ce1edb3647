"""Count labels, and require that a recognizer can be trained on them."""

from __future__ import annotations

from collections import Counter

from pipeline.errors import SourceError
from pipeline.training.annotations import Annotations, format_rows
from pipeline.training.label_folders import SPLITS


def describe_labels(annotations: Annotations) -> list[str]:
    """List the labels with their numbers of clips, in a line for each split."""
    lines = []
    for split in (None, *SPLITS):
        counts = Counter(clip.label for clip in annotations.clips if clip.split == split)
        if counts:
            listed = ", ".join(f"{label} {counts[label]}" for label in sorted(counts))
            name = f"split {split}" if split else "labels"
            clips = f"{counts.total()} clip{'s' * (counts.total() != 1)}"
            lines.append(f"{name}: {listed} ({clips})")
    return lines


def require_two_labels(annotations: Annotations) -> None:
    """
    Require that there is something to tell apart.

    Raises:
        SourceError: there is one label.
    """
    labels = annotations.labels
    if len(labels) == 1:
        raise SourceError(
            f"all clips have the label {labels[0]}: training needs two labels or more"
        )


def require_trainable(annotations: Annotations) -> None:
    """
    Require two labels, and training clips of each.

    Raises:
        SourceError: there is one label, or a label has no clip to train on.
    """
    require_two_labels(annotations)
    clips = annotations.clips
    trained = {clip.label for clip in clips if clip.split in (None, "train")}
    missing = [label for label in annotations.labels if label not in trained]
    if missing:
        rows = format_rows(clip for clip in clips if clip.label in missing)
        raise SourceError(f"no clip of the split train has the label {', '.join(missing)} ({rows})")
