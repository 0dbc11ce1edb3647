"""Shots and clips, compared with a slow implementation on all samples at once."""

from __future__ import annotations

import itertools
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import ClipWindows
from pipeline.recognition.windows import (
    Samples,
    ShotChunk,
    ShotSplitter,
    WindowCutter,
    run_length_encode,
    split_at,
)


def samples(times):
    """Make samples whose only feature is their index."""
    times = np.asarray(times, float)
    return Samples(times, np.arange(len(times), dtype=np.float32)[:, None])


def shot_chunks(given_samples, cuts, end, sizes):
    """Feed samples in parts of the given sizes, then the rest."""
    splitter, found, start = ShotSplitter(), [], 0
    cuts = np.asarray(cuts, bool)
    for size in [*sizes, len(given_samples)]:
        part = slice(start, min(start + size, len(given_samples)))
        found += splitter.feed(given_samples[part], cuts[part])
        start = part.stop
    return [*found, *splitter.finish(end)]


def cut(times, cuts, end, windows, sizes=()):
    """Give (shot, indices of the samples, first index in the shot, start, end) of each clip."""
    cutter = WindowCutter(windows)
    return [
        (
            w.shot,
            w.samples.features[:, 0].astype(int).tolist(),
            w.first,
            w.start_seconds,
            w.end_seconds,
        )
        for chunk in shot_chunks(samples(times), cuts, end, sizes)
        for w in cutter.feed(chunk)
    ]


def expected_clips(times, cuts, end, length, stride):
    """Cut all samples at once, with exact arithmetic."""
    times = [Fraction(float(time)) for time in times]
    edges = [0, *(n for n in range(1, len(times)) if cuts[n]), len(times)]
    min_remainder = min(length, stride) / 2
    clips = []
    for shot in range(len(edges) - 1):
        numbers = range(edges[shot], edges[shot + 1])
        begin = times[numbers[0]]
        finish = times[numbers.stop] if numbers.stop < len(times) else max(end, times[-1])
        start, first = begin, True
        while first or start < finish:
            last = start + length + min_remainder > finish
            stop = finish if last else start + length
            inside = [n for n in numbers if times[n] >= start and (last or times[n] < stop)]
            if inside:
                clips.append((shot, inside, inside[0] - numbers[0], float(start), float(stop)))
            if last:
                break
            start, first = start + stride, False
    return clips


grid = st.integers(1, 40).map(lambda n: Fraction(n, 8))


@st.composite
def videos(draw):
    gaps = draw(st.lists(st.sampled_from([1, 1, 1, 1, 2, 9, 30]), min_size=0, max_size=40))
    times = [float(Fraction(int(t), 8)) for t in np.cumsum([draw(st.integers(0, 9)), *gaps])]
    cuts = draw(st.lists(st.sampled_from([False] * 5 + [True]), min_size=41, max_size=41))
    end = Fraction(times[-1]) + draw(st.integers(-3, 20)) * Fraction(1, 8)
    return times, cuts[: len(times)], end


@settings(max_examples=400, deadline=None)
@given(
    video=videos(),
    length=grid,
    stride=st.none() | grid,
    sizes=st.lists(st.integers(0, 7), max_size=12),
)
def test_clips_do_not_depend_on_the_chunks(video, length, stride, sizes):
    times, cuts, end = video
    windows = ClipWindows(float(length), None if stride is None else float(stride))
    found = cut(times, cuts, float(end), windows, sizes)

    assert found == expected_clips(times, cuts, end, length, stride or length)


@settings(max_examples=300, deadline=None)
@given(
    gaps=st.lists(st.floats(0.01, 3), max_size=40),
    length=st.floats(0.05, 20),
    overlap=st.floats(0, 0.9),
    tail=st.floats(0, 5),
    sizes=st.lists(st.integers(0, 7), max_size=12),
)
def test_every_sample_is_in_a_clip_and_no_clip_is_empty(gaps, length, overlap, tail, sizes):
    times = np.cumsum([0.0, *gaps])
    end = float(times[-1]) + tail
    stride = length * (1 - overlap)
    found = cut(times, np.zeros(len(times)), end, ClipWindows(length, stride), sizes)
    held = [number for _, numbers, *_ in found for number in numbers]

    assert set(held) == set(range(len(times)))
    assert all(numbers for _, numbers, *_ in found)
    for _, numbers, first, start, stop in found:
        assert first == numbers[0]
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert start - 1e-5 <= times[numbers[0]]
        assert times[numbers[-1]] < stop + 1e-5
        assert stop - start <= length + stride / 2 + 1e-5
    if stride == length:
        assert held == list(range(len(times)))


@pytest.mark.parametrize("fps", [3, 7, 10, 24, 29.97, 30, 60])
@pytest.mark.parametrize("count", [1, 3, 7])
def test_clips_are_not_affected_by_rounding(fps, count):
    times = np.arange(count * 200) / fps
    found = cut(times, np.zeros(len(times)), len(times) / fps, ClipWindows(count / fps))

    assert [numbers for _, numbers, *_ in found] == [
        list(range(start, start + count)) for start in range(0, len(times), count)
    ]


class TestRemainder:
    @pytest.mark.parametrize(
        ("end", "expected"),
        [
            (4.0, [(0, 2), (2, 4)]),
            (4.9, [(0, 2), (2, 4.9)]),  # shorter than half a stride: part of the clip before
            (5.0, [(0, 2), (2, 4), (4, 5)]),  # half a stride: its own clip
            (5.5, [(0, 2), (2, 4), (4, 5.5)]),
            (2.5, [(0, 2.5)]),
            (0.5, [(0, 0.5)]),
        ],
    )
    def test_adjacent_clips(self, end, expected):
        times = np.arange(0, end, 0.25)
        found = cut(times, np.zeros(len(times)), end, ClipWindows(2.0))

        assert [(start, stop) for *_, start, stop in found] == expected

    @pytest.mark.parametrize(
        ("end", "expected"),
        [
            (4.0, [(0, 2), (1, 3), (2, 4)]),
            (4.25, [(0, 2), (1, 3), (2, 4.25)]),
            (4.5, [(0, 2), (1, 3), (2, 4), (3, 4.5)]),
        ],
    )
    def test_overlapping_clips(self, end, expected):
        times = np.arange(0, end, 0.25)
        found = cut(times, np.zeros(len(times)), end, ClipWindows(2.0, 1.0))

        assert [(start, stop) for *_, start, stop in found] == expected

    @pytest.mark.parametrize(
        ("end", "expected"),
        [(4.25, [(0, 1), (3, 4.25)]), (2.0, [(0, 1)]), (1.25, [(0, 1.25)])],
    )
    def test_clips_with_gaps(self, end, expected):
        times = np.arange(0, end, 0.25)
        found = cut(times, np.zeros(len(times)), end, ClipWindows(1.0, 3.0))

        assert [(start, stop) for *_, start, stop in found] == expected

    def test_clips_start_with_their_shot(self):
        times = np.arange(16) / 4 + 10
        cuts = np.arange(16) == 5
        found = cut(times, cuts, 14.0, ClipWindows(1.0))

        assert [(shot, start, stop) for shot, _, _, start, stop in found] == [
            (0, 10, 11.25),
            (1, 11.25, 12.25),
            (1, 12.25, 13.25),
            (1, 13.25, 14),
        ]

    def test_no_clip_without_a_sample(self):
        found = cut([0, 0.5, 10, 10.5], np.zeros(4), 11.0, ClipWindows(1.0))

        assert [(numbers, start, stop) for _, numbers, _, start, stop in found] == [
            ([0, 1], 0, 1),
            ([2, 3], 10, 11),
        ]

    def test_samples_after_the_end_of_the_video_are_kept(self):
        """If the duration is too short or unknown, the video ends with its last sample."""
        for end in (0.0, 3.0):
            found = cut([0, 1, 2, 3], np.zeros(4), end, ClipWindows(1.0))

            assert [numbers for _, numbers, *_ in found] == [[0], [1], [2, 3]]
            assert found[-1][-1] == 3


class TestShots:
    def test_chunks(self):
        times = np.arange(7) / 2
        cuts = np.array([0, 0, 1, 0, 0, 1, 0])
        found = shot_chunks(samples(times), cuts, 5.0, [4])

        fields = [
            (c.shot, len(c.samples), c.starts_shot, c.ends_shot, c.end_seconds) for c in found
        ]
        assert fields == [
            (0, 2, True, True, 1.0),
            (1, 2, True, False, 1.5),
            (1, 1, False, True, 2.5),
            (2, 2, True, True, 5.0),
        ]

    def test_the_newest_samples_are_held_until_their_shot_ends_or_continues(self):
        splitter = ShotSplitter()
        no, yes = np.array([False]), np.array([True])

        assert list(splitter.feed(samples([0.0]), no)) == []
        (chunk,) = splitter.feed(samples([1.0]), no)
        assert (chunk.ends_shot, chunk.end_seconds) == (False, 0.0)
        (chunk,) = splitter.feed(samples([2.0]), yes)
        assert (chunk.ends_shot, chunk.end_seconds) == (True, 2.0)
        (chunk,) = splitter.finish(9.0)
        assert (chunk.shot, chunk.end_seconds) == (1, 9.0)
        assert chunk.starts_shot
        assert chunk.ends_shot

    def test_the_first_sample_always_starts_a_shot(self):
        for first in (False, True):
            found = shot_chunks(samples([0, 1]), [first, False], 2.0, [1])

            assert [(c.shot, c.starts_shot) for c in found] == [(0, True), (0, False)]

    def test_a_video_without_samples_has_no_shot(self):
        splitter = ShotSplitter()

        assert list(splitter.feed(samples([]), np.zeros(0, bool))) == []
        assert list(splitter.finish(3.0)) == []

    def test_a_shot_ends_at_its_last_sample_at_the_earliest(self):
        (chunk,) = shot_chunks(samples([0, 1, 2]), [False] * 3, 0.5, [])

        assert chunk.end_seconds == 2


@pytest.mark.parametrize("sizes", [(), (1, 1, 1), (3,)])
def test_a_sample_that_is_shown_on_is_in_every_clip_of_its_time(sizes):
    cutter = WindowCutter(ClipWindows(4.0), shown_on=True)
    chunks = shot_chunks(samples([0, 10, 20]), [False] * 3, 30.0, sizes)

    found = [
        (w.samples.features[:, 0].astype(int).tolist(), w.first, w.start_seconds, w.end_seconds)
        for chunk in chunks
        for w in cutter.feed(chunk)
    ]

    assert found == [
        ([0], 0, 0, 4),
        ([0], 0, 4, 8),
        ([0, 1], 0, 8, 12),
        ([1], 1, 12, 16),
        ([1], 1, 16, 20),
        ([2], 2, 20, 24),
        ([2], 2, 24, 28),
        ([2], 2, 28, 30),
    ]


def test_at_most_one_clip_is_in_memory():
    """67 minutes at 25 frames/s: 51 MB of features."""
    cutter = WindowCutter(ClipWindows(4.0, 1.0))
    count = 0
    tracemalloc.start()
    try:
        for number in range(100):
            times = (np.arange(1000) + number * 1000) / 25
            features = np.zeros((1000, 128), np.float32)
            chunk = ShotChunk(
                Samples(times, features), 0, number == 0, number == 99, float(times[-1])
            )
            count += sum(1 for _ in cutter.feed(chunk))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert count == 3996 + 1
    assert peak < 4 << 20


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
def test_run_length_encode(labels, expected):
    assert run_length_encode(np.array(labels, np.int64)) == expected


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-1, 2), max_size=30))
def test_run_length_encoding_can_be_decoded(labels):
    found = run_length_encode(np.array(labels, np.int64))

    assert [label for a, b, label in found for _ in range(a, b)] == labels
    assert all(a[2] != b[2] for a, b in itertools.pairwise(found))


def test_split_at():
    starts = np.array([False, False, True, True, False])

    assert split_at(starts) == [(0, 2), (2, 3), (3, 5)]
    assert split_at(starts[:0]) == []
