"""Segments decoded with counted durations and transitions, against definitions and brute force."""

from __future__ import annotations

import json
import time
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.recognition.duration_viterbi import Durations, Transitions, decode_durations
from pipeline.recognition.segment_model import SegmentModel
from pipeline.recognition.windows import run_length_encode
from pipeline.temporal.sequences import LabelledSequence


def frames(*runs):
    """Labels of frames from (label, count) pairs."""
    return np.concatenate([np.full(count, label) for label, count in runs]).astype(np.int64)


def confident(labels, num_labels, share=0.9):
    """Probabilities (T, K) with `share` for the given labels."""
    rest = (1 - share) / (num_labels - 1)
    return np.where(np.eye(num_labels, dtype=bool)[labels], share, rest)


def count(*sequences, fps=8, num_labels=3):
    return SegmentModel.count(sequences, [np.arange(len(s)) / fps for s in sequences], num_labels)


def score(states, log_probabilities, durations, transitions):
    """Score a path of one chain by the definition."""
    runs = run_length_encode(np.array(states))
    longest = durations.exact.shape[1]
    total = transitions.initial[0, runs[0][2]]
    total += sum(log_probabilities[t, 0, state] for t, state in enumerate(states))
    total += sum(transitions.change[0, a, b] for (*_, a), (*_, b) in pairwise(runs))
    for start, stop, state in runs:
        length, last = stop - start, stop == len(states)
        if length <= longest:
            total += (durations.at_least if last else durations.exact)[state, length - 1]
        else:
            total += durations.longer[state] + (length - longest - 1) * durations.stay[state]
            total += 0 if last else durations.leave[state]
    return total


@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_the_path_is_the_best_of_all_paths(seed, steps, longest):
    rng = np.random.default_rng(seed)
    lengths = rng.dirichlet(np.ones(longest + 1), size=3)
    reverse = np.cumsum(lengths[:, ::-1], 1)[:, ::-1]
    durations = Durations(
        np.log(lengths[:, :-1]),
        np.log(reverse[:, :-1]),
        np.log(lengths[:, -1]),
        np.log(rng.uniform(0.1, 0.9, 3)),
    )
    with np.errstate(divide="ignore"):
        change = np.log(rng.uniform(0.1, 1, (1, 3, 3)) * (1 - np.eye(3)))
    transitions = Transitions(np.log(rng.uniform(0.1, 1, (1, 3))), change)
    observed = 2 * rng.normal(size=(steps, 1, 3))

    path = decode_durations(observed, durations, transitions)[:, 0]

    paths = product(range(3), repeat=steps)
    best = max(score(states, observed, durations, transitions) for states in paths)
    assert score(path.tolist(), observed, durations, transitions) == pytest.approx(best)


class TestCounts:
    def test_durations_are_in_seconds(self):
        """Segments of 2 s at 4 and at 16 frames/s have the same durations."""
        slow, fast = (
            count(frames((0, 2 * fps), (1, 2 * fps), (2, 2 * fps)), fps=fps) for fps in (4, 16)
        )

        assert slow == fast
        assert np.exp(slow.mean_log_seconds) == pytest.approx(np.full((1, 3), 2.0))

    def test_irregular_times_count_until_the_next_segment(self):
        seconds = np.array([0.0, 0.5, 3.0, 3.5])
        model = SegmentModel.count([frames((0, 2), (1, 2))], [seconds], 2)

        alone = SegmentModel.count([frames((0, 3), (1, 1))], [np.arange(4.0)], 2)
        assert model.mean_log_seconds == alone.mean_log_seconds  # 3 s and 1 s

    def test_transitions_are_counted_and_smoothed(self):
        sequence = frames(*[(label, 8) for label in (0, 1, 0, 1, 0, 1, 0, 1, 2)])
        (((none, likely, rare), *_),) = count(sequence).transitions

        assert none == 0
        assert likely > 0.8
        assert 0 < rare < 0.2

    def test_probabilities_sum_to_one(self):
        model = count(frames((0, 4), (1, 9), (0, 3)))

        assert np.sum(model.transitions, axis=2) == pytest.approx(np.ones((1, 3)))
        assert np.sum(model.initial, axis=1) == pytest.approx([1])

    def test_labels_without_a_segment_get_the_durations_of_all(self):
        model = count(frames((0, 16), (1, 16)))

        assert model.mean_log_seconds[0][2] == pytest.approx(np.log(2))

    def test_unknown_frames_are_in_no_segment_and_no_transition(self):
        model = count(frames((0, 8), (-1, 40), (1, 8)))

        assert np.exp(model.mean_log_seconds) == pytest.approx(np.ones((1, 3)))
        assert model.transitions == count(frames((0, 8)), frames((1, 8))).transitions

    @pytest.mark.parametrize("multi_label", [False, True])
    def test_frames_outside_the_mask_are_unknown(self, multi_label):
        labels = frames((0, 8), (1, 8), (0, 8))
        targets = labels[:, None] == np.arange(2) if multi_label else labels
        mask = np.arange(24) < 12
        sequence = LabelledSequence(
            "v", "v", "g", np.zeros((24, 1), np.float32), targets, mask, np.arange(24) / 8
        )

        found = SegmentModel.of([sequence], 2)

        known = np.where(mask[:, None] if multi_label else mask, targets.astype(np.int64), -1)
        assert found == SegmentModel.count([known], [sequence.seconds], 2, multi_label=multi_label)
        assert found != SegmentModel.count(
            [targets.astype(np.int64)], [sequence.seconds], 2, multi_label=multi_label
        )

    @pytest.mark.parametrize(
        ("target", "message"),
        [(np.zeros((4, 2)), r"must be \(4,\), got \(4, 2\)"), (np.full(4, 3), "below 3, got 3")],
    )
    def test_wrong_targets_fail(self, target, message):
        with pytest.raises(ValueError, match=message):
            SegmentModel.count([target], [np.arange(4.0)], 3)


class TestDecode:
    TRAINING = frames((0, 16), (1, 24), (2, 16), (0, 20), (1, 20), (2, 18))

    def test_short_interruptions_are_smoothed_away(self):
        truth = frames((0, 20), (1, 20))
        seen = truth.copy()
        seen[8:10] = 2

        found = count(self.TRAINING).decode(confident(seen, 3), 1 / 8)

        np.testing.assert_array_equal(found, truth)

    def test_labels_with_short_segments_keep_them(self):
        training = frames(*[(0, 80), (1, 2), (0, 70), (1, 3)] * 8, (2, 20))
        seen = frames((0, 80), (1, 3), (0, 40))

        short = count(training).decode(confident(seen, 3, 0.9), 1 / 8)
        long = count(self.TRAINING).decode(confident(seen, 3, 0.9), 1 / 8)

        np.testing.assert_array_equal(short, seen)
        np.testing.assert_array_equal(long, np.zeros_like(seen))

    def test_transitions_decide_between_equal_probabilities(self):
        training = frames(*[(label, 16) for label in (0, 1, 0, 1, 0, 1, 0, 2)])
        probabilities = confident(frames((0, 16), (1, 16)), 3)
        probabilities[16:] = [0.02, 0.49, 0.49]

        found = count(training).decode(probabilities, 1 / 8)

        np.testing.assert_array_equal(found, frames((0, 16), (1, 16)))

    def test_segments_longer_than_any_counted(self):
        seen = frames((0, 4000), (1, 16))

        found = count(self.TRAINING).decode(confident(seen, 3), 1 / 8)

        np.testing.assert_array_equal(found, seen)

    @pytest.mark.parametrize("factor", [2, 8])
    def test_the_sampling_rate_changes_no_segment(self, factor):
        rng = np.random.default_rng(3)
        logits = np.eye(3)[frames((0, 20), (1, 3), (2, 30), (1, 18))] * 2
        logits += rng.normal(size=logits.shape)
        probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        model = count(self.TRAINING)

        slow = model.decode(probabilities, 1 / 8)
        fast = model.decode(np.repeat(probabilities, factor, axis=0), 1 / 8 / factor)

        assert len(run_length_encode(slow)) > 1
        np.testing.assert_array_equal(fast, np.repeat(slow, factor))

    @pytest.mark.parametrize("length", [0, 1])
    def test_very_short_sequences(self, length):
        found = count(self.TRAINING).decode(np.full((length, 3), 1 / 3), 1 / 8)

        assert found.shape == (length,)

    def test_a_single_label(self):
        model = count(frames((0, 8)), num_labels=1)

        assert model.decode(np.ones((5, 1)), 1 / 8).tolist() == [0] * 5

    def test_three_hours_at_eight_frames_per_second(self):
        rng = np.random.default_rng(0)
        labels = np.repeat(rng.integers(0, 3, 1800), 48)
        started = time.process_time()

        found = count(self.TRAINING).decode(confident(labels, 3, 0.7), 1 / 8)

        assert (found == labels).mean() > 0.95
        assert time.process_time() - started < 60  # 2 s on an idle core

    @pytest.mark.parametrize(
        ("shape", "step", "message"),
        [((4, 2), 1.0, r"must be \(T, 3\), got \(4, 2\)"), ((4, 3), 0.0, "above 0, got 0")],
    )
    def test_wrong_arguments_fail(self, shape, step, message):
        with pytest.raises(ValueError, match=message):
            count(self.TRAINING).decode(np.ones(shape), step)


class TestMultiLabel:
    def model(self):
        on = np.stack([frames((0, 16), (1, 16), (0, 16)), frames((0, 24), (1, 16), (0, 8))], axis=1)
        return SegmentModel.count([on], [np.arange(48) / 8], 2, multi_label=True)

    def test_labels_overlap(self):
        on = np.stack([frames((0, 8), (1, 20)), frames((0, 18), (1, 10))], axis=1)
        probabilities = np.where(on == 1, 0.9, 0.1)
        probabilities[12, 0] = 0.1

        found = self.model().decode(probabilities, 1 / 8)

        np.testing.assert_array_equal(found, on)

    def test_each_label_is_decoded_as_if_alone(self):
        probabilities = np.random.default_rng(1).uniform(size=(60, 2))
        both = self.model()
        found = both.decode(probabilities, 1 / 8)

        for label in range(2):
            alone = SegmentModel(
                *((getattr(both, name)[label],) for name in (
                    "mean_log_seconds", "std_log_seconds", "initial", "transitions"
                )),
                multi_label=True,
            )  # fmt: skip
            one = alone.decode(probabilities[:, label : label + 1], 1 / 8)
            np.testing.assert_array_equal(found[:, label], one[:, 0])

    def test_a_label_is_on_above_its_threshold(self):
        probabilities = np.full((40, 2), 0.3)

        assert not self.model().decode(probabilities, 1 / 8).any()
        found = self.model().decode(probabilities, 1 / 8, thresholds=(0.1, 0.6))
        np.testing.assert_array_equal(found, np.tile([1, 0], (40, 1)))


class TestJson:
    @pytest.mark.parametrize("multi_label", [False, True])
    def test_round_trip(self, multi_label):
        target = np.eye(2, dtype=np.int64)[frames((0, 8), (1, 8))]
        target = target if multi_label else target[:, 0]
        model = SegmentModel.count([target], [np.arange(16.0)], 2, multi_label=multi_label)

        assert SegmentModel.from_json(json.loads(json.dumps(model.to_json()))) == model

    def test_shapes_that_do_not_match_fail(self):
        values = count(frames((0, 8), (1, 8))).to_json()

        with pytest.raises(ValueError, match=r"must be \(C, S\)"):
            SegmentModel.from_json({**values, "initial": [[0.5, 0.5]]})
        with pytest.raises(ValueError, match="wanted K chains with 2 states"):
            SegmentModel.from_json({**values, "multi_label": True})
