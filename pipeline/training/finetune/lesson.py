"""What a fine-tuning is given, and what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config import fingerprint
from pipeline.encode.backbone import Backbone, hash_weights
from pipeline.temporal.batching import Example, hash_examples
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import TrainingOptions
from pipeline.temporal.training_loop import Epoch, Validation, best_epoch
from pipeline.training.finetune.blocks import Block
from pipeline.training.finetune.frame_cache import PictureCache
from pipeline.training.finetune.options import TuningOptions


@dataclass(frozen=True)
class TuningLesson:
    """What is learned, what is held back, and from where on."""

    examples: Sequence[Example]
    validation: Sequence[Example]
    backbone: Backbone
    model: TemporalModel
    """Trained on features of that backbone; neither is changed."""
    cache: PictureCache
    tuning: TuningOptions
    training: TrainingOptions
    """Of the training before."""
    mirror: bool
    """Whether labels stay true in a mirror."""

    @property
    def key(self) -> str:
        """Fingerprint of all of it."""
        return fingerprint(
            self.tuning,
            self.training,
            self.mirror,
            self.backbone.identity,
            self.cache.folder.name,
            hash_weights(self.model),
            hash_examples(self.examples, self.validation),
        )


@dataclass(frozen=True)
class Tuned:
    """A backbone and a temporal model that were trained together, both on the CPU."""

    backbone: Backbone
    model: TemporalModel
    temperature: float
    blocks: tuple[Block, ...]
    """That were trained."""
    before: Validation
    history: tuple[Epoch, ...]

    @property
    def best(self) -> Epoch:
        """The epoch with the lowest validation loss, or the last where nothing was held back."""
        return best_epoch(self.history)

    @property
    def improved(self) -> bool:
        """Whether the loss on what was held back fell; also where nothing was."""
        before, after = self.before[0], self.best.validation_loss
        return before is None or after is None or after < before
