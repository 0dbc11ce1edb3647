"""
Judge a recognizer on labelled clips: as it was saved, or its architecture trained anew in folds.

    found = evaluate_saved(recognizer, gathered, stored_videos(pipeline.store))
    write_evaluation(found, out)
    write_page(found, out)

Whichever it is, the baselines and chance are asked about the same clips.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.encode.feature_store import FeatureStore
from pipeline.errors import OptionError
from pipeline.evaluation.cross_validation import Fold, empty_warnings, group_folds, leak_warnings
from pipeline.evaluation.knowledge import relabel, trained_on
from pipeline.evaluation.predictions import Answers, Round, ask_baselines, ask_model, cross_validate
from pipeline.evaluation.scores import SequenceVerdict, Verdict, judge, judge_sequences
from pipeline.evaluation.segmentation import (
    LabelledFrames,
    ReadVideo,
    Stored,
    find_sequences,
    label_sequences,
    video_of,
)
from pipeline.recognition.recognizer import Recognizer
from pipeline.records import merge_reports
from pipeline.storage import printable
from pipeline.temporal.batching import Example, Examples
from pipeline.temporal.options import TrainingOptions
from pipeline.temporal.trainer import TrainingResult
from pipeline.training.build_dataset import Gathered

SAVED = 0
"""The seed under which answers of a saved recognizer go."""
MOST_LEFT_OUT = 10
"""Groups that are held out one at a time where only baselines learn; more are dealt to folds."""


@dataclass(frozen=True)
class Evaluation:
    """All that was asked, answered, and found."""

    examples: Examples
    answers: tuple[Answers, ...]
    verdicts: tuple[Verdict, ...]
    """Of the model first."""
    frames: tuple[LabelledFrames, ...] = ()
    """What the model says of sequences; none where no video has several labelled parts."""
    sequences: tuple[SequenceVerdict, ...] = ()
    warnings: tuple[str, ...] = ()
    """What makes the figures weaker than they look."""
    facts: dict[str, Any] = field(default_factory=dict)
    """How it came to be, as plain JSON."""


def stored_videos(store: FeatureStore) -> ReadVideo:
    """Give what is stored of a video, by its id."""

    def read(video_id: str) -> Stored:
        duration = merge_reports(store.reports(video_id)).duration_seconds
        return list(store.stream(video_id)), duration or 0.0

    return read


def evaluate_saved(recognizer: Recognizer, gathered: Gathered, read_video: ReadVideo) -> Evaluation:
    """
    Judge a recognizer as it was saved, on the split `test` where the labels have one.

    The baselines learn from the other splits, or where there are none, from the other groups.

    Args:
        recognizer: what is judged.
        gathered: what it is asked about.
        read_video: gives what is stored of a video.

    Raises:
        OptionError: a label that the recognizer does not know.
    """
    labels = gathered.examples.labels
    items = gathered.of("test") or gathered.examples.items
    others = gathered.of("train", "validation") if gathered.of("test") else []
    asked = relabel(Examples(tuple(items), labels), recognizer.labels)
    learned = relabel(Examples(tuple(others), labels), recognizer.labels)
    everything = Fold("", (), np.zeros(0, np.int64), np.arange(len(items)))
    fitted = TrainingResult(recognizer.model, recognizer.temperature, ())
    answers = ask_model(asked, everything, fitted, SAVED)
    baselines, warnings = _baselines(asked, learned)
    warnings += _split_warnings(gathered)
    frames = label_sequences(recognizer, find_sequences(asked.items), read_video, seed=SAVED)
    warnings += _overlap_warnings(items, trained_on(recognizer), recognizer)
    facts = {**_of_recognizer(recognizer), "folds": []}
    return _evaluation(asked, [*answers, *baselines], frames, _left_out(gathered) + warnings, facts)


def _baselines(asked: Examples, learned: Examples) -> tuple[list[Answers], list[str]]:
    """Ask baselines that learn from other clips, or else from the other groups. Also warnings."""
    if learned.items:
        count = len(asked.items)
        both = Examples(asked.items + learned.items, asked.labels)
        numbers = np.arange(len(both.items))
        return ask_baselines(both, [Fold("", (), numbers[count:], numbers[:count])]), []
    groups = len({item.group for item in asked.items})
    try:
        folds = folds_of(asked, 0 if groups <= MOST_LEFT_OUT else MOST_LEFT_OUT)
    except OptionError as error:
        return [], [f"no baselines beside it, as they have nothing to learn from: {error}"]
    return ask_baselines(asked, folds), []


def folds_of(examples: Examples, count: int) -> list[Fold]:
    """Split examples by their groups, as `group_folds` does."""
    groups = [item.group for item in examples.items]
    return group_folds(groups, [examples.labels[item.label] for item in examples.items], count)


def _split_warnings(gathered: Gathered) -> list[str]:
    """Say where a table has splits, but none to test on."""
    splits = {split for split in gathered.splits if split is not None}
    if not splits or "test" in splits:
        return []
    lost = len(gathered.left_out)
    return [
        "no clip of the split test can be judged"
        + f" ({lost} row{'s' * (lost != 1)} left out)" * bool(lost)
        + f", so all are: those of the split{'s' * (len(splits) != 1)} {', '.join(sorted(splits))}"
    ]


def _overlap_warnings(
    items: Sequence[Example], learned: Collection[str], recognizer: Recognizer
) -> list[str]:
    known = [item.name for item in items if item.video_id in learned]
    if not known:
        return []
    first = ", ".join(known[:3]) + ", …" * (len(known) > 3)
    anew = (
        "it" if recognizer.network is None else "its temporal model, not its fine-tuned backbone,"
    )
    return [
        f"{len(known)} of {len(items)} clips are of videos that the recognizer was trained on "
        f"({first}): it may know them by heart; --folds trains {anew} anew without them"
    ]


def _tuning_warnings(recognizer: Recognizer) -> list[str]:
    """Say that folds do not undo what a backbone has learned."""
    if recognizer.network is None:
        return []
    return [
        "the backbone was fine-tuned, and is taken as it is: in each fold, only the temporal model "
        "is trained anew. Where the backbone has learned from these clips, its features know the "
        "answers, and the figures are too good, those of the baselines as well: judge it on clips "
        "that it has not learned from (split test), or train without --fine-tune"
    ]


@dataclass(frozen=True)
class Plan:
    """How a model is trained and judged again and again."""

    folds: tuple[Fold, ...]
    options: TrainingOptions
    """Of every training, but for its seed."""
    seeds: int = 1
    """Trainings a fold, each with its own chance."""

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise OptionError(f"--seeds must be 1 or more, got {self.seeds}")


OnRound = Callable[[Round], None]


def evaluate_folds(
    recognizer: Recognizer,
    gathered: Gathered,
    plan: Plan,
    read_video: ReadVideo,
    on_round: OnRound | None = None,
) -> Evaluation:
    """
    Judge the architecture of a recognizer: train it from scratch in every fold.

    Args:
        recognizer: what it is made like; its weights are not used.
        gathered: what it learns from and is asked about, by folds.
        plan: folds and seeds.
        read_video: gives what is stored of a video.
        on_round: told of each training as it is done.
    """
    examples = gathered.examples
    answers = ask_baselines(examples, plan.folds)
    frames: list[LabelledFrames] = []
    sequences = find_sequences(examples.items)
    temporal = recognizer.temporal
    for done in cross_validate(examples, plan.folds, temporal, plan.options, seeds=plan.seeds):
        answers += done.answers
        groups = set(done.fold.groups)
        held = [parts for parts in sequences if {part.group for part in parts} <= groups]
        like = _trained_like(recognizer, examples, done.fitted)
        frames += label_sequences(like, held, read_video, seed=done.seed, fold=done.fold.name)
        if on_round is not None:
            on_round(done)
    names = [examples.labels[item.label] for item in examples.items]
    warnings = [
        *_left_out(gathered),
        *_tuning_warnings(recognizer),
        *_group_warnings(examples),
        *empty_warnings(names, plan.folds),
        *leak_warnings(examples.items),
    ]
    facts = {**_of_recognizer(recognizer), **_of_plan(plan)}
    return _evaluation(examples, answers, frames, warnings, facts)


def _trained_like(recognizer: Recognizer, examples: Examples, fitted: TrainingResult) -> Recognizer:
    return replace(
        recognizer,
        labels=examples.labels,
        model=fitted.model,
        temperature=fitted.temperature,
    )


def _of_recognizer(recognizer: Recognizer) -> dict[str, Any]:
    return {
        "recognizer": recognizer.name,
        "recognizer_id": recognizer.identity,
        "temporal": dataclasses.asdict(recognizer.temporal),
        "backbone": dataclasses.asdict(recognizer.backbone),
        "sampling": dataclasses.asdict(recognizer.sampling),
    }


def _of_plan(plan: Plan) -> dict[str, Any]:
    folds = [
        {
            "name": fold.name,
            "groups": list(fold.groups),
            "clips_learned": len(fold.train),
            "clips_judged": len(fold.test),
        }
        for fold in plan.folds
    ]
    return {"folds": folds, "seeds": plan.seeds, "training": dataclasses.asdict(plan.options)}


def _left_out(gathered: Gathered) -> list[str]:
    return [
        f"row {left.row} is left out: {left.video}: {left.reason}" for left in gathered.left_out
    ]


def _group_warnings(examples: Examples) -> list[str]:
    """Say where nobody has said which clips belong together, so that folds are random ones."""
    if any(printable(item.group) != video_of(item) for item in examples.items):
        return []
    return [
        "the labels have no column group, so that each video is one: clips of the same scene or "
        "person may be learned from and judged at the same time, and the figures too good"
    ]


def _evaluation(
    examples: Examples,
    answers: Sequence[Answers],
    frames: Sequence[LabelledFrames],
    warnings: Sequence[str],
    facts: dict[str, Any],
) -> Evaluation:
    return Evaluation(
        examples,
        tuple(answers),
        tuple(judge(examples, answers)),
        tuple(frames),
        tuple(judge_sequences(frames)),
        tuple(warnings),
        facts,
    )
