"""No group is on both sides of a fold, and every clip is judged once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import OptionError
from pipeline.evaluation.cross_validation import empty_warnings, group_folds, leak_warnings
from tests.temporal.lessons import make_example

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


def test_groups_are_dealt_so_that_labels_are_spread():
    """Two groups hold x alone, two y alone: each fold is given one of both."""
    groups = ["a", "a", "b", "b", "c", "c", "d", "d"]
    labels = ["x", "x", "x", "x", "y", "y", "y", "y"]

    folds = group_folds(groups, labels, 2)

    assert [fold.groups for fold in folds] == [("a", "c"), ("b", "d")]
    assert [fold.name for fold in folds] == ["1", "2"]


def test_large_groups_are_dealt_first():
    """Of 4, 2 and 2 clips: the large one stands against the two small ones."""
    groups = ["small", "small", *["large"] * 4, "other", "other"]
    labels = ["x", "y"] * 4

    folds = group_folds(groups, labels, 2)

    assert [fold.groups for fold in folds] == [("large",), ("other", "small")]
    assert [fold.name for fold in folds] == ["1", "2"]


def test_folds_are_not_named_as_others_groups_are():
    """Of 12 groups called 1 to 12, two folds hold two: those have no one name."""
    groups = [str(number) for number in range(1, 13)]

    folds = group_folds(groups * 2, ["x"] * 12 + ["y"] * 12, 10)

    assert sorted(len(fold.groups) for fold in folds) == [1] * 8 + [2] * 2
    assert [fold.name for fold in folds] == [str(number) for number in range(1, 11)]


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("xyz")), min_size=20),
    st.integers(2, 6),
)
@settings(max_examples=60, deadline=None)
def test_folds_part_clips_by_groups(pairs, count):
    groups, labels = [group for group, _ in pairs], [label for _, label in pairs]
    try:
        folds = group_folds(groups, labels, count)
    except OptionError:
        return  # too few groups, or a label in one fold alone

    assert len(folds) == count
    assert sorted(np.concatenate([fold.test for fold in folds]).tolist()) == list(range(len(pairs)))
    for fold in folds:
        held = {groups[number] for number in fold.test.tolist()}
        assert held == set(fold.groups) != set()
        assert held.isdisjoint(groups[number] for number in fold.train.tolist())
        assert len(fold.train) + len(fold.test) == len(pairs)


@pytest.mark.parametrize("count", [1, -1, 4])
def test_folds_that_cannot_be_fail(count):
    with pytest.raises(OptionError, match=rf"--folds {count} .* 3 groups \(a, b, c\): give 0"):
        group_folds(GROUPS, LABELS, count)


def test_folds_of_one_group_fail():
    with pytest.raises(OptionError, match=r"--folds 0 is not possible with 1 group \(a\)"):
        group_folds(["a", "a"], ["x", "y"], 0)


def test_a_label_that_only_one_group_has_fails():
    with pytest.raises(OptionError, match=r"fold c holds out 1 group \(c\).*the label z"):
        group_folds(GROUPS, [*LABELS[:5], "z"], 0)


def test_of_many_groups_some_are_named():
    groups = [f"g{number}" for number in range(8)]

    with pytest.raises(OptionError, match=r"8 groups \(g0, g1, g2, g3, g4, g5, …\)"):
        group_folds(groups, ["x"] * 8, 9)


class TestEmptyWarnings:
    def test_a_label_that_a_fold_does_not_judge_is_told(self):
        groups, labels = list("aabbccdd"), list("xyxyxzxz")
        folds = group_folds(groups, labels, 2)

        assert [fold.groups for fold in folds] == [("a", "c"), ("b", "d")]
        assert empty_warnings(labels, folds) == []
        assert empty_warnings([*labels, "w"], folds) == [
            "fold 1 has no clip of w to judge",
            "fold 2 has no clip of w to judge",
        ]

    def test_single_groups_are_not_expected_to_have_all_labels(self):
        folds = group_folds(["a", "a", "b", "b", "c"], ["x", "x", "x", "y", "y"], 0)

        assert empty_warnings(["x", "x", "x", "y", "y"], folds) == []


class TestLeakWarnings:
    def test_one_content_in_two_groups_is_told(self):
        one, same, other = (
            make_example(0, np.zeros((2, 2)), group=group, name="v") for group in ("g", "g", "h")
        )

        assert leak_warnings([one, same]) == []
        (said,) = leak_warnings([one, same, other])
        assert said.startswith("2 clips (v, v) have the same content but are in different groups")
