"""
Options of a training run: features, temporal model, training and fine-tuning.

This module imports no torch: the command line reads options and defaults from it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.config import RunOptions
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
DEFAULT_GRID = 4
"""Side of the grid to which feature maps are pooled: 3 and 4 were best in cross-validation on real
clips."""


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
    tuning: TuningOptions = field(default_factory=TuningOptions)
    """How the backbone is fine-tuned afterwards."""

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
            return cls(
                RunOptions.from_json(values["run"]),
                replace(DEFAULT_MODEL, **values.get("temporal", {})),
                TrainingOptions(**values.get("training", {})),
                values.get("mirror"),
                TuningOptions(**values.get("tuning", {})),
            )
        except (KeyError, TypeError) as error:
            raise OptionError(f"invalid options: {error}") from error
