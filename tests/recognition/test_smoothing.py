"""Smoothing of labels against every possible path, and runs of equal labels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.recognition.smoothing import runs, smooth


def log_probabilities(chance, steps, labels):
    p = chance.dirichlet(np.full(labels, 0.7), steps)
    return np.log(np.maximum(p, 1e-9))


def value(path, log_p, penalty):
    changes = np.count_nonzero(np.diff(path))
    return sum(log_p[step, label] for step, label in enumerate(path)) - penalty * changes


@settings(max_examples=150, deadline=None)
@given(
    steps=st.integers(1, 6),
    labels=st.integers(1, 4),
    penalty=st.floats(0, 6),
    seed=st.integers(0, 10_000),
)
def test_no_path_is_better(steps, labels, penalty, seed):
    log_p = log_probabilities(np.random.default_rng(seed), steps, labels)
    found = smooth(log_p, penalty)
    best = max(
        value(path, log_p, penalty) for path in itertools.product(range(labels), repeat=steps)
    )

    assert found.shape == (steps,)
    assert found.dtype == np.int64
    assert value(found, log_p, penalty) == pytest.approx(best)


def test_changes_that_cost_nothing_give_the_likeliest_of_each_frame():
    log_p = log_probabilities(np.random.default_rng(1), 500, 5)

    np.testing.assert_array_equal(smooth(log_p, 0.0), log_p.argmax(1))


def test_changes_that_cost_too_much_give_one_label():
    log_p = log_probabilities(np.random.default_rng(2), 500, 5)

    np.testing.assert_array_equal(smooth(log_p, 1e9), np.full(500, log_p.sum(0).argmax()))


@pytest.mark.parametrize(("frames", "survives"), [(2, False), (3, True)])
def test_the_penalty_is_in_nats(frames, survives):
    """There and back costs 6 nats; each frame between is worth log(0.9 / 0.1) = 2.2."""
    p = np.tile([0.9, 0.1], (20, 1))
    p[8 : 8 + frames] = [0.1, 0.9]

    assert bool(smooth(np.log(p), 3.0).any()) == survives


def test_nothing_to_smooth():
    assert smooth(np.zeros((0, 3)), 1.0).tolist() == []
    assert smooth(np.full((4, 1), -1.0), 1.0).tolist() == [0, 0, 0, 0]


def test_leaves_its_input_alone():
    log_p = log_probabilities(np.random.default_rng(3), 20, 3)
    kept = log_p.copy()
    smooth(log_p, 1.0)

    np.testing.assert_array_equal(log_p, kept)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([], []),
        ([4], [(0, 1, 4)]),
        ([2, 2, 2], [(0, 3, 2)]),
        ([0, 0, 1, 0, 2, 2], [(0, 2, 0), (2, 3, 1), (3, 4, 0), (4, 6, 2)]),
        ([-1, -1, 3], [(0, 2, -1), (2, 3, 3)]),
    ],
)
def test_runs(labels, expected):
    assert runs(np.array(labels, np.int64)) == expected


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-1, 2), max_size=30))
def test_runs_tell_all_labels(labels):
    found = runs(np.array(labels, np.int64))

    assert [label for a, b, label in found for _ in range(a, b)] == labels
    assert all(a[2] != b[2] for a, b in itertools.pairwise(found))
