from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.config import Sampling
from pipeline.decode.sampling import MAX_HOLD_SECONDS, SamplePlan, Selector, sampling_of
from pipeline.records import VideoIndex

ALL = Sampling(every=1)


def index_at(times, *, last=None, tick=Fraction(1, 1000), late=0, timed=True, start_ticks=None):
    """An index of frames shown at these seconds, the last one for `last` seconds."""
    pts = np.array([round(Fraction(time) / tick) + late for time in times], dtype=np.int64)
    if last is None:
        last = float(np.median(np.diff(pts))) * float(tick) if len(pts) > 1 else 0
    return VideoIndex(
        format="mp4",
        codec="h264",
        pixel_format="yuv420p",
        width=64,
        height=32,
        rotation=0,
        mirrored=False,
        interlaced=False,
        stream=0,
        video_streams=1,
        time_base=(tick.numerator, tick.denominator),
        pts=pts,
        last_duration=round(Fraction(last) / tick),
        start_ticks=late if start_ticks is None else start_ticks,
        packets=len(pts),
        packets_discarded=0,
        frames_from_header=None,
        timed=timed,
    )


def steady(count, rate, tick=Fraction(1, 90000), **more):
    """An index of frames at a constant rate."""
    return index_at([Fraction(i) / rate for i in range(count)], tick=tick, **more)


@dataclass
class FakeFrame:
    """A decoded frame whose image is its number."""

    number: int
    ticks: int | None
    damaged: bool = False

    def rgb(self):
        return np.full((1, 1, 3), self.number)


def frames_of(index, missing=(), damaged=()):
    pts = index.pts.tolist()
    return [FakeFrame(n, t, n in damaged) for n, t in enumerate(pts) if n not in missing]


def select(index, sampling, frames=None, *, by_order=False, chunk=(0, None, 0)):
    """Numbers of the samples with those of their images, and the counts."""
    selector = Selector(SamplePlan(index, sampling, *chunk), by_order=by_order)
    samples = list(selector.select(frames_of(index) if frames is None else frames))
    return [(sample.number, int(sample.rgb[0, 0, 0])) for sample in samples], selector.counts


def images(index, sampling, frames=None):
    """Numbers of the images that are the samples 0, 1, 2 …"""
    found, _ = select(index, sampling, frames)
    assert [sample for sample, _ in found] == list(range(len(found)))
    return [image for _, image in found]


class TestSamplePlan:
    def test_constant_rate(self):
        plan = SamplePlan(steady(90, 30), Sampling(fps=8))

        assert plan.num_samples == 24
        assert plan.frame_indices()[:9].tolist() == [0, 3, 7, 11, 15, 18, 22, 26, 30]

    def test_every_nth_frame(self):
        plan = SamplePlan(steady(90, 30), Sampling(every=7))

        assert plan.num_samples == 13
        assert plan.frame_indices().tolist() == list(range(0, 90, 7))

    def test_all_frames(self):
        plan = SamplePlan(steady(90, 30), ALL)

        assert plan.frame_indices().tolist() == list(range(90))

    def test_a_higher_rate_than_that_of_the_video_repeats_frames(self):
        assert images(steady(3, 10), Sampling(fps=30)) == [0, 0, 0, 1, 1, 1, 2, 2, 2]

    def test_variable_rate_is_sampled_by_time(self):
        index = index_at([0, 0.1, 1.0, 1.05, 3.0], last=0.5)

        assert images(index, Sampling(fps=2)) == [0, 1, 2, 3, 3, 3, 4]

    @pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24000, 1001), 25, 30, 60])
    def test_rounded_milliseconds_do_not_skip_or_repeat_a_frame(self, rate):
        """Matroska rounds times to milliseconds; the rate of the video gives each frame once."""
        index = steady(500, rate, tick=Fraction(1, 1000))

        assert images(index, Sampling(fps=float(rate)))[:490] == list(range(490))

    def test_a_third_of_the_rate_takes_every_third_frame_of_rounded_times(self):
        index = steady(90, 30, tick=Fraction(1, 1000))

        assert images(index, Sampling(fps=10)) == list(range(0, 90, 3))

    def test_times_count_from_the_first_frame(self):
        late = steady(30, 30, late=450_000)

        assert images(late, Sampling(fps=10)) == list(range(0, 30, 3))
        assert SamplePlan(late, Sampling(fps=10)).num_samples == 10

    def test_one_frame_without_duration_is_one_sample(self):
        assert images(index_at([0]), Sampling(fps=8)) == [0]
        assert images(index_at([0]), ALL) == [0]

    def test_one_frame_lasts_as_long_as_the_container_says(self):
        assert images(index_at([0], last=2), Sampling(fps=4)) == [0] * 8

    def test_a_duration_below_one_sample_is_one_sample(self):
        assert images(steady(3, 30), Sampling(fps=1)) == [0]

    def test_no_frames_give_no_samples(self):
        assert SamplePlan(index_at([]), Sampling(fps=8)).num_samples == 0
        assert SamplePlan(index_at([]), ALL).num_samples == 0

    @pytest.mark.parametrize("sampling", [Sampling(fps=7.3), Sampling(every=3)])
    def test_frame_ranges_of_chunks_are_a_partition(self, sampling):
        index = steady(100, 25)
        total = SamplePlan(index, sampling).num_samples
        parts = [
            SamplePlan(index, sampling, a, b).frame_range()
            for a, b in itertools.pairwise([0, 1, 5, 17, total])
        ]

        assert [n for part in parts for n in part] == list(range(100))

    @pytest.mark.parametrize(
        ("keys", "borders"),
        [
            ([0], [0, 30, 60]),
            ([0, 25, 58], [0, 25, 58]),
            ([0, 12, 20, 28, 31], [0, 28, 31]),
            ([0, 60], [0, 30, 60]),
        ],
    )
    def test_a_chunk_begins_at_the_key_frame_before_its_first_sample(self, keys, borders):
        """Otherwise the frames between them would be decoded for both chunks."""
        index = steady(90, 10)
        index = replace(index, keys=index.pts[keys])
        every_three_seconds = Sampling(every=30)

        parts = [SamplePlan(index, every_three_seconds, k, k + 1).frame_range() for k in range(3)]

        assert [part.start for part in parts] == borders
        assert [part.stop for part in parts] == [*borders[1:], 90]

    def test_context_is_limited_by_the_first_sample(self):
        plan = SamplePlan(steady(90, 30), Sampling(fps=10), 4, 8, context=6)

        assert plan.first == 0
        assert plan.frame_indices().tolist() == [0, 3, 6, 9, 12, 15, 18, 21]

    def test_wants_exactly_the_frames_that_become_samples(self):
        index = index_at([0, 0.1, 0.11, 0.4, 0.9, 1.0], last=0.1)
        plan = SamplePlan(index, Sampling(fps=10), 2, 9, context=1)

        wanted = [n for n in range(6) if plan.wants(n)]

        assert wanted == [1, 2, 3] == sorted(set(plan.frame_indices().tolist()))

    def test_wants_every_frame_if_times_are_not_unique(self):
        plan = SamplePlan(index_at([0, 0.1, 0.1, 0.2]), Sampling(fps=1))

        assert all(plan.wants(n) for n in range(4))
        assert SamplePlan(steady(4, 30), Sampling(fps=1)).wants(4), "more than the container holds"


class TestTimeLapse:
    @pytest.mark.parametrize("rate", [Fraction(1, 10), Fraction(1, 2), 1, Fraction(999, 1000)])
    def test_each_frame_is_one_sample(self, rate):
        index = steady(12, rate)
        sampling = sampling_of(index, Sampling(fps=8))

        assert images(index, sampling) == list(range(12))
        assert SamplePlan(index, sampling).num_samples == 12

    def test_rounded_times_make_no_difference(self):
        index = index_at([n + (0.0005 if n % 2 else 0) for n in range(20)])

        assert sampling_of(index, Sampling(fps=8)) == ALL

    @pytest.mark.parametrize(
        ("index", "sampling"),
        [
            (steady(12, 2), Sampling(fps=8)),
            (steady(12, Fraction(1, 10)), Sampling(fps=0.1)),
            (steady(12, Fraction(1, 10)), Sampling(every=3)),
            (index_at([0, 0.1, 0.2, 0.3, 60], last=60), Sampling(fps=8)),
            (index_at([0], last=20), Sampling(fps=8)),
        ],
        ids=["2 frames/s", "low sampling rate", "every 3rd", "one long frame", "one frame"],
    )
    def test_other_videos_are_sampled_as_before(self, index, sampling):
        assert sampling_of(index, sampling) is sampling


class TestSelector:
    def test_samples_have_number_time_and_frame_index(self):
        index = index_at([5, 5.5, 6.2], last=1, late=7)
        [first, second, third] = Selector(SamplePlan(index, ALL)).select(frames_of(index))

        assert [s.frame_index for s in (first, second, third)] == [0, 1, 2]
        assert [s.pts_seconds for s in (first, second, third)] == pytest.approx([0, 0.5, 1.2])

    def test_stops_reading_after_the_last_sample(self):
        read = []

        def frames():
            for frame in frames_of(steady(90, 30)):
                read.append(frame.number)
                yield frame

        found, counts = select(steady(90, 30), Sampling(fps=10), frames(), chunk=(2, 5, 1))

        assert found == [(1, 3), (2, 6), (3, 9), (4, 12)]
        assert read == list(range(16))
        assert counts.decoded == 9, "frames 6 to 14; those before are counted by who comes before"

    def test_a_frame_across_a_border_is_in_both_chunks(self):
        """A frame may be the last samples of a chunk and the first of the next."""
        index = steady(4, 2)

        left, _ = select(index, Sampling(fps=8), chunk=(0, 6, 0))
        right, _ = select(index, Sampling(fps=8), chunk=(6, 16, 0))

        assert left == [(0, 0), (1, 0), (2, 0), (3, 0), (4, 1), (5, 1)]
        assert right[:3] == [(6, 1), (7, 1), (8, 2)]

    def test_a_chunk_within_one_frame(self):
        found, counts = select(index_at([0, 5], last=1), Sampling(fps=2), chunk=(3, 5, 0))

        assert found == [(3, 0), (4, 0)]
        assert counts.decoded == 0, "the chunk before accounts for it"

    def test_a_frame_is_held_for_a_limited_time(self):
        """A frame stands in for damage at most `MAX_HOLD_SECONDS`: 9 is shown at 0.3 s."""
        index = steady(90, 30)
        hole = range(10, 60)

        found, counts = select(index, Sampling(fps=10), frames_of(index, hole))

        held = [sample for sample, image in found if image == 9]
        assert held == [k for k in range(3, 20) if k / 10 < 0.3 + MAX_HOLD_SECONDS]
        assert [sample for sample, _ in found] == [*range(13), *range(20, 30)]
        assert found[13] == (20, 60)
        assert counts.decoded == 40

    def test_a_short_gap_shows_the_frame_before(self):
        index = steady(30, 30)

        assert images(index, Sampling(fps=10), frames_of(index, range(5, 14))) == [
            0, 3, 4, 4, 4, 15, 18, 21, 24, 27,
        ]  # fmt: skip

    def test_the_last_decodable_frame_is_not_held(self):
        index = steady(90, 30)

        found, _ = select(index, Sampling(fps=10), frames_of(index, range(10, 90)))

        assert found == [(0, 0), (1, 3), (2, 6), (3, 9)]

    def test_a_long_frame_is_held(self):
        """A slide show is not damaged."""
        assert images(index_at([0, 5, 9], last=3), Sampling(fps=1)) == [0] * 5 + [1] * 4 + [2] * 3

    def test_a_missing_beginning_has_no_samples(self):
        index = steady(30, 30)

        found, _ = select(index, Sampling(fps=10), frames_of(index, range(12)))

        assert found == [(4, 12), (5, 15), (6, 18), (7, 21), (8, 24), (9, 27)]

    def test_missing_frames_do_not_shift_the_numbers_of_others(self):
        index = steady(20, 30)

        found, counts = select(index, Sampling(every=5), frames_of(index, (3, 5, 7)))

        assert found == [(0, 0), (2, 10), (3, 15)]
        assert counts.decoded == 17

    def test_the_last_of_frames_at_the_same_time_is_shown(self):
        index = index_at([0, 0, 0.1, 0.1, 0.2], last=0.1)

        found, counts = select(index, Sampling(fps=10))

        assert found == [(0, 1), (1, 3), (2, 4)]
        assert (counts.decoded, counts.duplicated, counts.backwards) == (5, 2, False)

    def test_all_frames_include_those_at_the_same_time(self):
        found, _ = select(index_at([0, 0, 0.1, 0.1, 0.2], last=0.1), ALL)

        assert found == [(n, n) for n in range(5)]

    def test_a_repeated_frame_is_counted_and_skipped(self):
        index = steady(4, 30)
        frames = [FakeFrame(n, int(index.pts[k])) for n, k in enumerate([0, 1, 1, 2, 3])]

        found, counts = select(index, ALL, frames)

        assert found == [(0, 0), (1, 1), (2, 3), (3, 4)]
        assert (counts.decoded, counts.duplicated) == (5, 1)

    def test_decreasing_times_are_reported(self):
        index = steady(4, 30)
        frames = [FakeFrame(n, int(index.pts[k])) for n, k in enumerate([0, 2, 1, 3])]

        assert select(index, ALL, frames)[1].backwards
        assert not select(index, ALL)[1].backwards

    def test_stops_reading_when_times_decrease(self):
        """The file is read again by order: reading on would decode it twice."""
        index = steady(4, 30)
        frames = iter([FakeFrame(n, int(index.pts[k])) for n, k in enumerate([0, 2, 1, 3])])

        select(index, ALL, frames)

        assert [frame.number for frame in frames] == [3]

    def test_by_order_uses_only_the_times_of_the_index(self):
        index = steady(4, 30)
        frames = [FakeFrame(n, int(index.pts[k])) for n, k in enumerate([0, 2, 1, 3])]

        assert select(index, ALL, frames, by_order=True)[0] == [(n, n) for n in range(4)]

    def test_frames_without_times_are_taken_in_order(self):
        index = steady(4, 30, timed=False)

        assert images(index, ALL, [FakeFrame(n, None) for n in range(4)]) == [0, 1, 2, 3]

    def test_times_of_a_stream_without_clock_are_ignored(self):
        index = steady(3, 30, timed=False)

        assert images(index, ALL, [FakeFrame(n, 77) for n in range(3)]) == [0, 1, 2]

    def test_more_frames_than_the_container_holds_follow_the_last(self):
        index = steady(3, 30)
        frames = [*frames_of(index), FakeFrame(3, None), FakeFrame(4, None)]

        found, counts = select(index, ALL, frames, chunk=(0, 5, 0))

        assert found == [(n, n) for n in range(5)]
        assert counts.decoded == 5

    def test_damaged_frames_count_in_their_chunk(self):
        index = steady(30, 30)
        frames = frames_of(index, damaged=(2, 10, 11, 25))

        counts = [
            select(index, ALL, frames, chunk=chunk)[1].damaged
            for chunk in [(0, 11, 0), (11, 20, 5), (20, 30, 10)]
        ]

        assert counts == [2, 1, 1]

    def test_failed_packets_count_in_one_chunk(self):
        index = steady(30, 30)
        plans = [SamplePlan(index, ALL, *ends) for ends in [(0, 10), (10, 30)]]
        places = [int(index.pts[n]) for n in (3, 9, 10, 29)]
        before_the_first = int(index.pts[0]) - 3000

        assert [[plan.accounts_for(t) for t in places] for plan in plans] == [
            [True, True, False, False],
            [False, False, True, True],
        ]
        assert [plan.accounts_for(before_the_first) for plan in plans] == [True, False]
        assert [plan.accounts_for(None) for plan in plans] == [False, True]


GAPS = st.lists(
    st.one_of(st.integers(1, 120), st.integers(1, 120), st.integers(500, 2500)),
    min_size=0,
    max_size=40,
)
"""Milliseconds from frame to frame: mostly a usual rate, at times a long still."""
RATES = st.one_of(
    st.sampled_from([1, 2.5, 5, 8, 10, 24, 24000 / 1001, 25, 29.97, 30, 60]),
    st.floats(0.4, 70),
)
SAMPLINGS = st.one_of(
    RATES.map(lambda fps: Sampling(fps=fps)), st.integers(1, 9).map(lambda n: Sampling(every=n))
)


def index_of_gaps(gaps, late=0):
    times = [Fraction(t, 1000) for t in itertools.accumulate(gaps, initial=0)]
    return index_at(times, last=Fraction(40, 1000), late=late)


@given(gaps=GAPS, late=st.integers(-5000, 90_000), fps=RATES)
def test_sample_k_is_the_last_frame_not_after_its_time(gaps, late, fps):
    index = index_of_gaps(gaps, late)
    at = index.seconds.tolist()
    half_a_tick = 0.0005 + 1e-9

    shown = images(index, Sampling(fps=fps))

    assert shown == [
        max(n for n, time in enumerate(at) if time <= k / fps + half_a_tick)
        for k in range(len(shown))
    ]
    assert len(shown) == max(1, math.ceil((index.duration_seconds - half_a_tick) * fps))


@given(
    gaps=GAPS,
    sampling=SAMPLINGS,
    cuts=st.lists(st.floats(0, 1), max_size=5),
    context=st.integers(0, 12),
    lost=st.sets(st.integers(0, 40), max_size=12),
    damaged=st.sets(st.integers(0, 40), max_size=6),
    keys=st.sets(st.integers(0, 40), max_size=8),
)
def test_chunks_join_to_the_whole_video(gaps, sampling, cuts, context, lost, damaged, keys):
    """With any borders, chunks have the samples and the counts of the whole video."""
    index = index_of_gaps(gaps, late=90)
    index = replace(index, keys=index.pts[[n for n in sorted(keys) if n < len(index.pts)]])
    total = SamplePlan(index, sampling).num_samples
    frames = frames_of(index, lost, damaged)
    assume(frames)
    whole, all_counts = select(index, sampling, frames)
    borders = sorted({0, total, *(round(cut * total) for cut in cuts)})
    joined, counts = [], np.zeros(3, int)

    for start, stop in itertools.pairwise(borders):
        part, counted = select(index, sampling, frames, chunk=(start, stop, context))
        first = max(0, start - context)
        assert part == [(k, image) for k, image in whole if first <= k < stop]
        joined += [(k, image) for k, image in part if k >= start]
        counts += [counted.decoded, counted.damaged, counted.duplicated]

    assert joined == whole
    assert counts.tolist() == [all_counts.decoded, all_counts.damaged, all_counts.duplicated]


@given(gaps=GAPS, sampling=SAMPLINGS, start=st.floats(0, 1), length=st.integers(1, 20))
def test_wanted_frames_are_those_of_the_plan(gaps, sampling, start, length):
    index = index_of_gaps(gaps)
    total = SamplePlan(index, sampling).num_samples
    first = min(total - 1, int(start * total))
    plan = SamplePlan(index, sampling, first, min(total, first + length))

    wanted = {n for n in range(len(index.pts)) if plan.wants(n)}

    assert wanted == set(plan.frame_indices().tolist())
