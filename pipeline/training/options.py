"""
Options of a training run: features, temporal model, training and fine-tuning.

This module imports no torch: the command line reads options and defaults from it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pipeline.config import RunOptions, require_one_of, require_positive
from pipeline.errors import OptionError
from pipeline.temporal.options import TemporalOptions, TrainingOptions
from pipeline.training.finetune.options import TuningOptions

DEFAULT_MODEL = TemporalOptions(
    cell="gru",
    size=64,
    differences=True,
    rectified=True,
    signed_root=True,
    dropout=0.3,
    layer_norm=False,
)
"""The architecture with the best accuracy in cross-validation on real clips. Layer normalization is
off: it scales all frames to the same norm and so hides how much moves."""
FRAMES_MODEL = TemporalOptions(
    cell="tcn",
    layers=9,
    size=64,
    bidirectional=True,
    dropout=0.3,
    layer_norm=False,
    refine=2,
)
"""The architecture where every frame of features made elsewhere has a label."""
FRAMES_TRAINING = TrainingOptions(
    epochs=80,
    batch_size=4,
    learning_rate=3e-3,
    smoothing=0.15,
    unroll=8192,
    shortest_crop=0.7,
    stretch=1.3,
    mix=0.6,
    steps_per_second=4.0,
    patience=80,
)
"""The training where every frame of features made elsewhere has a label."""
VIDEO_FRAMES_MODEL = replace(DEFAULT_MODEL, bidirectional=True)
"""The architecture where every frame of videos has a label. Its inputs show what moves: without
temporal differences, drawn motions in untrimmed videos were not learned."""
VIDEO_FRAMES_TRAINING = TrainingOptions(
    epochs=30,
    batch_size=2,
    learning_rate=5e-3,
    smoothing=0.15,
    unroll=8192,
    patience=30,
)
"""The training where every frame of videos has a label."""
DEFAULT_GRID = 4
"""Side of the grid to which feature maps are pooled: 3 and 4 were best in cross-validation on real
clips."""

TaskChoice = Literal["auto", "clips", "frames"]
Unlabelled = Literal["background", "ignore"]


@dataclass(frozen=True, slots=True)
class LabelOptions:
    """How labels are read, and what is learned from them."""

    task: TaskChoice = "auto"
    """Whether clips are learned, each with a label, or whole videos, with a label for each frame;
    auto is frames if all rows have times and videos have several rows."""
    unlabelled: Unlabelled = "background"
    """What frames without a row are, in the task frames: a label of their own, or left out of the
    training."""
    background: str = "background"
    """Name of the label of frames without an action."""
    multi_label: bool = False
    """Labels are independent of each other: rows may overlap, and a row may have several labels,
    such as `hug|wave`."""
    splits: str | None = None
    """Table split,video,part with parts train, validation and test; videos that are not in the
    split are left out."""
    split: str | None = None
    """The split of the table that is used."""

    @property
    def learns_frames(self) -> bool:
        """Whether a label for each frame is learned, where the task is not `auto`."""
        return self.task == "frames" or self.multi_label

    def __post_init__(self) -> None:
        require_one_of(TaskChoice, task=self.task)
        require_one_of(Unlabelled, unlabelled=self.unlabelled)
        if self.split is not None and self.splits is None:
            raise OptionError("--split chooses a split of a table: add --splits")
        if self.multi_label and self.unlabelled == "ignore":
            raise OptionError(
                "with --multi-label, frames without a row have no label: remove --unlabelled ignore"
            )


@dataclass(frozen=True, slots=True)
class ExternalFeatures:
    """Features that were made elsewhere, in place of videos."""

    features_from: str | None = None
    """Folder of features made elsewhere, in place of videos: a file NAME.npy or NAME.npz a video,
    with one row a frame."""
    features_fps: float | None = None
    """Rows per second of video in these files."""

    def __post_init__(self) -> None:
        require_positive(features_fps=self.features_fps)
        if self.features_fps is not None and self.features_from is None:
            raise OptionError("--features-fps is the rate of --features-from: add that")


def default_options(*, frames: bool, external: bool) -> tuple[TemporalOptions, TrainingOptions]:
    """
    Give the default model and training.

    Args:
        frames: whether a label for each frame is learned.
        external: whether features were made elsewhere.
    """
    if not frames:
        return DEFAULT_MODEL, TrainingOptions()
    if external:
        return FRAMES_MODEL, FRAMES_TRAINING
    return VIDEO_FRAMES_MODEL, VIDEO_FRAMES_TRAINING


@dataclass(frozen=True, slots=True)
class LearningOptions:
    """All options of a training run except the labels and the output folder."""

    run: RunOptions
    """How frames are decoded and encoded; its `recognizer` is None."""
    temporal: TemporalOptions = DEFAULT_MODEL
    training: TrainingOptions = field(default_factory=TrainingOptions)
    mirror: bool | None = None
    """Augment with clips flipped horizontally.

    None: unless a label names a side."""
    compensation: bool = False
    """Subtract what changes everywhere in the picture at once, as when the camera moves; needs a
    grid of features. Not for labels that name movements of the camera."""
    tuning: TuningOptions = field(default_factory=TuningOptions)
    """How the backbone is fine-tuned afterwards."""
    labels: LabelOptions = field(default_factory=LabelOptions)
    external: ExternalFeatures = field(default_factory=ExternalFeatures)

    def __post_init__(self) -> None:
        if self.compensation and not self.temporal.differences:
            raise OptionError("--compensation changes the differences of frames: add --differences")

    def to_json(self) -> dict[str, Any]:
        """Convert to plain values, which `from_json` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> LearningOptions:
        """
        Read what `to_json` wrote; missing options have their defaults.

        Raises:
            OptionError: a name is unknown or a value is invalid.
        """
        try:
            labels = LabelOptions(**values.get("labels", {}))
            external = ExternalFeatures(**values.get("external", {}))
            model, training = default_options(
                frames=labels.learns_frames, external=external.features_from is not None
            )
            return cls(
                RunOptions.from_json(values["run"]),
                replace(model, **values.get("temporal", {})),
                replace(training, **values.get("training", {})),
                values.get("mirror"),
                values.get("compensation", False),
                TuningOptions(**values.get("tuning", {})),
                labels,
                external,
            )
        except (KeyError, TypeError) as error:
            raise OptionError(f"invalid options: {error}") from error
