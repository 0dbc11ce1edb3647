"""Evaluation of saved recognizers and cross-validation, on synthetic features."""

from __future__ import annotations

import re
from dataclasses import asdict, replace

import numpy as np
import pytest

from pipeline.errors import OptionError
from pipeline.evaluation.baselines import BASELINES
from pipeline.evaluation.evaluate import (
    CrossValidation,
    evaluate_folds,
    evaluate_saved,
    make_folds,
    relabel,
    require_known_labels,
    retraining_options,
    trained_on,
    training_options,
)
from pipeline.evaluation.predictions import METHODS, MODEL, PRIOR
from pipeline.temporal.batching import Examples
from pipeline.temporal.trainer import predict
from pipeline.training.clip_dataset import SkippedClip
from tests.evaluation.synthetic_dataset import QUICK, halves, make_dataset, make_recognizer, stored
from tests.temporal.synthetic_clips import rising_and_falling


def never(video_id):
    raise AssertionError(f"{video_id} has one labelled part, so its features are not read")


def cross_validated(dataset, count=0, *, seeds=1, read=never, options=QUICK, **given):
    plan = CrossValidation(tuple(make_folds(dataset.examples, count)), options, seeds)
    return evaluate_folds(make_recognizer(), dataset, plan, read, **given)


class TestSaved:
    def test_the_saved_weights_are_used(self):
        recognizer, dataset = make_recognizer(), make_dataset()

        found = evaluate_saved(recognizer, dataset, never)

        expected = predict(recognizer.model, dataset.examples.items)
        np.testing.assert_allclose(found.predictions[0].logits, expected, atol=1e-6)
        assert [one.method for one in found.methods] == list(METHODS)
        assert found.metadata["folds"] == []

    def test_only_the_split_test_is_predicted(self):
        dataset = make_dataset(splits=["train"] * 20 + ["validation"] * 4 + ["test"] * 8)

        found = evaluate_saved(make_recognizer(), dataset, never)

        assert [item.name for item in found.examples.items] == [f"clip{n}" for n in range(24, 32)]
        for one in found.predictions:
            assert set(one.clips.tolist()) == set(range(8))

    @pytest.mark.parametrize(
        ("skipped", "message"),
        [
            (
                [SkippedClip(7, "x.mp4", "empty")],
                r" \(1 row skipped\), so the recognizer is evaluated on all clips, of",
            ),
            ([], ", so the recognizer is evaluated on all clips, of the splits train, validation"),
        ],
    )
    def test_without_test_clips_all_clips_are_used_with_a_warning(self, skipped, message):
        splits = ["train"] * 20 + ["validation"] * 12
        dataset = make_dataset(splits=splits, skipped=skipped)

        *_, warning = evaluate_saved(make_recognizer(), dataset, never).warnings

        assert re.search(f"the split test has no usable clip{message}", warning)

    def test_without_splits_there_is_no_warning(self):
        assert not evaluate_saved(make_recognizer(), make_dataset(), never).warnings

    def test_baselines_are_trained_on_the_other_splits(self):
        """The training labels are swapped, so that all predictions are wrong."""
        items = rising_and_falling(32)
        swapped = [replace(item, label=1 - item.label) for item in items[:24]]
        dataset = make_dataset([*swapped, *items[24:]], splits=["train"] * 24 + ["test"] * 8)

        found = evaluate_saved(make_recognizer(), dataset, never)

        pyramid = next(v for v in found.methods if "pyramid" in v.method)
        assert pyramid.seeds[0].accuracy == 0.0

    def test_labels_are_those_of_the_recognizer(self):
        recognizer = make_recognizer(("rises", "stays", "falls"))

        found = evaluate_saved(recognizer, make_dataset(), never)

        assert found.examples.labels == ("rises", "stays", "falls")
        assert found.methods[0].confusion.sum(1).tolist() == pytest.approx([16, 0, 16])

    def test_clips_of_training_videos_are_reported(self):
        dataset = make_dataset()
        recognizer = make_recognizer(training_videos=[f"clip{n}" for n in range(32)])

        (message,) = evaluate_saved(recognizer, dataset, never).warnings

        assert message.startswith(
            "32 of 32 clips are of videos on which the recognizer was trained"
        )
        assert "(clip0, clip1, clip2, …)" in message
        assert message.endswith("--folds trains it without them")

    def test_folds_do_not_train_a_fine_tuned_backbone_again(self):
        dataset = make_dataset()
        made = make_recognizer(training_videos=["clip3"])

        (message,) = evaluate_saved(replace(made, network={}), dataset, never).warnings

        assert "trains its temporal model (not the backbone) without them" in message

    def test_with_one_group_there_are_no_baselines(self):
        items = [replace(item, group="all") for item in rising_and_falling(8)]

        found = evaluate_saved(make_recognizer(), make_dataset(items), never)

        assert not {v.method for v in found.methods} & {*BASELINES, PRIOR}
        assert "no baselines, as there are no clips to train them on" in found.warnings[0]

    def test_an_unknown_label_fails(self):
        with pytest.raises(OptionError, match="does not have the label rises"):
            evaluate_saved(make_recognizer(("falls", "stays")), make_dataset(), never)


class TestFolds:
    def test_the_model_is_trained_from_scratch(self):
        dataset = make_dataset(rising_and_falling(64))

        found = cross_validated(dataset)

        assert found.methods[0].method == MODEL
        assert found.methods[0].seeds[0].accuracy > 0.9
        assert [fold["name"] for fold in found.metadata["folds"]] == ["g0", "g1", "g2", "g3"]
        assert found.metadata["folds"][0] == {
            "name": "g0",
            "groups": ["g0"],
            "clips_learned": 48,
            "clips_judged": 16,
        }

    def test_every_seed_is_reported_and_scored(self):
        results = []
        options = replace(QUICK, epochs=1)

        found = cross_validated(make_dataset(), 2, seeds=2, options=options, on_fold=results.append)

        assert [(one.seed, one.fold.name) for one in results] == [
            (0, "1"), (0, "2"), (1, "1"), (1, "2"),
        ]  # fmt: skip
        assert len(found.methods[0].seeds) == 2
        assert len(found.methods[-1].seeds) == 1
        assert found.metadata["seeds"] == 2

    def test_videos_of_several_parts_are_predicted_from_start_to_end(self):
        items = halves()

        found = cross_validated(
            make_dataset(items), 2, read=stored(items), options=replace(QUICK, epochs=1)
        )

        assert sorted(video.video for video in found.sequences) == [f"v{n}" for n in range(8)]
        assert {video.fold for video in found.sequences} == {"1", "2"}
        assert found.sequences[0].target.tolist() == [0] * 8 + [1] * 8
        assert [v.method for v in found.sequence_methods] == [MODEL, PRIOR]
        assert found.sequence_methods[1].seeds[0].frame_accuracy == 0.5

    def test_parts_of_one_video_in_different_folds_are_scored_where_they_are_held_out(self):
        """The two parts of each video are in different groups."""
        items = [replace(item, group=f"g{(n + n // 2) % 2}") for n, item in enumerate(halves(8))]

        found = cross_validated(
            make_dataset(items), read=stored(items), options=replace(QUICK, epochs=1)
        )

        targets = {(v.video, v.fold): v.target.tolist() for v in found.sequences}
        assert len(targets) == len(found.sequences) == 2 * 4
        assert targets["v0", "g0"] == [0] * 8 + [-1] * 8
        assert targets["v0", "g1"] == [-1] * 8 + [1] * 8

    def test_reasons_for_unreliable_metrics_are_reported(self):
        items = [replace(item, group=item.name) for item in rising_and_falling(8)]
        items[1] = replace(items[1], video_id=items[0].video_id)
        dataset = make_dataset(items, skipped=[SkippedClip(7, "x.mp4", "empty")])

        found = cross_validated(dataset, 2, options=replace(QUICK, epochs=1), read=stored(items))

        assert found.warnings[0] == "row 7 is skipped: x.mp4: empty"
        assert "no column group" in found.warnings[1]
        assert "the same content but are in different groups" in found.warnings[-1]

    def test_a_fine_tuned_backbone_is_reported(self):
        """It is not trained again, and may have been trained on the clips of every fold."""
        recognizer = replace(make_recognizer(), network={"architecture": "toy"})
        dataset = make_dataset()
        plan = CrossValidation(tuple(make_folds(dataset.examples, 2)), replace(QUICK, epochs=1))

        found = evaluate_folds(recognizer, dataset, plan, never)

        (message,) = [warning for warning in found.warnings if "fine-tuned" in warning]
        assert "only the temporal model is trained again" in message
        assert not any("fine-tuned" in warning for warning in cross_validated(dataset, 2).warnings)

    def test_zero_seeds_fail(self):
        with pytest.raises(OptionError, match="--seeds must be 1 or more, got 0"):
            CrossValidation((), QUICK, 0)


class TestLabels:
    def test_indices_become_those_of_the_recognizer(self):
        examples = Examples(tuple(rising_and_falling(3)), ("falls", "rises"))

        found = relabel(examples, make_recognizer(("rises", "stays", "falls")))

        assert found.labels == ("rises", "stays", "falls")
        assert [item.label for item in found.items] == [2, 0, 2]

    def test_a_label_without_clips_may_be_unknown(self):
        examples = Examples((rising_and_falling(1)[0],), ("falls", "rises"))

        assert relabel(examples, make_recognizer(("falls",))).items[0].label == 0

    def test_unknown_labels_fail(self):
        message = "toy does not have the labels c, d; it has a, b: use --folds to train"
        with pytest.raises(OptionError, match=message):
            require_known_labels(make_recognizer(("a", "b")), ["a", "d", "c"])


class TestTraining:
    def test_options_are_those_of_the_training(self):
        assert training_options(make_recognizer()) == QUICK

    @pytest.mark.parametrize("notes", [{}, {"training": {"pace": 1}}, {"training": {"epochs": 0}}])
    def test_missing_or_invalid_options_fail(self, notes):
        with pytest.raises(
            OptionError, match=r"toy has no valid training options.*only recognizers made by `clip"
        ):
            training_options(replace(make_recognizer(), notes=notes))

    @pytest.mark.parametrize(
        ("known", "labels", "grid"),
        [
            (("nod", "wave"), ("nod", "wave"), 2),
            (("nod", "wave"), ("nod", "turnLeft"), 0),
            (("right", "wrong"), ("right", "wrong"), 2),  # --mirror was given
            (("right", "wrong"), ("nod", "wave"), 2),
        ],
    )
    def test_clips_are_not_mirrored_if_a_label_names_a_side(self, known, labels, grid):
        mirrored = replace(QUICK, mirror_grid=2)

        found = retraining_options(make_recognizer(known, training=asdict(mirrored)), labels)

        assert found == replace(QUICK, mirror_grid=grid)

    def test_training_videos_are_read(self):
        assert trained_on(make_recognizer(training_videos=["a", "b"])) == {"a", "b"}

    def test_training_videos_may_be_unknown(self):
        assert trained_on(make_recognizer()) == set()
