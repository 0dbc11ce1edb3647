"""Count labels, and require that a recognizer can be trained on them."""

from __future__ import annotations

from collections import Counter

from pipeline.errors import SourceError
from pipeline.training.annotations import Annotations, format_rows
from pipeline.training.label_folders import SPLITS
from pipeline.training.time_lines import TimeLines


def describe_labels(labelled: Annotations | TimeLines) -> list[str]:
    """List the labels with their numbers of clips or of parts, in a line for each split."""
    lines = []
    if isinstance(labelled, TimeLines):
        several = "several labels" if labelled.multi_label else "a label"
        unit = "clips" if labelled.are_clips else "videos"
        lines.append(f"task frames: {several} for each frame of {len(labelled.items)} {unit}")
    for split in (None, *SPLITS):
        counts = _count(labelled, split)
        if counts:
            listed = ", ".join(f"{label} {counts[label]}" for label in sorted(counts))
            name = f"split {split}" if split else "labels"
            unit = "clip" if isinstance(labelled, Annotations) else "part"
            clips = f"{counts.total()} {unit}{'s' * (counts.total() != 1)}"
            lines.append(f"{name}: {listed} ({clips})")
    return lines


def _count(labelled: Annotations | TimeLines, split: str | None) -> Counter[str]:
    if isinstance(labelled, Annotations):
        return Counter(clip.label for clip in labelled.clips if clip.split == split)
    lines = [line for line in labelled.items if line.split == split]
    return sum((line.count_parts(labelled.labels) for line in lines), Counter[str]())


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
