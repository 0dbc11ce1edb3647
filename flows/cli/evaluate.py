"""The command `evaluate`: how far to trust a recognizer, beside what it has to beat."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.options import (
    AsJson,
    BackbonePlace,
    DecodeMemory,
    DeviceName,
    FrameTimeout,
    FullHash,
    ImageFps,
    LabelsTable,
    MaxPixels,
    MaxVideoSeconds,
    OutputFolder,
    PrecisionName,
    Quiet,
    ReaderOption,
    SharedFeatures,
    VideosFolder,
    VideoTimeout,
    Weights,
    Workers,
    gather_options,
)

if TYPE_CHECKING:
    from pipeline.config import RunOptions
    from pipeline.encode.feature_store import FeatureStore
    from pipeline.evaluation.evaluate import CrossValidation, Evaluation
    from pipeline.evaluation.predictions import FoldResult
    from pipeline.recognition.recognizer import Recognizer
    from pipeline.training.annotations import Labelled
    from pipeline.training.build_dataset import Gathered


def evaluate(
    recognizer: Annotated[
        str,
        typer.Argument(help="A bundled recognizer, or the folder of one.", show_default=False),
    ],
    labels: LabelsTable,
    out: OutputFolder,
    videos: VideosFolder = None,
    folds: Annotated[
        int | None,
        typer.Option(
            help="Cross-validate: train the same architecture anew in FOLDS folds of groups; 0 "
            "leaves out one group at a time.",
            min=0,
            show_default="judge the recognizer as it was saved",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(help="Trainings per fold, each with another random seed.", min=1)
    ] = 1,
    backbone: BackbonePlace = None,
    weights: Weights = None,
    features: SharedFeatures = None,
    image_fps: ImageFps = None,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    reader: ReaderOption = "auto",
    workers: Workers = 0,
    frame_timeout: FrameTimeout = 20.0,
    video_timeout: VideoTimeout = 900.0,
    max_pixels: MaxPixels = 200_000_000,
    max_video_seconds: MaxVideoSeconds = 172_800.0,
    decode_memory: DecodeMemory = 4096,
    full_hash: FullHash = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Judge a recognizer on labelled clips, beside chance, linear baselines, and shuffled frames.

    Tables, figures and a page go to OUT. Features stored by train are used again.
    """
    from pipeline.evaluation.evaluate import (
        CrossValidation,
        evaluate_saved,
        make_folds,
        read_stored,
        retraining_options,
    )
    from pipeline.evaluation.report import write_page
    from pipeline.evaluation.tables import metrics, write_evaluation
    from pipeline.recognition.recognizer import load_recognizer
    from pipeline.training.annotations import read_labels

    labelled, saved = read_labels(labels, videos), load_recognizer(recognizer)
    _require_judgeable(saved, labelled, folds)
    silent = quiet or as_json
    options = _run_options(locals(), saved)
    gathered, store = _gather(labelled, options, quiet=silent)
    if folds is None:
        found = evaluate_saved(saved, gathered, read_stored(store))
    else:
        training = retraining_options(saved, labelled.labels)
        training = replace(training, device=options.encode.device)
        plan = CrossValidation(tuple(make_folds(gathered.examples, folds)), training, seeds)
        found = _evaluate_folds(saved, gathered, plan, store, quiet=silent)
    write_evaluation(found, out)
    page = write_page(found, out)
    if as_json:
        sys.stdout.write(json.dumps(metrics(found), indent=2) + "\n")
    elif not quiet:
        _print(found, page)


def _require_judgeable(saved: Recognizer, labelled: Labelled, folds: int | None) -> None:
    """Tell mistakes before anything is decoded."""
    from pipeline.evaluation.cross_validation import group_folds
    from pipeline.evaluation.evaluate import require_known_labels, training_options
    from pipeline.training.annotations import require_groups

    if folds is None:
        require_known_labels(saved, labelled.labels)
        return
    training_options(saved)
    require_groups(labelled)
    clips = labelled.clips
    group_folds([clip.group for clip in clips], [clip.label for clip in clips], folds)


def _run_options(values: dict[str, Any], saved: Recognizer) -> RunOptions:
    """Gather the options under which the features of the training are found again."""
    from pipeline.run.load import cache_folder

    given = {**values, "batch_size": 0}
    given["features"] = values["features"] or cache_folder() / "features"
    if values["precision"] == "auto":
        given["precision"] = saved.backbone.precision
    return gather_options(given)


def _gather(
    labelled: Labelled, options: RunOptions, *, quiet: bool
) -> tuple[Gathered, FeatureStore]:
    """Cut the clips; what has to be decoded and encoded for that is kept for next time."""
    from flows.cli.console import watch
    from pipeline.run.load import open_session
    from pipeline.training.build_dataset import find_labelled, gather_examples

    videos = find_labelled(labelled, options.image_fps)
    with (
        tempfile.TemporaryDirectory(prefix="clipline-") as rows,  # they say nothing here
        open_session(Path(rows), options, videos=videos) as pipeline,
        watch(pipeline, quiet=quiet),
    ):
        return gather_examples(labelled, pipeline, videos=videos), pipeline.store


def _evaluate_folds(
    saved: Recognizer,
    gathered: Gathered,
    plan: CrossValidation,
    store: FeatureStore,
    *,
    quiet: bool,
) -> Evaluation:
    from flows.cli.console import count
    from pipeline.evaluation.evaluate import evaluate_folds, read_stored

    read = read_stored(store)
    if quiet:
        return evaluate_folds(saved, gathered, plan, read)
    done = 0
    with count("trainings", len(plan.folds) * plan.seeds) as tell:

        def on_fold(one: FoldResult) -> None:
            nonlocal done
            done += 1
            tell(done, f"without {one.fold.name}, seed {one.seed}: {one.accuracy:.3f} right")

        return evaluate_folds(saved, gathered, plan, read, on_fold)


def _print(found: Evaluation, page: Path) -> None:
    from flows.cli.console import print_error, print_line, print_table
    from pipeline.evaluation.tables import class_table, method_table

    tables = [
        method_table(found.methods),
        class_table(found),
        method_table(found.sequence_methods),
    ]
    for head, *rows in filter(None, tables):
        print_table(head, rows)
        print_line()
    for warning in found.warnings:
        print_error(f"warning: {warning}")
    print_line(f"page: {page}   tables: {page.parent}/*.parquet")
