"""The command `evaluate`: measure the accuracy of a recognizer, and compare it with baselines."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from pipeline.errors import OptionError

if TYPE_CHECKING:
    from pipeline.config import Device
    from pipeline.evaluation.evaluate import CrossValidation, Evaluation
    from pipeline.evaluation.predictions import FoldResult
    from pipeline.recognition.recognizer import Recognizer
    from pipeline.training.build_dataset import LabelledDataset
    from pipeline.training.feature_source import FeatureReader
    from pipeline.training.labelled import Labelled
    from pipeline.training.sequence_dataset import SequenceDataset

FEATURES = CACHE.only("backbone", "weights", "features", "image_fps", "full_hash").change(
    backbone=RECOGNIZER_BACKBONE
)
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
    """Evaluate a recognizer on labelled clips or time lines, beside baselines.

    Tables, figures and a page are written to OUT. Features stored by train are reused.
    """
    from flows.cli.dataset import gather_for, read_labels, reading_of
    from pipeline.evaluation.report import write_report
    from pipeline.evaluation.tables import metrics, write_evaluation
    from pipeline.recognition.recognizer import load_recognizer
    from pipeline.training.sequence_dataset import SequenceDataset

    chosen = Retraining(**given[Retraining])
    silent = quiet or as_json
    saved = load_recognizer(recognizer)
    reading = reading_of(saved, given)
    labelled = read_labels(labels, videos, reading, quiet=silent)
    _require_compatible(saved, labelled, chosen.folds)
    options = recognizer_options(given, recognizer, saved.backbone.precision)
    dataset, store = gather_for(saved, labelled, reading, options, quiet=silent)
    if isinstance(dataset, SequenceDataset):
        _evaluate_frames(saved, dataset, store, out, as_json=as_json, quiet=quiet)
        return
    device = options.encode.device
    found = _evaluate_clips(saved, dataset, store, chosen, device=device, quiet=silent)
    write_evaluation(found, out)
    page = write_report(found, out)
    if as_json:
        sys.stdout.write(json.dumps(metrics(found), indent=2) + "\n")
    elif not quiet:
        _print(found, page)


def _evaluate_frames(
    saved: Recognizer,
    dataset: SequenceDataset,
    store: FeatureReader,
    out: Path,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Evaluate a recognizer of frames, and print and write its metrics."""
    from flows.cli.console import print_error, print_line, print_table
    from pipeline.evaluation.evaluate import read_stored
    from pipeline.evaluation.frame_evaluation import evaluate_frames
    from pipeline.evaluation.tables import method_table
    from pipeline.storage import write_json

    found = evaluate_frames(saved, dataset, read_stored(store))
    path = out / "metrics.json"
    out.mkdir(parents=True, exist_ok=True)
    write_json(found.metrics(), path)
    if as_json:
        sys.stdout.write(json.dumps(found.metrics(), indent=2) + "\n")
    elif not quiet:
        head, *rows = method_table(found.methods)
        print_table(head, rows)
        for warning in found.warnings:
            print_error(f"warning: {warning}")
        print_line(f"metrics: {path}")


def _evaluate_clips(
    saved: Recognizer,
    dataset: LabelledDataset,
    store: FeatureReader,
    chosen: Retraining,
    *,
    device: Device,
    quiet: bool,
) -> Evaluation:
    from pipeline.evaluation.evaluate import (
        CrossValidation,
        evaluate_saved,
        make_folds,
        read_stored,
        retraining_options,
    )

    if chosen.folds is None:
        return evaluate_saved(saved, dataset, read_stored(store))
    training = replace(retraining_options(saved, dataset.labels), device=device)
    folds = make_folds(dataset.examples, chosen.folds)
    plan = CrossValidation(tuple(folds), training, chosen.seeds)
    return _evaluate_folds(saved, dataset, plan, store, quiet=quiet)


def _require_compatible(saved: Recognizer, labelled: Labelled, folds: int | None) -> None:
    """Check labels, groups and notes before anything is decoded."""
    from pipeline.evaluation.cross_validation import group_folds
    from pipeline.evaluation.evaluate import require_known_labels, training_options
    from pipeline.training.annotations import require_groups
    from pipeline.training.label_counts import require_two_labels
    from pipeline.training.time_lines import TimeLines

    if isinstance(labelled, TimeLines) and folds is not None:
        raise OptionError("--folds needs clips: train on the parts of a split, see --splits")
    if folds is None or isinstance(labelled, TimeLines):
        require_known_labels(saved, labelled.labels)
        return
    training_options(saved)
    require_two_labels(labelled)
    require_groups(labelled)
    clips = labelled.clips
    group_folds([clip.group for clip in clips], [clip.label for clip in clips], folds)


def _evaluate_folds(
    saved: Recognizer,
    dataset: LabelledDataset,
    plan: CrossValidation,
    store: FeatureReader,
    *,
    quiet: bool,
) -> Evaluation:
    from flows.cli.console import count
    from pipeline.evaluation.evaluate import evaluate_folds, read_stored

    read = read_stored(store)
    if quiet:
        return evaluate_folds(saved, dataset, plan, read)
    done = 0
    with count("trainings", len(plan.folds) * plan.seeds) as show:

        def on_fold(one: FoldResult) -> None:
            nonlocal done
            done += 1
            text = f"without {one.fold.name}, seed {one.seed}: accuracy {one.accuracy:.3f}"
            show(done, text)

        return evaluate_folds(saved, dataset, plan, read, on_fold)


def _print(found: Evaluation, page: Path) -> None:
    from flows.cli.console import print_error, print_line, print_table
    from pipeline.evaluation.tables import class_table, method_table

    tables = [method_table(found.methods), class_table(found), method_table(found.sequence_methods)]
    for head, *rows in filter(None, tables):
        print_table(head, rows)
        print_line()
    for warning in found.warnings:
        print_error(f"warning: {warning}")
    print_line(f"page: {page}   tables: {page.parent}/*.parquet")
