from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from pipeline.errors import OptionError
from pipeline.evaluation.knowledge import (
    options_anew,
    relabel,
    require_known,
    trained_on,
    training_options,
)
from pipeline.temporal.batching import Examples
from tests.evaluation.judged import QUICK, make_recognizer
from tests.temporal.synthetic_clips import rising_and_falling


class TestLabels:
    def test_are_numbered_as_the_recognizer_does(self):
        examples = Examples(tuple(rising_and_falling(3)), ("falls", "rises"))

        found = relabel(examples, ("rises", "stays", "falls"))

        assert found.labels == ("rises", "stays", "falls")
        assert [item.label for item in found.items] == [2, 0, 2]

    def test_one_that_no_clip_has_need_not_be_known(self):
        examples = Examples((rising_and_falling(1)[0],), ("falls", "rises"))

        assert relabel(examples, ("falls",)).items[0].label == 0

    def test_unknown_ones_fail(self):
        message = "does not know the labels c, d; it knows a, b. --folds trains it anew"
        with pytest.raises(OptionError, match=message):
            require_known(("a", "b"), ["a", "d", "c"])


class TestTraining:
    def test_options_are_those_of_the_training(self):
        assert training_options(make_recognizer()) == QUICK

    @pytest.mark.parametrize("notes", [{}, {"training": {"pace": 1}}, {"training": {"epochs": 0}}])
    def test_options_that_are_not_told_fail(self, notes):
        with pytest.raises(OptionError, match=r"toy does not say how it was trained.*only `clip"):
            training_options(replace(make_recognizer(), notes=notes))

    @pytest.mark.parametrize(
        ("known", "labels", "grid"),
        [
            (("nod", "wave"), ("nod", "wave"), 2),
            (("nod", "wave"), ("nod", "turnLeft"), 0),
            (("right", "wrong"), ("right", "wrong"), 2),  # --mirror, by a person who knows
            (("right", "wrong"), ("nod", "wave"), 2),
        ],
    )
    def test_trained_anew_clips_are_not_mirrored_where_a_label_names_a_side(
        self, known, labels, grid
    ):
        mirrored = replace(QUICK, mirror_grid=2)

        found = options_anew(make_recognizer(known, training=asdict(mirrored)), labels)

        assert found == replace(QUICK, mirror_grid=grid)

    def test_videos_that_it_learned_from_are_known(self):
        assert trained_on(make_recognizer(training_videos=["a", "b"])) == {"a", "b"}

    def test_one_that_does_not_say_knows_none(self):
        assert trained_on(make_recognizer()) == set()
