"""Recognizers judged as they are, and trained anew, on made features."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import OptionError
from pipeline.evaluation.baselines import BASELINES
from pipeline.evaluation.evaluate import Plan, evaluate_folds, evaluate_saved, folds_of
from pipeline.evaluation.predictions import CHANCE, METHODS, MODEL
from pipeline.temporal.trainer import predict
from pipeline.training.clip_dataset import LeftOut
from tests.evaluation.judged import QUICK, gather, halves, make_recognizer, stored
from tests.temporal.synthetic_clips import rising_and_falling


def nobody(video_id):
    raise AssertionError(f"{video_id} has one labelled part: nothing is read of it")


def judged_folds(gathered, count=0, *, seeds=1, read=nobody, options=QUICK, **given):
    plan = Plan(tuple(folds_of(gathered.examples, count)), options, seeds)
    return evaluate_folds(make_recognizer(), gathered, plan, read, **given)


class TestSaved:
    def test_the_weights_are_those_that_were_saved(self):
        recognizer, gathered = make_recognizer(), gather()

        found = evaluate_saved(recognizer, gathered, nobody)

        expected = predict(recognizer.model, gathered.examples.items)
        np.testing.assert_allclose(found.answers[0].logits, expected, atol=1e-6)
        assert [verdict.method for verdict in found.verdicts] == list(METHODS)
        assert found.facts["folds"] == []

    def test_only_the_split_test_is_asked_about(self):
        gathered = gather(splits=["train"] * 20 + ["validation"] * 4 + ["test"] * 8)

        found = evaluate_saved(make_recognizer(), gathered, nobody)

        assert [item.name for item in found.examples.items] == [f"clip{n}" for n in range(24, 32)]
        for given in found.answers:
            assert set(given.clips.tolist()) == set(range(8))

    @pytest.mark.parametrize(
        ("left_out", "said"),
        [
            ([LeftOut(7, "x.mp4", "empty")], r"judged \(1 row left out\), so all are: those of"),
            ([], "judged, so all are: those of the splits train, validation"),
        ],
    )
    def test_without_a_clip_to_test_on_it_is_told_that_all_are(self, left_out, said):
        splits = ["train"] * 20 + ["validation"] * 12
        gathered = gather(splits=splits, left_out=left_out)

        *_, warning = evaluate_saved(make_recognizer(), gathered, nobody).warnings

        assert re.search(f"no clip of the split test can be {said}", warning)

    def test_without_splits_nothing_is_said_of_them(self):
        assert not evaluate_saved(make_recognizer(), gather(), nobody).warnings

    def test_baselines_learn_from_the_other_splits(self):
        """Labels of what is learned from are the wrong way round, so that all answers are."""
        items = rising_and_falling(32)
        turned = [replace(item, label=1 - item.label) for item in items[:24]]
        gathered = gather([*turned, *items[24:]], splits=["train"] * 24 + ["test"] * 8)

        found = evaluate_saved(make_recognizer(), gathered, nobody)

        pyramid = next(v for v in found.verdicts if "pyramid" in v.method)
        assert pyramid.seeds[0].accuracy == 0.0

    def test_labels_are_those_of_the_recognizer(self):
        recognizer = make_recognizer(("rises", "stays", "falls"))

        found = evaluate_saved(recognizer, gather(), nobody)

        assert found.examples.labels == ("rises", "stays", "falls")
        assert found.verdicts[0].confusion.sum(1).tolist() == pytest.approx([16, 0, 16])

    def test_clips_that_it_was_trained_on_are_told(self):
        gathered = gather()
        recognizer = make_recognizer(training_videos=[f"clip{n}" for n in range(32)])

        (said,) = evaluate_saved(recognizer, gathered, nobody).warnings

        assert said.startswith("32 of 32 clips are of videos that the recognizer was trained on")
        assert "(clip0, clip1, clip2, …)" in said
        assert said.endswith("--folds trains it anew without them")

    def test_folds_are_no_way_out_for_a_tuned_backbone(self):
        gathered = gather()
        made = make_recognizer(training_videos=["clip3"])

        (said,) = evaluate_saved(replace(made, network={}), gathered, nobody).warnings

        assert "not its fine-tuned backbone, anew" in said

    def test_one_group_leaves_nothing_for_baselines(self):
        items = [replace(item, group="all") for item in rising_and_falling(8)]

        found = evaluate_saved(make_recognizer(), gather(items), nobody)

        assert not {v.method for v in found.verdicts} & {*BASELINES, CHANCE}
        assert "no baselines beside it" in found.warnings[0]

    def test_a_label_that_it_does_not_know_fails(self):
        with pytest.raises(OptionError, match="does not know the label rises"):
            evaluate_saved(make_recognizer(("falls", "stays")), gather(), nobody)


class TestFolds:
    def test_it_is_trained_from_scratch(self):
        gathered = gather(rising_and_falling(64))

        found = judged_folds(gathered)

        assert found.verdicts[0].method == MODEL
        assert found.verdicts[0].seeds[0].accuracy > 0.9
        assert [fold["name"] for fold in found.facts["folds"]] == ["g0", "g1", "g2", "g3"]
        assert found.facts["folds"][0] == {
            "name": "g0",
            "groups": ["g0"],
            "clips_learned": 48,
            "clips_judged": 16,
        }

    def test_every_seed_is_told_of_and_kept(self):
        told = []
        options = replace(QUICK, epochs=1)

        found = judged_folds(gather(), 2, seeds=2, options=options, on_round=told.append)

        assert [(one.seed, one.fold.name) for one in told] == [
            (0, "1"), (0, "2"), (1, "1"), (1, "2"),
        ]  # fmt: skip
        assert len(found.verdicts[0].seeds) == 2
        assert len(found.verdicts[-1].seeds) == 1
        assert found.facts["seeds"] == 2

    def test_videos_of_several_parts_are_read_whole(self):
        items = halves()

        found = judged_folds(gather(items), 2, read=stored(items), options=replace(QUICK, epochs=1))

        assert sorted(video.video for video in found.frames) == [f"v{n}" for n in range(8)]
        assert {video.fold for video in found.frames} == {"1", "2"}
        assert found.frames[0].truth.tolist() == [0] * 8 + [1] * 8
        assert [v.method for v in found.sequences] == [MODEL, CHANCE]
        assert found.sequences[1].seeds[0].frame_accuracy == 0.5

    def test_what_weakens_the_figures_is_told(self):
        items = [replace(item, group=item.name) for item in rising_and_falling(8)]
        items[1] = replace(items[1], video_id=items[0].video_id)
        gathered = gather(items, left_out=[LeftOut(7, "x.mp4", "empty")])

        said = judged_folds(gathered, 2, options=replace(QUICK, epochs=1), read=stored(items))

        assert said.warnings[0] == "row 7 is left out: x.mp4: empty"
        assert "no column group" in said.warnings[1]
        assert "the same content but are in different groups" in said.warnings[-1]

    def test_a_backbone_that_was_tuned_is_told(self):
        """It is not trained anew, and may have learned from the clips of every fold."""
        recognizer = replace(make_recognizer(), network={"architecture": "toy"})
        gathered = gather()
        plan = Plan(tuple(folds_of(gathered.examples, 2)), replace(QUICK, epochs=1))

        found = evaluate_folds(recognizer, gathered, plan, nobody)

        (said,) = [warning for warning in found.warnings if "fine-tuned" in warning]
        assert "only the temporal model is trained anew" in said
        assert not any("fine-tuned" in warning for warning in judged_folds(gathered, 2).warnings)

    def test_no_seeds_fail(self):
        with pytest.raises(OptionError, match="--seeds must be 1 or more, got 0"):
            Plan((), QUICK, 0)
