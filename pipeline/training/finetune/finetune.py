"""
Fine-tune a backbone, and keep what came of it where it helped on the clips held back.

    outcome = fine_tune(lesson, fitted)
    outcome.backbone  # None where the one before stays
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.config import RunOptions
from pipeline.encode.backbone import Backbone, load_backbone
from pipeline.encode.custom_backbone import describe_network
from pipeline.temporal.trainer import TrainingResult
from pipeline.temporal.training_loop import Epoch, OnEpoch
from pipeline.training.finetune.blocks import last_blocks
from pipeline.training.finetune.lesson import Tuned, TuningLesson
from pipeline.training.finetune.trainer import tune


@dataclass(frozen=True)
class Outcome:
    """What came of a fine-tuning."""

    fitted: TrainingResult
    backbone: Backbone | None
    """The one that the model belongs to now; None where nothing was won, and all stays."""
    history: tuple[Epoch, ...]
    metrics: dict[str, Any]
    """As plain JSON."""


def load_tunable(options: RunOptions, blocks: int) -> Backbone:
    """
    Load the backbone that is to be fine-tuned.

    Args:
        options: name it.
        blocks: that are to learn.

    Raises:
        OptionError: it has fewer blocks, or could not be loaded again once it has been changed.
    """
    assert options.backbone is not None
    weights = Path(options.weights).expanduser() if options.weights else None
    backbone = load_backbone(
        options.backbone, weights=weights, layer=options.tap, pool_size=options.grid
    )
    last_blocks(backbone, blocks)
    describe_network(backbone)
    return backbone


def fine_tune(
    lesson: TuningLesson,
    fitted: TrainingResult,
    *,
    on_epoch: OnEpoch | None = None,
    checkpoint: Path | None = None,
) -> Outcome:
    """
    Fine-tune; what does not lower the loss on the clips held back is given up.

    With `refit`, those are learned in the end, from the model that has learned them before.

    Args:
        lesson: from a model that has not seen the clips held back.
        fitted: what stays where nothing is won.
        on_epoch: told of each epoch.
        checkpoint: as for `tune`; learning everything again has one beside it, `-all`.
    """
    tuned = tune(lesson, on_epoch=on_epoch, checkpoint=checkpoint)
    again = bool(lesson.validation) and lesson.training.refit and tuned.improved
    metrics = _describe(lesson, tuned, learned_afterwards=again)
    if not tuned.improved:
        return Outcome(fitted, None, tuned.history, metrics)
    final = tuned
    if again:
        beside = checkpoint and checkpoint.with_stem(checkpoint.stem + "-all")
        final = tune(_everything(lesson, fitted, tuned), on_epoch=on_epoch, checkpoint=beside)
    made = TrainingResult(final.model, tuned.temperature, fitted.history)
    return Outcome(made, final.backbone, tuned.history, metrics)


def _everything(lesson: TuningLesson, fitted: TrainingResult, tuned: Tuned) -> TuningLesson:
    return replace(
        lesson,
        examples=[*lesson.examples, *lesson.validation],
        validation=(),
        model=fitted.model,
        tuning=replace(lesson.tuning, epochs=len(tuned.history)),
    )


def _describe(lesson: TuningLesson, tuned: Tuned, *, learned_afterwards: bool) -> dict[str, Any]:
    best = tuned.best
    return {
        "blocks": [block.name for block in tuned.blocks],
        "kept": tuned.improved,
        "epochs": len(tuned.history),
        "best_epoch": best.number,
        "mirrored": lesson.mirror,
        "validation": {
            "clips": len(lesson.validation),
            "before": _figures(tuned.before),
            "after": _figures((best.validation_loss, best.validation_accuracy)),
            "learned_afterwards": learned_afterwards,
        },
        "history": [dataclasses.asdict(epoch) for epoch in tuned.history],
    }


def _figures(measured: tuple[float | None, float | None]) -> dict[str, float | None]:
    return dict(zip(("loss", "accuracy"), measured, strict=True))
