"""
Fine-tune a backbone, and keep it if the validation loss becomes lower.

    outcome = fine_tune(task, trained)
    outcome.backbone  # None if fine-tuning did not help
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
from pipeline.training.finetune.trainer import FinetuneResult, FinetuneTask, run_finetune


@dataclass(frozen=True)
class FinetuneOutcome:
    """The model and backbone to use after fine-tuning."""

    trained: TrainingResult
    """Of fine-tuning, or the one before if that did not help."""
    backbone: Backbone | None
    """Fine-tuned; None if that did not help."""
    history: tuple[Epoch, ...]
    metrics: dict[str, Any]
    """As plain JSON."""


def load_tunable(options: RunOptions, blocks: int) -> Backbone:
    """
    Load the backbone that will be fine-tuned.

    Args:
        options: name of the backbone, weights, tap and grid.
        blocks: number of blocks to fine-tune.

    Raises:
        OptionError: it has fewer blocks, or could not be loaded again after fine-tuning.
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
    task: FinetuneTask,
    trained: TrainingResult,
    *,
    on_epoch: OnEpoch | None = None,
    checkpoint: Path | None = None,
) -> FinetuneOutcome:
    """
    Fine-tune a backbone; the result is discarded unless it lowers the validation loss.

    With `refit`, the backbone is finally fine-tuned on all clips, together with the model that was
    trained on all clips.

    Args:
        task: its model was not trained on the validation set.
        trained: result of the training before, used if fine-tuning does not help.
        on_epoch: called after each epoch.
        checkpoint: as for `run_finetune`; the one of `refit` is beside it, with `-all` in its name.
    """
    result = run_finetune(task, on_epoch=on_epoch, checkpoint=checkpoint)
    refit = bool(task.validation) and task.training.refit and result.improved
    metrics = _metrics(task, result, refit=refit)
    if not result.improved:
        return FinetuneOutcome(trained, None, result.history, metrics)
    final = result
    if refit:
        beside = checkpoint and checkpoint.with_stem(checkpoint.stem + "-all")
        all_clips = _on_all_clips(task, trained, len(result.history))
        final = run_finetune(all_clips, on_epoch=on_epoch, checkpoint=beside)
    finetuned = TrainingResult(final.model, result.temperature, trained.history)
    return FinetuneOutcome(finetuned, final.backbone, result.history, metrics)


def _on_all_clips(task: FinetuneTask, trained: TrainingResult, epochs: int) -> FinetuneTask:
    return replace(
        task,
        examples=[*task.examples, *task.validation],
        validation=(),
        model=trained.model,
        tuning=replace(task.tuning, epochs=epochs),
    )


def _metrics(task: FinetuneTask, result: FinetuneResult, *, refit: bool) -> dict[str, Any]:
    best = result.best
    return {
        "blocks": [block.name for block in result.blocks],
        "kept": result.improved,
        "epochs": len(result.history),
        "best_epoch": best.number,
        "mirrored": task.mirror,
        "validation": {
            "clips": len(task.validation),
            "before": _loss_and_accuracy(result.before),
            "after": _loss_and_accuracy((best.validation_loss, best.validation_accuracy)),
            "learned_afterwards": refit,
        },
        "history": [dataclasses.asdict(epoch) for epoch in result.history],
    }


def _loss_and_accuracy(values: tuple[float | None, float | None]) -> dict[str, float | None]:
    return dict(zip(("loss", "accuracy"), values, strict=True))
