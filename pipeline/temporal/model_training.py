"""What trainings of a temporal model share: whether they are done, and their checkpoints."""

from __future__ import annotations

import torch

from pipeline.temporal.checkpoint import Checkpoint, optimizer_tensors, restore_optimizer
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.training_loop import TrainingProgress


class ModelTraining:
    """Model, optimizer and progress of one training."""

    model: TemporalModel
    optimizer: torch.optim.Optimizer
    progress: TrainingProgress

    @property
    def done(self) -> bool:
        """Whether no epoch is left."""
        return self.progress.done

    def checkpoint(self, key: str) -> Checkpoint:
        """Give the state to resume from."""
        return Checkpoint(
            key,
            {"history": self.progress.history_as_json()},
            {
                "model": self.model.state_dict(),
                "best": self.progress.best,
                "optimizer": optimizer_tensors(self.optimizer),
            },
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Resume from a checkpoint."""
        self.model.load_state_dict(checkpoint.tensors["model"])
        best = checkpoint.tensors.get("best", {})
        self.progress.restore(checkpoint.progress["history"], best)
        restore_optimizer(self.optimizer, checkpoint.tensors["optimizer"])
