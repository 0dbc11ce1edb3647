"""The command `evaluate`: measure the accuracy of a recognizer, and compare it with baselines."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from flows.cli.derive import Given, Option, option_group, takes
from flows.cli.options import (
    CACHE,
    DECODING,
    ENCODING,
    EXTERNAL,
    LABELS,
    RECOGNIZER_BACKBONE,
    AsJson,
    LabelsTable,
    OutputFolder,
    Quiet,
    VideosFolder,
    recognizer_options,
)

if TYPE_CHECKING:
    from pipeline.config import Device
    from pipeline.evaluation.evaluate import CrossValidation
    from pipeline.evaluation.frame_predictions import FrameFoldResult
    from pipeline.evaluation.predictions import FoldResult
    from pipeline.recognition.recognizer import Recognizer
    from pipeline.temporal.options import TrainingOptions
    from pipeline.training.build_dataset import LabelledDataset
    from pipeline.training.feature_source import FeatureReader
    from pipeline.training.labelled import Labelled
    from pipeline.training.sequence_dataset import SequenceDataset

    OnTraining = Callable[[FoldResult | FrameFoldResult], None]

Rows = list[list[str]]
"""Cells of a table; the first row is the header."""
FEATURES = CACHE.only(
    *("backbone", "weights", "features", "image_fps", "shots", "full_hash")
).change(backbone=RECOGNIZER_BACKBONE)
RecognizerName = Annotated[str, Parameter(help="A bundled recognizer, or the folder of one.")]


@dataclass(frozen=True, slots=True)
class Retraining:
    """Whether and how models are trained again."""

    folds: int | None = None
    """Cross-validate: train the same model again in FOLDS folds of groups; 0 leaves out one group
    at a time."""
    seeds: int = 1
    """Trainings per fold, each with another random seed."""


RETRAINING = option_group(
    Retraining,
    folds=Option(minimum=0, default="evaluate the saved model"),
    seeds=Option(minimum=1),
)


SPLITS = LABELS.only("splits", "split")
RATE = EXTERNAL.change(features_fps={"default": "that of the training"})


@takes(RETRAINING, SPLITS, RATE, FEATURES, ENCODING.only("device", "precision"), DECODING)
def evaluate(
    recognizer: RecognizerName,
    labels: LabelsTable,
    /,
    *,
    out: OutputFolder,
    videos: VideosFolder | None = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    given: Given,
) -> None:
    """Evaluate a recognizer on labelled clips or time lines, beside baselines and shuffled frames.

    Tables, figures and a page are written to OUT. Features stored by train are reused.
    """
    from flows.cli.dataset import gather_for, read_labels, reading_of
    from pipeline.recognition.recognizer import load_recognizer
    from pipeline.training.sequence_dataset import SequenceDataset

    chosen = Retraining(**given[Retraining])
    silent = quiet or as_json
    saved = load_recognizer(recognizer)
    reading = reading_of(saved, given)
    labelled = read_labels(labels, videos, reading, quiet=silent)
    _require_compatible(saved, labelled, chosen.folds)
    options = recognizer_options(given, recognizer, saved.backbone.precision)
    known = chosen.folds is None
    dataset, store = gather_for(saved, labelled, reading, options, quiet=silent, known=known)
    task = _Evaluation(saved, chosen, options.encode.device, quiet=silent)
    if isinstance(dataset, SequenceDataset):
        found, tables = _evaluate_frames(task, dataset, out)
    else:
        found, tables = _evaluate_clips(task, dataset, store, out)
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    elif not quiet:
        _print(tables, found["warnings"], out)


@dataclass(frozen=True)
class _Evaluation:
    """What is evaluated, and how."""

    saved: Recognizer
    retraining: Retraining
    device: Device
    quiet: bool

    def training(self, labels: Sequence[str]) -> TrainingOptions:
        """Return the options for training the recognizer again, on labels."""
        from pipeline.evaluation.evaluate import retraining_options

        return replace(retraining_options(self.saved, labels), device=self.device)


def _evaluate_clips(
    task: _Evaluation, dataset: LabelledDataset, store: FeatureReader, out: Path
) -> tuple[dict[str, Any], list[Rows]]:
    """Evaluate a recognizer of clips. Returns metrics, and tables to print."""
    from pipeline.evaluation.evaluate import (
        CrossValidation,
        evaluate_folds,
        evaluate_saved,
        make_folds,
        read_stored,
    )
    from pipeline.evaluation.report import write_report
    from pipeline.evaluation.tables import class_table, method_table, metrics, write_evaluation

    chosen, read = task.retraining, read_stored(store)
    if chosen.folds is None:
        found = evaluate_saved(task.saved, dataset, read)
    else:
        folds = make_folds(dataset.examples, chosen.folds)
        plan = CrossValidation(tuple(folds), task.training(dataset.labels), chosen.seeds)
        with _show_trainings(plan, quiet=task.quiet) as on_fold:
            found = evaluate_folds(task.saved, dataset, plan, read, on_fold)
    write_evaluation(found, out)
    write_report(found, out)
    tables = [method_table(found.methods), class_table(found), method_table(found.sequence_methods)]
    return metrics(found), tables


def _evaluate_frames(
    task: _Evaluation, dataset: SequenceDataset, out: Path
) -> tuple[dict[str, Any], list[Rows]]:
    """Evaluate a recognizer of frames. Returns metrics, and tables to print."""
    from pipeline.evaluation.evaluate import CrossValidation
    from pipeline.evaluation.evaluate_frames import (
        evaluate_frame_folds,
        evaluate_saved_frames,
        make_sequence_folds,
    )
    from pipeline.evaluation.frame_report import write_frame_report
    from pipeline.evaluation.frame_tables import (
        fold_table,
        frame_metrics,
        label_table,
        write_frame_evaluation,
    )
    from pipeline.evaluation.tables import method_table

    chosen = task.retraining
    if chosen.folds is None:
        found = evaluate_saved_frames(task.saved, dataset)
    else:
        folds = make_sequence_folds(dataset, chosen.folds)
        plan = CrossValidation(tuple(folds), task.training(dataset.labels), chosen.seeds)
        with _show_trainings(plan, quiet=task.quiet) as on_fold:
            found = evaluate_frame_folds(task.saved, dataset, plan, on_fold)
    write_frame_evaluation(found, out)
    write_frame_report(found, out)
    tables = [method_table(found.methods), label_table(found), fold_table(found)]
    return frame_metrics(found), tables


def _require_compatible(saved: Recognizer, labelled: Labelled, folds: int | None) -> None:
    """Check labels, groups and notes before anything is decoded."""
    from pipeline.evaluation.cross_validation import group_folds
    from pipeline.evaluation.evaluate import require_known_labels, training_options
    from pipeline.training.annotations import require_groups
    from pipeline.training.label_counts import require_two_labels
    from pipeline.training.time_lines import TimeLines

    if folds is None:
        require_known_labels(saved, labelled.labels)
        return
    training_options(saved)
    if isinstance(labelled, TimeLines):
        groups = [line.group for line in labelled.items]
        group_folds(groups, [""] * len(groups), folds)
        return
    require_two_labels(labelled)
    require_groups(labelled)
    clips = labelled.clips
    group_folds([clip.group for clip in clips], [clip.label for clip in clips], folds)


@contextmanager
def _show_trainings(plan: CrossValidation, *, quiet: bool) -> Iterator[OnTraining | None]:
    """Show the number and accuracy of the trainings that are done, by a function that is given."""
    from flows.cli.console import count

    if quiet:
        yield None
        return
    done = 0
    with count("trainings", len(plan.folds) * plan.seeds) as show:

        def on_fold(one: FoldResult | FrameFoldResult) -> None:
            nonlocal done
            done += 1
            text = f"without {one.fold.name}, seed {one.seed}: accuracy {one.accuracy:.3f}"
            show(done, text)

        yield on_fold


def _print(tables: Sequence[Rows], warnings: Sequence[str], out: Path) -> None:
    from flows.cli.console import print_error, print_line, print_table

    for head, *rows in filter(None, tables):
        print_table(head, rows)
        print_line()
    for warning in warnings:
        print_error(f"warning: {warning}")
    print_line(f"page: {out / 'report.html'}   tables: {out}/*.parquet")
