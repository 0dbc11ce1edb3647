"""No group is in training and test set of a fold, and every clip is tested once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import OptionError
from pipeline.evaluation.cross_validation import empty_warnings, group_folds, leak_warnings
from tests.temporal.synthetic_clips import make_example

GROUPS = ["b", "a", "a", "c", "b", "c"]
LABELS = ["x", "x", "y", "y", "y", "x"]


def numbers(folds):
    return [(fold.name, fold.train.tolist(), fold.test.tolist()) for fold in folds]


def test_each_group_is_held_out_by_itself():
    assert numbers(group_folds(GROUPS, LABELS, 0)) == [
        ("a", [0, 3, 4, 5], [1, 2]),
        ("b", [1, 2, 3, 5], [0, 4]),
        ("c", [0, 1, 2, 4], [3, 5]),
    ]


def test_folds_are_stratified_by_label():
    """Two groups have only x, two only y: each fold holds out one of both kinds."""
    groups = ["a", "a", "b", "b", "c", "c", "d", "d"]
    labels = ["x", "x", "x", "x", "y", "y", "y", "y"]

    folds = group_folds(groups, labels, 2)

    assert [fold.groups for fold in folds] == [("a", "c"), ("b", "d")]
    assert [fold.name for fold in folds] == ["1", "2"]


def test_folds_have_similar_sizes():
    """Groups of 4, 2 and 2 clips: one fold holds out the large one, the other both small ones."""
    groups = ["small", "small", *["large"] * 4, "other", "other"]
    labels = ["x", "y"] * 4

    folds = group_folds(groups, labels, 2)

    assert [fold.groups for fold in folds] == [("large",), ("other", "small")]
    assert [fold.name for fold in folds] == ["1", "2"]


def test_fold_numbers_are_not_mixed_with_names_of_groups():
    """Of 12 groups called 1 to 12, two folds hold out two, so all folds are numbered."""
    groups = [str(number) for number in range(1, 13)]

    folds = group_folds(groups * 2, ["x"] * 12 + ["y"] * 12, 10)

    assert sorted(len(fold.groups) for fold in folds) == [1] * 8 + [2] * 2
    assert [fold.name for fold in folds] == [str(number) for number in range(1, 11)]


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("xyz")), min_size=20),
    st.integers(2, 6),
)
@settings(max_examples=60, deadline=None)
def test_folds_partition_the_groups(pairs, count):
    groups, labels = [group for group, _ in pairs], [label for _, label in pairs]
    try:
        folds = group_folds(groups, labels, count)
    except OptionError:
        return  # too few groups, or a label in one fold only

    assert len(folds) == count
    assert sorted(np.concatenate([fold.test for fold in folds]).tolist()) == list(range(len(pairs)))
    for fold in folds:
        held = {groups[number] for number in fold.test.tolist()}
        assert held == set(fold.groups) != set()
        assert held.isdisjoint(groups[number] for number in fold.train.tolist())
        assert len(fold.train) + len(fold.test) == len(pairs)


def test_labels_with_fewer_clips_than_folds_are_split():
    """StratifiedGroupKFold refuses these."""
    groups = [f"g{number:02}" for number in range(12)]
    labels = ["x", "y", "z"] * 4

    folds = group_folds(groups, labels, 6)

    assert [len(fold.test) for fold in folds] == [2] * 6


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("xyz")), min_size=20))
@settings(max_examples=30, deadline=None)
def test_labels_of_several_groups_are_in_every_training_set(pairs):
    groups, labels = [group for group, _ in pairs], [label for _, label in pairs]
    if (
        any(len({g for g, k in pairs if k == label}) < 2 for label in labels)
        or len(set(groups)) < 4
    ):
        return

    for fold in group_folds(groups, labels, 4):
        assert {labels[index] for index in fold.train.tolist()} == set(labels)


@pytest.mark.parametrize("count", [1, -1, 4])
def test_impossible_numbers_of_folds_fail(count):
    with pytest.raises(OptionError, match=rf"--folds {count} .* 3 groups \(a, b, c\): use 0"):
        group_folds(GROUPS, LABELS, count)


def test_one_group_fails():
    with pytest.raises(OptionError, match=r"--folds 0 is not possible with 1 group \(a\)"):
        group_folds(["a", "a"], ["x", "y"], 0)


def test_a_label_of_one_group_only_fails():
    with pytest.raises(OptionError, match=r"fold c holds out 1 group \(c\).*the label z"):
        group_folds(GROUPS, [*LABELS[:5], "z"], 0)


def test_messages_name_the_first_groups():
    groups = [f"g{number}" for number in range(8)]

    with pytest.raises(OptionError, match=r"8 groups \(g0, g1, g2, g3, g4, g5, …\)"):
        group_folds(groups, ["x"] * 8, 9)


class TestEmptyWarnings:
    def test_a_fold_without_test_clips_of_a_label_is_reported(self):
        groups, labels = list("aabbccdd"), list("xyxyxzxz")
        folds = group_folds(groups, labels, 2)

        assert [fold.groups for fold in folds] == [("a", "c"), ("b", "d")]
        assert empty_warnings(labels, folds) == []
        assert empty_warnings([*labels, "w"], folds) == [
            "fold 1 has no test clip of w",
            "fold 2 has no test clip of w",
        ]

    def test_single_groups_are_not_expected_to_have_all_labels(self):
        folds = group_folds(["a", "a", "b", "b", "c"], ["x", "x", "x", "y", "y"], 0)

        assert empty_warnings(["x", "x", "x", "y", "y"], folds) == []


class TestLeakWarnings:
    def test_equal_content_in_two_groups_is_reported(self):
        one, same, other = (
            make_example(0, np.zeros((2, 2)), group=group, name="v") for group in ("g", "g", "h")
        )

        assert leak_warnings([one, same]) == []
        (message,) = leak_warnings([one, same, other])
        assert message.startswith(
            "2 clips (v, v) have the same content but are in different groups"
        )
