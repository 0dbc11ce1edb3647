"""Options of fine-tuning a backbone."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from pipeline.errors import OptionError
from pipeline.temporal.options import TrainingOptions


@dataclass(frozen=True, slots=True)
class TuningOptions:
    """How the last blocks of a backbone are trained with the temporal model."""

    blocks: int = 0
    """Then fine-tune this number of blocks of the backbone, the last ones before its tap or end,
    together with the temporal model; 0 freezes the backbone."""
    epochs: int = 8
    """Maximum epochs of fine-tuning."""
    batch_size: int = 4
    """Clips per batch of fine-tuning."""
    learning_rate: float = 5e-4
    """Peak learning rate of fine-tuning; that of the blocks is a tenth."""
    backbone_rate: float = 0.1
    """Learning rate of the blocks relative to that of the temporal model."""
    frames: int = 16
    """Frames per clip, sampled again in each step, through which gradients reach the blocks; memory
    grows with them."""
    chunk: int = 32
    """Frames encoded at once; affects memory, and results only by rounding errors."""
    smallest_crop: float = 0.7
    """Minimum share of the area in random crops of frames; 1 disables cropping."""
    colour: float = 0.2
    """Maximum relative change of brightness, contrast and saturation."""
    shortest_crop: float = 0.8
    """Minimum share of the frames in random temporal crops of clips; 1 disables cropping."""
    drop_frames: float = 0.1
    """Probability with which each frame is masked in a training step."""

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
        """Return the training options of fine-tuning: those of `training` where not set here."""
        known = {field.name for field in fields(training)}
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name in known}
        return replace(training, mirror_grid=0, **own)  # frames are flipped instead
