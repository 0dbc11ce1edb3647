"""
The report of an evaluation of labels of frames: metrics, baselines, and two lanes for each video.

The page is one HTML file without scripts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from pipeline.evaluation.evaluate_frames import FrameEvaluation
from pipeline.evaluation.frame_tables import fold_table, label_table
from pipeline.evaluation.predictions import MODEL
from pipeline.evaluation.scores import metric_names
from pipeline.evaluation.segmentation import LabelledFrames
from pipeline.evaluation.tables import NAMES, format_mean_std, method_table
from pipeline.recognition.windows import run_length_encode
from pipeline.records import Integers
from pipeline.results.html import label_colours, write_page

MAX_VIDEOS = 40
BACKGROUND_COLOUR = "#eae9e5"


def write_frame_report(evaluation: FrameEvaluation, out: Path) -> Path:
    """Write `EVAL/report.html`. Returns the path of the page."""
    model = evaluation.methods[0]
    frames = [one for one in evaluation.frames if one.method == model.method]
    shown = [one for one in frames if one.seed == frames[0].seed]
    facts = {name: value for name, value in evaluation.metadata.items() if name != "folds"}
    return write_page(
        "evaluation_frames.html.j2",
        out / "report.html",
        title=str(evaluation.metadata.get("recognizer", "recognizer")),
        procedure=_procedure(evaluation),
        num_videos=len({one.video for one in frames}),
        num_frames=sum(len(one.seconds) for one in shown),
        has_spread=len(model.seeds) > 1,
        background=evaluation.background,
        metrics={
            NAMES[name]: format_mean_std(model.seeds, name) for name in metric_names(model.seeds[0])
        },
        warnings=evaluation.warnings,
        method_rows=method_table(evaluation.methods),
        label_rows=label_table(evaluation),
        fold_rows=fold_table(evaluation),
        colours=_colours(evaluation),
        videos=[
            _video(one, name, evaluation.labels)
            for one, name in zip(shown[:MAX_VIDEOS], _short_names(shown), strict=False)
        ],
        videos_left_out=max(0, len(shown) - MAX_VIDEOS),
        facts=facts,
    )


def _procedure(evaluation: FrameEvaluation) -> str:
    """Describe how the predictions were made."""
    folds = len(evaluation.metadata["folds"])
    if not folds:
        return "saved recognizer, without training"
    seeds = len({one.seed for one in evaluation.frames if one.method == MODEL})
    return f"cross-validation with {folds} folds, {seeds} training{'s' * (seeds > 1)} per fold"


def _colours(evaluation: FrameEvaluation) -> dict[str, str]:
    """Assign a colour to every label, and grey to the background."""
    background = evaluation.background
    others = label_colours([label for label in evaluation.labels if label != background])
    return others if background is None else {background: BACKGROUND_COLOUR, **others}


def _short_names(videos: Sequence[LabelledFrames]) -> list[str]:
    """Give the names of videos without their folders, if that tells them apart."""
    names = [PurePath(video.video).name for video in videos]
    return names if len(set(names)) == len(names) else [video.video for video in videos]


def _video(video: LabelledFrames, name: str, labels: Sequence[str]) -> dict[str, Any]:
    """Give the two lanes of a video; each has one row, or one per label that occurs."""
    rows = _rows_of(video)
    return {
        "name": name,
        "num_frames": len(video.seconds),
        "truth": [_runs(video.target, row, labels) for row in rows],
        "prediction": [_runs(video.predicted, row, labels) for row in rows],
    }


def _rows_of(video: LabelledFrames) -> Sequence[int | None]:
    """List the labels that occur, which have a row each; None: one row for all labels."""
    if video.target.ndim == 1:
        return [None]
    occurs = ((video.target > 0) | (video.predicted > 0)).any(axis=0)
    return np.flatnonzero(occurs).tolist()


def _runs(values: Integers, row: int | None, labels: Sequence[str]) -> list[tuple[int, int, str]]:
    """Join frames of equal labels: (start, stop, label)."""
    if row is None:
        runs: Iterator[tuple[int, int, int]] = iter(run_length_encode(values))
        return [(start, stop, labels[index]) for start, stop, index in runs if index >= 0]
    column = run_length_encode(values[:, row])
    return [(start, stop, labels[row]) for start, stop, on in column if on > 0]
