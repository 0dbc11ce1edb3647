"""Smoothing of labels, compared with every possible path."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.recognition.smoothing import smooth


def log_probabilities(rng, steps, labels):
    p = rng.dirichlet(np.full(labels, 0.7), steps)
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
def test_no_path_has_a_higher_score(steps, labels, penalty, seed):
    log_p = log_probabilities(np.random.default_rng(seed), steps, labels)
    found = smooth(log_p, penalty)
    best = max(
        value(path, log_p, penalty) for path in itertools.product(range(labels), repeat=steps)
    )

    assert found.shape == (steps,)
    assert found.dtype == np.int64
    assert value(found, log_p, penalty) == pytest.approx(best)


def test_without_penalty_each_frame_has_its_most_likely_label():
    log_p = log_probabilities(np.random.default_rng(1), 500, 5)

    np.testing.assert_array_equal(smooth(log_p, 0.0), log_p.argmax(1))


def test_a_very_high_penalty_gives_one_label():
    log_p = log_probabilities(np.random.default_rng(2), 500, 5)

    np.testing.assert_array_equal(smooth(log_p, 1e9), np.full(500, log_p.sum(0).argmax()))


@pytest.mark.parametrize(("frames", "survives"), [(2, False), (3, True)])
def test_the_penalty_is_in_nats(frames, survives):
    """Two changes cost 6 nats; each frame between gains log(0.9 / 0.1) = 2.2."""
    p = np.tile([0.9, 0.1], (20, 1))
    p[8 : 8 + frames] = [0.1, 0.9]

    assert bool(smooth(np.log(p), 3.0).any()) == survives


def test_no_frames_or_a_single_label():
    assert smooth(np.zeros((0, 3)), 1.0).tolist() == []
    assert smooth(np.full((4, 1), -1.0), 1.0).tolist() == [0, 0, 0, 0]


def test_the_input_is_not_modified():
    log_p = log_probabilities(np.random.default_rng(3), 20, 3)
    kept = log_p.copy()
    smooth(log_p, 1.0)

    np.testing.assert_array_equal(log_p, kept)
