"""Recognizers of frames: the labels of whole videos, in chunks, windows and with several labels."""

from __future__ import annotations

import dataclasses
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import ClipWindows
from pipeline.recognition import frame_probabilities
from pipeline.recognition.frame_labels import decode_labels
from pipeline.recognition.frame_probabilities import predict_frames
from pipeline.recognition.recognize import recognize
from pipeline.recognition.segment_model import SegmentModel
from pipeline.recognition.windows import run_length_encode
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import TemporalOptions
from tests.recognition.toy_recognizer import (
    FPS,
    STREAMING,
    WHOLE_CLIPS,
    D,
    K,
    assert_frames,
    assert_same,
    cell,
    chunks,
    draw,
    flat,
    forward,
    make,
    run,
    spans,
)

BIDIRECTIONAL = WHOLE_CLIPS[0]
SEGMENTS = SegmentModel.count([np.repeat([0, 1, 2, 0], 12)], [np.arange(48) / FPS], K)


def frames(options=STREAMING[0], **changes):
    return make(options, **{"task": "frames", **changes})


@pytest.fixture
def short_windows(monkeypatch):
    """Windows of 320 frames, of which consecutive ones share 256."""
    monkeypatch.setattr(frame_probabilities, "HOP_FRAMES", 64)
    monkeypatch.setattr(frame_probabilities, "MARGIN_STEPS", 120)
    monkeypatch.setattr(frame_probabilities, "FADE_FRAMES", 16)


class TestFrames:
    @pytest.mark.parametrize("options", STREAMING + WHOLE_CLIPS, ids=cell)
    def test_they_are_the_model_on_the_whole_video(self, options):
        recognizer = frames(options)
        values = draw(30)

        assert_frames(run(recognizer, values, sizes=[7, 9]), forward(recognizer, values)[0])

    @pytest.mark.parametrize("options", STREAMING + WHOLE_CLIPS, ids=cell)
    def test_clips_do_not_change_them(self, options):
        recognizer, values = frames(options), draw(40)
        whole, cut = run(recognizer, values), run(recognizer, values, windows=ClipWindows(1.0))

        assert len(cut.clips) == 5
        assert flat(whole)["scores"].tolist() == flat(cut)["scores"].tolist()
        assert whole.segments == cut.segments

    @settings(max_examples=60, deadline=None)
    @given(
        options=st.sampled_from(STREAMING + WHOLE_CLIPS),
        count=st.integers(1, 40),
        cuts=st.lists(st.integers(0, 39), max_size=4),
        sizes=st.lists(st.integers(0, 12), max_size=8),
        clips=st.sampled_from([ClipWindows(), ClipWindows(1.0), ClipWindows(1.0, 0.375)]),
        context=st.integers(0, 1),
    )
    def test_chunks_do_not_change_the_result(self, options, count, cuts, sizes, clips, context):
        recognizer = frames(options, context=context, cuts=True, clips=clips, segments=SEGMENTS)
        values = draw(count, seed=count, cuts=[cut for cut in cuts if cut < count])

        assert_same_frames(run(recognizer, values, sizes), run(recognizer, values))

    @pytest.mark.parametrize("options", STREAMING + WHOLE_CLIPS, ids=cell)
    def test_shots_are_sequences_of_their_own(self, options):
        recognizer = frames(options, cuts=True, context=1)
        values = draw(24, cuts=[10])
        parts = [forward(recognizer, part[1:])[0] for part in (values[:10], values[10:])]

        found = run(recognizer, values, sizes=[4])

        assert_frames(found, np.concatenate([part[[0, *range(len(part))]] for part in parts]))
        assert all(segment.start_seconds != 9 / FPS for segment in found.segments)
        assert flat(found)["shots"].tolist() == [0] * 10 + [1] * 14

    def test_several_videos_are_computed_together(self):
        recognizer = frames(BIDIRECTIONAL, cuts=True)
        values = [draw(count, count, cuts=range(7, count, 11)) for count in (30, 1, 0, 17)]
        videos = [
            (str(n), chunks(one, [4], str(n)), len(one) / FPS) for n, one in enumerate(values)
        ]

        for number, found in enumerate(recognize(recognizer, videos)):
            if len(values[number]):
                assert_same_frames(found, run(recognizer, values[number]))


def assert_same_frames(found, expected):
    """Compare two recognitions; clips have no embedding."""
    empty = np.zeros(0)
    for one in (found, expected):
        assert all(clip.embedding is None for clip in one.clips)
        one.clips[:] = [dataclasses.replace(clip, embedding=empty) for clip in one.clips]
    assert_same(found, expected)


class TestClips:
    def test_their_probabilities_are_means_over_their_frames(self):
        recognizer = frames(clips=ClipWindows(1.0, 0.5))
        values = draw(20)
        found = run(recognizer, values, sizes=[3])
        probabilities = forward(recognizer, values)[0]

        assert spans(found) == [(0.0, 1.0, 8), (0.5, 1.5, 8), (1.0, 2.0, 8), (1.5, 2.5, 8)]
        for number, clip in enumerate(found.clips):
            expected = probabilities[4 * number : 4 * number + 8].mean(0)
            np.testing.assert_allclose(clip.probabilities, expected, atol=1e-5)
            assert clip.label == expected.argmax()

    def test_whole_shots(self):
        recognizer = frames(BIDIRECTIONAL)
        values = draw(20)
        (clip,) = run(recognizer, values, seconds=2.75).clips

        assert (clip.start_seconds, clip.end_seconds, clip.num_frames) == (0.0, 2.75, 20)
        expected = forward(recognizer, values)[0].mean(0)
        np.testing.assert_allclose(clip.probabilities, expected, atol=1e-5)


class TestSegments:
    def test_they_are_decoded_with_the_durations_of_the_recognizer(self):
        recognizer = frames(segments=SEGMENTS)
        values = draw(60)
        found = run(recognizer, values, seconds=7.6)
        expected = SEGMENTS.decode(forward(recognizer, values)[0], 1 / FPS)
        times = [*(np.arange(60) / FPS), 7.6]

        assert [(s.start_seconds, s.end_seconds, s.label) for s in found.segments] == [
            (times[start], times[stop], label) for start, stop, label in run_length_encode(expected)
        ]

    def test_without_durations_the_switch_penalty_decides(self):
        recognizer = frames(switch_penalty=1000.0)

        assert len(run(recognizer, draw(60)).segments) == 1


class TestWindows:
    def model(self):
        torch.manual_seed(1)
        options = TemporalOptions(cell="lstm", size=16, layers=2, bidirectional=True)
        return frames(options, model=TemporalModel(D, K, options).eval().requires_grad_(False))

    @pytest.mark.usefixtures("short_windows")
    @pytest.mark.parametrize("sizes", [(), [50] * 20, [1] * 60])
    def test_no_seam_is_seen(self, sizes):
        recognizer = self.model()
        values = draw(700)
        whole = forward(recognizer, values)[0]

        found = run(recognizer, values, sizes)

        columns = flat(found)
        np.testing.assert_allclose(columns["scores"], whole.max(1), atol=1e-4)
        assert (columns["labels"] == whole.argmax(1)).mean() >= 0.995

    def test_windows_of_the_default_length_equal_the_whole_sequence(self):
        """Two seams in 12,000 frames."""
        recognizer = self.model()
        values = draw(12_000).astype(np.float32)
        whole = forward(recognizer, values)[0]

        (found,) = predict_frames(recognizer, [values])

        np.testing.assert_allclose(found, whole, atol=1e-4)
        assert (found.argmax(1) == whole.argmax(1)).mean() >= 0.995

    @pytest.mark.usefixtures("short_windows")
    @pytest.mark.parametrize("context", [0, 1])
    @pytest.mark.parametrize("stride", [1, 3])
    def test_windows_of_convolutions_start_with_a_block(self, stride, context):
        """The model looks at a limited number of frames, so windows are exact."""
        torch.manual_seed(1)
        options = TemporalOptions(
            cell="tcn", layers=3, size=8, bidirectional=True, refine=1, refine_layers=3,
            refine_size=8, stride=stride,
        )  # fmt: skip
        model = TemporalModel(D, K, options).eval().requires_grad_(False)
        recognizer = frames(options, model=model, context=context)
        values = draw(500)
        whole = forward(recognizer, values, np.arange(500) >= context)[0]

        assert_frames(run(recognizer, values, [90] * 3), whole)

    @pytest.mark.usefixtures("short_windows")
    def test_memory_does_not_grow_with_the_length(self):
        """The features of 30,000 frames take 12 MB: only those of one window are kept."""
        wide = 100
        options = TemporalOptions(cell="gru", size=4, bidirectional=True)
        model = TemporalModel(wide, K, options).eval().requires_grad_(False)
        recognizer = self.model()
        recognizer = dataclasses.replace(
            recognizer,
            model=model,
            backbone=dataclasses.replace(recognizer.backbone, feature_size=wide),
        )

        def generated(count):
            for start in range(0, count, 500):
                values = np.random.default_rng(start).normal(size=(500, wide)).astype(np.float16)
                yield from chunks(values, first=start)

        tracemalloc.start()
        recognize(recognizer, [("v", generated(30_000), 30_000 / FPS)])
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

        assert peak < 5e6


class TestSeveralLabels:
    THRESHOLDS = (0.7, 0.8, 0.9)

    def scores(self, recognizer, values):
        x = torch.from_numpy(values.astype(np.float32)).unsqueeze(0)
        return torch.sigmoid(recognizer.model(x).frames[0]).numpy()

    @pytest.mark.parametrize("task", ["clips", "frames"])
    def test_the_label_is_the_highest_above_its_threshold(self, task):
        recognizer = make(task=task, multi_label=True, thresholds=self.THRESHOLDS)
        values = draw(60)
        scores = self.scores(recognizer, values)

        columns = flat(run(recognizer, values, sizes=[9]))

        assert (columns["labels"] == -1).any()
        for row, label, score in zip(scores, columns["labels"], columns["scores"], strict=True):
            above = [k for k in range(K) if row[k] >= self.THRESHOLDS[k]]
            expected = max(above, key=lambda k: row[k], default=-1)
            assert label == expected
            if label < 0:
                assert np.isnan(score)
            else:
                assert score == pytest.approx(row[label], abs=1e-5)

    def test_clips_of_models_that_read_both_ways(self):
        """Frames in several clips have the mean of their scores."""
        recognizer = make(BIDIRECTIONAL, multi_label=True, clips=ClipWindows(1.0, 0.5))
        values = draw(12)
        found = run(recognizer, values)
        first, second = self.scores(recognizer, values[:8]), self.scores(recognizer, values[4:])
        expected = np.concatenate([first[:4], (first[4:] + second[:4]) / 2, second[4:]])

        above = np.where(expected >= 0.5, expected, np.nan)
        highest = [np.nanmax(row) if np.isfinite(row).any() else np.nan for row in above]
        np.testing.assert_allclose(flat(found)["scores"], highest, atol=1e-5)

    def test_clips_without_a_label(self):
        found = run(make(multi_label=True, thresholds=(0.999999,) * K), draw(8))

        assert found.clips[0].label is None
        assert found.segments == []

    @pytest.mark.parametrize("with_durations", [False, True])
    def test_segments_of_different_labels_overlap(self, with_durations):
        thresholds = (0.4, 0.5, 0.6)
        on = np.random.default_rng(0).integers(0, 2, (6, K)).repeat(8, axis=0)
        durations = SegmentModel.count([on], [np.arange(48) / FPS], K, multi_label=True)
        recognizer = frames(
            multi_label=True,
            thresholds=thresholds,
            segments=durations if with_durations else None,
            switch_penalty=0.0,
        )
        values = draw(60)
        expected = decode_labels(recognizer, self.scores(recognizer, values), 1 / FPS)
        if not with_durations:
            np.testing.assert_array_equal(expected, self.scores(recognizer, values) >= thresholds)
        found = np.zeros_like(expected)
        segments = run(recognizer, values).segments
        for segment in segments:
            start, stop = (round(t * FPS) for t in (segment.start_seconds, segment.end_seconds))
            assert not found[start:stop, segment.label].any()
            found[start:stop, segment.label] = 1

        np.testing.assert_array_equal(found, expected)
        assert (found.sum(1) > 1).any()
        starts = [segment.start_seconds for segment in segments]
        assert starts == sorted(starts)
