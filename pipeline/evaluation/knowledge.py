"""What a recognizer knows: its labels, how it was trained, and what it was trained on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from pipeline.errors import OptionError
from pipeline.recognition.recognizer import Recognizer
from pipeline.temporal.batching import Examples
from pipeline.temporal.options import TrainingOptions
from pipeline.training.train_recognizer import stays_true


def relabel(examples: Examples, labels: Sequence[str]) -> Examples:
    """
    Number labels as a recognizer does.

    Raises:
        OptionError: it does not know a label.
    """
    require_known(labels, {examples.labels[item.label] for item in examples.items})
    place = {label: number for number, label in enumerate(labels)}
    items = [replace(item, label=place[examples.labels[item.label]]) for item in examples.items]
    return Examples(tuple(items), tuple(labels))


def require_known(known: Sequence[str], labels: Collection[str]) -> None:
    """
    Require that a recognizer knows labels.

    Raises:
        OptionError: it does not know one.
    """
    unknown = sorted(set(labels) - set(known))
    if unknown:
        raise OptionError(
            f"the recognizer does not know the label{'s' * (len(unknown) != 1)} "
            f"{', '.join(unknown)}; it knows {', '.join(known)}. --folds trains it anew"
        )


def training_options(recognizer: Recognizer) -> TrainingOptions:
    """
    Give the options that a recognizer was trained with.

    Raises:
        OptionError: it does not say, or other than this version understands.
    """
    try:
        return TrainingOptions(**recognizer.notes["training"])
    except (KeyError, TypeError, OptionError) as error:
        raise OptionError(
            f"{recognizer.name} does not say how it was trained ({error!r}), so it cannot be "
            "trained anew: only `clipline train` makes recognizers that do"
        ) from error


def options_anew(recognizer: Recognizer, labels: Sequence[str]) -> TrainingOptions:
    """
    Give the options to train the like of a recognizer with, on labels that may be others.

    Clips are mirrored as they were, unless these labels name a side; where its own did as well, a
    person knew better.

    Raises:
        OptionError: as for `training_options`.
    """
    options = training_options(recognizer)
    if stays_true(labels) or not stays_true(recognizer.labels):
        return options
    return replace(options, mirror_grid=0)


def trained_on(recognizer: Recognizer) -> set[str]:
    """Give the ids of videos that a recognizer has learned from, as far as it says."""
    return set(recognizer.notes.get("training_videos", ()))
