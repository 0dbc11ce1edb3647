"""How a backbone is fine-tuned: a frozen class, checked when made."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from pipeline.errors import OptionError
from pipeline.temporal.options import TrainingOptions


@dataclass(frozen=True, slots=True)
class TuningOptions:
    """How the last blocks of a backbone are trained with the temporal model."""

    blocks: int = 0
    """Blocks that learn, counted back from the tap, or from the end; 0 leaves all as they are."""
    epochs: int = 8
    batch_size: int = 4
    """Clips a step."""
    learning_rate: float = 5e-4
    """The highest, of the temporal model; it has been trained before."""
    backbone_rate: float = 0.1
    """Learning rate of the blocks, as a share of that."""
    frames: int = 16
    """Frames of a clip, drawn anew each step, through which gradients reach the blocks; the others
    are only read. Memory grows with them."""
    chunk: int = 32
    """Frames that are encoded at once. Changes memory, and no more than the last digits."""
    smallest_crop: float = 0.7
    """Pictures are cut to a random part of at least this share of their area; 1 leaves them."""
    colour: float = 0.2
    """Most that brightness, contrast and saturation change, as a share."""
    shortest_crop: float = 0.8
    """Clips are cut to a random part of at least this share of their frames."""
    drop_frames: float = 0.1
    """Probability that a frame does not count in a step."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "backbone_rate", "frames", "chunk"):
            if not getattr(self, name) > 0:
                raise OptionError(f"{name} must be a number above 0, got {getattr(self, name)}")
        for name in ("smallest_crop", "shortest_crop"):
            if not 0 < getattr(self, name) <= 1:
                raise OptionError(f"{name} must be in (0, 1], got {getattr(self, name)}")
        for name in ("colour", "drop_frames"):
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.blocks < 0:
            raise OptionError(f"blocks must be 0 (none) or more, got {self.blocks}")

    def steps(self, training: TrainingOptions) -> TrainingOptions:
        """Give the options of the steps: those of the training before, where none is said here."""
        known = {field.name for field in fields(training)}
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name in known}
        return replace(training, mirror_grid=0, **own)  # pictures are mirrored, not their features
