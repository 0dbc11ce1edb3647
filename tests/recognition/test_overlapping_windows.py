"""Windows cover a sequence of any length; joined predictions have no seam."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.recognition.overlapping_windows import OverlappingWindows

LENGTH, MARGIN, FADE = 16, 3, 4


def join(values, sizes=(), edges=0.0, shift=0):
    """Predict each frame by its feature, with `edges` added within the margins of windows."""
    windows, found, lengths = OverlappingWindows(LENGTH, MARGIN, FADE, shift), [], []
    cuts = [0, *np.minimum(np.cumsum(sizes), len(values)).astype(int).tolist(), len(values)]
    for number, (start, stop) in enumerate(pairwise(cuts)):
        is_last = number == len(cuts) - 2
        parts = [part.copy() for part in windows.split(values[start:stop], is_last=is_last)]
        lengths += map(len, parts)
        for part in parts:
            if part[0, 0] > 0:
                part[:MARGIN] += edges
            if part[-1, 0] < len(values) - 1:
                part[-MARGIN:] += edges
        found.append(windows.join(parts, values.shape[1], is_last=is_last))
    return np.concatenate(found), lengths


def ramp(count):
    return np.arange(count, dtype=np.float32)[:, None]


@given(st.integers(1, 120), st.lists(st.integers(0, 40), max_size=8))
def test_every_frame_is_predicted_once_and_in_order(count, sizes):
    found, lengths = join(ramp(count), sizes)

    np.testing.assert_allclose(found, ramp(count), atol=1e-4)
    assert max(lengths) <= LENGTH


@given(st.integers(1, 120), st.lists(st.integers(0, 40), max_size=8))
def test_frames_next_to_the_edges_of_windows_are_not_used(count, sizes):
    found, _ = join(ramp(count), sizes, edges=1000.0)

    np.testing.assert_allclose(found, ramp(count), atol=1e-3)


def test_two_windows_are_faded():
    """The second window predicts 1, the first one 0."""
    windows = OverlappingWindows(LENGTH, MARGIN, FADE)
    parts = windows.split(ramp(22), is_last=True)
    predictions = [np.full((len(part), 1), number, np.float32) for number, part in enumerate(parts)]

    found = windows.join(predictions, 1, is_last=True)[:, 0]

    np.testing.assert_allclose(found[6:16], [0, 0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1], atol=1e-6)
    assert np.diff(found).max() <= 0.2 + 1e-6


def test_short_sequences_are_one_window():
    assert join(ramp(LENGTH))[1] == [LENGTH]
    assert join(ramp(LENGTH + 1))[1] == [LENGTH, 2 * MARGIN + FADE + 1]


def test_a_shift_delays_all_windows_but_the_first():
    found, lengths = join(ramp(40), edges=1000.0, shift=1)

    np.testing.assert_allclose(found, ramp(40), atol=1e-3)
    assert lengths == [LENGTH + 1, LENGTH, LENGTH, LENGTH, 15]


def test_windows_shorter_than_their_overlap_fail():
    with pytest.raises(ValueError, match="length must be above 10, got 10"):
        OverlappingWindows(10, MARGIN, FADE)
