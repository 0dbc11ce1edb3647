"""Recognition in chunks and batches gives the same as running the model on all samples at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import ClipWindows, Sampling
from pipeline.encode.shot_store import Shots, Transition
from pipeline.recognition import clip_reader, model_batches
from pipeline.recognition import recognize as module
from pipeline.recognition.recognize import recognize, sample_times
from pipeline.recognition.recognizer import CutSpec
from pipeline.recognition.smoothing import smooth
from pipeline.recognition.windows import run_length_encode
from pipeline.records import DecodeReport, FrameFeatures
from tests.recognition.toy_recognizer import (
    CUT,
    FPS,
    OK,
    STREAMING,
    WHOLE_CLIPS,
    D,
    K,
    assert_clip,
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


class TestWholeVideos:
    @pytest.mark.parametrize("options", STREAMING + WHOLE_CLIPS, ids=cell)
    def test_the_clip_is_the_model_on_all_samples(self, options):
        recognizer = make(options)
        values = draw(20)
        found = run(recognizer, values, seconds=2.75)
        frames, clip, embedding = forward(recognizer, values)

        assert found.video_id == "v"
        assert spans(found) == [(0.0, 2.75, 20)]
        assert_clip(found.clips[0], clip, embedding)
        assert_frames(found, frames)
        columns = flat(found)
        np.testing.assert_array_equal(columns["sample_index"], range(20))
        np.testing.assert_array_equal(columns["frame_index"], range(0, 60, 3))
        np.testing.assert_allclose(columns["pts_seconds"], np.arange(20) / FPS - 0.01)
        assert not columns["shots"].any()

    @pytest.mark.parametrize("options", STREAMING + WHOLE_CLIPS, ids=cell)
    def test_one_sample(self, options):
        recognizer = make(options, context=1, cuts=True)
        values = draw(1)
        found = run(recognizer, values, seconds=0.5)
        frames, clip, embedding = forward(recognizer, values)

        assert spans(found) == [(0.0, 0.5, 1)]
        assert_clip(found.clips[0], clip, embedding)
        assert_frames(found, frames)
        assert [part.label for part in found.segments] == [frames.argmax()]

    @pytest.mark.parametrize("options", STREAMING + WHOLE_CLIPS, ids=cell)
    def test_no_sample(self, options):
        recognizer = make(options)
        empty = FrameFeatures.empty("v", D, DecodeReport("undecodable"))
        for parts in ([], [empty], list(chunks(draw(0), [0]))):
            (found,) = recognize(recognizer, [("v", parts, 3.0)])

            assert (found.clips, found.segments, found.labels) == ([], [], [])

    def test_no_video(self):
        assert recognize(make(), []) == []

    @pytest.mark.parametrize("options", WHOLE_CLIPS, ids=cell)
    def test_long_videos_are_split_for_models_that_need_whole_clips(self, options, monkeypatch):
        monkeypatch.setattr(clip_reader, "MAX_CLIP_SAMPLES", 16)
        recognizer = make(options)
        values = draw(45)
        found = run(recognizer, values, sizes=[1, 20])
        parts = [values[:16], values[16:32], values[32:]]
        expected = [forward(recognizer, part) for part in parts]

        assert spans(found) == [(0.0, 2.0, 16), (2.0, 4.0, 16), (4.0, 45 / FPS, 13)]
        for clip, (_, probabilities, embedding) in zip(found.clips, expected, strict=True):
            assert_clip(clip, probabilities, embedding)
        assert_frames(found, np.concatenate([frames for frames, _, _ in expected]))

    def test_streaming_models_do_not_split_long_videos(self, monkeypatch):
        monkeypatch.setattr(clip_reader, "MAX_CLIP_SAMPLES", 16)

        assert spans(run(make(), draw(45), sizes=[20, 20])) == [(0.0, 45 / FPS, 45)]


class TestShots:
    @pytest.mark.parametrize("options", STREAMING + WHOLE_CLIPS, ids=cell)
    @pytest.mark.parametrize("sizes", [[], [1, 7, 20]])
    def test_no_clip_and_no_segment_contains_a_cut(self, options, sizes):
        """One shot has no sample; two start between two samples."""
        frames = [30, 37, 38, 62]  # every third frame is a sample
        starts = [frame / (3 * FPS) for frame in frames]
        shots = Shots(
            tuple(
                Transition(frame, seconds, "cut", 1.0)
                for frame, seconds in zip(frames, starts, strict=True)
            )
        )
        recognizer = make(options, cuts=True, clips=ClipWindows(1.0, 0.5))
        parts = chunks(draw(33), sizes)

        (found,) = recognize(recognizer, [("v", parts, 33 / FPS)], shots={"v": shots})

        for part in [*found.clips, *found.segments]:
            inside = [s for s in starts if part.start_seconds < s - 1e-9 < part.end_seconds - 1e-9]
            assert inside == []
        edges = {part.start_seconds for part in found.clips}
        assert {starts[0], starts[2], starts[3]} <= edges
        assert np.concatenate(found.shots).tolist() == [0] * 10 + [1] * 3 + [3] * 8 + [4] * 12

    def test_cuts_of_the_recognizer_are_not_used_where_the_shots_are_known(self):
        recognizer = make(cuts=True)
        values = draw(33, cuts=[16])

        (own,) = recognize(recognizer, [("v", chunks(values, []), 33 / FPS)])
        (given,) = recognize(
            recognizer, [("v", chunks(values, []), 33 / FPS)], shots={"v": Shots()}
        )

        assert len({clip.shot for clip in own.clips}) > 1
        assert {clip.shot for clip in given.clips} == {0}


class TestClips:
    @pytest.mark.parametrize("options", STREAMING + WHOLE_CLIPS, ids=cell)
    @pytest.mark.parametrize("stride", [None, 0.5, 1.5])
    def test_each_clip_is_the_model_on_its_samples(self, options, stride):
        recognizer = make(options, clips=ClipWindows(1.0, stride))
        values = draw(33)
        found = run(recognizer, values, sizes=[5, 1, 14])

        assert sum(clip.num_frames for clip in found.clips) >= 8 * 3
        for clip in found.clips:
            start = round(clip.start_seconds * FPS)
            samples = values[start : start + clip.num_frames]
            _, probabilities, embedding = forward(recognizer, samples)
            assert clip.end_seconds == pytest.approx((start + clip.num_frames) / FPS)
            assert_clip(clip, probabilities, embedding)

    def test_windows_override_those_of_the_recognizer(self):
        recognizer = make(clips=ClipWindows(1.0))
        found = run(recognizer, draw(16), windows=ClipWindows(0.5))

        assert spans(found) == [(n / 2, n / 2 + 0.5, 4) for n in range(4)]

    def test_frames_of_streaming_models_depend_on_the_whole_shot_before(self):
        recognizer = make(clips=ClipWindows(1.0, 0.5))
        values = draw(33)

        assert_frames(run(recognizer, values, sizes=[7]), forward(recognizer, values)[0])

    @pytest.mark.parametrize("options", WHOLE_CLIPS, ids=cell)
    def test_frames_of_other_models_are_means_over_their_clips(self, options):
        recognizer = make(options, clips=ClipWindows(1.0, 0.5))
        values = draw(24)
        total, count = np.zeros((24, K)), np.zeros((24, 1))
        for start in range(0, 20, 4):  # the last starts half a second before the end
            part = slice(start, start + 8)
            total[part] += forward(recognizer, values[part])[0]
            count[part] += 1

        assert count.max() == 2
        assert_frames(run(recognizer, values, sizes=[7, 2]), total / count)

    def test_frames_in_no_clip_have_no_label(self):
        recognizer = make(WHOLE_CLIPS[0], clips=ClipWindows(1.0, 2.0), switch_penalty=0.0)
        found = run(recognizer, draw(32))
        columns = flat(found)

        assert spans(found) == [(0.0, 1.0, 8), (2.0, 3.0, 8)]
        gap = np.r_[8:16, 24:32]
        np.testing.assert_array_equal(columns["labels"][gap], -1)
        np.testing.assert_array_equal(columns["scores"][gap], 0)
        assert (np.delete(columns["labels"], gap) >= 0).all()
        held = [(part.start_seconds, part.end_seconds) for part in found.segments]
        assert all(end <= 1 or (start >= 2 and end <= 3) for start, end in held)

    @pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
    def test_temperature_divides_logits(self, temperature):
        recognizer = make(temperature=temperature)
        values = draw(12)
        found = run(recognizer, values)
        logits = recognizer.model(torch.from_numpy(values.astype(np.float32))[None])

        expected = torch.softmax(logits.clips[0] / temperature, dim=0).numpy()
        np.testing.assert_allclose(found.clips[0].probabilities, expected, atol=1e-6)
        expected = torch.softmax(logits.frames[0] / temperature, dim=1).amax(1).numpy()
        np.testing.assert_allclose(flat(found)["scores"], expected, atol=1e-6)


class TestCuts:
    @pytest.mark.parametrize("options", STREAMING + WHOLE_CLIPS, ids=cell)
    @pytest.mark.parametrize("clips", [ClipWindows(), ClipWindows(1.0, 0.5)])
    def test_shots_are_independent(self, options, clips):
        """The state is reset, and clips end with their shot."""
        recognizer = make(options, cuts=True, clips=clips)
        values = draw(40, cuts=[13, 30])
        found = run(recognizer, values, sizes=[9, 9, 15])
        columns = flat(found)

        np.testing.assert_array_equal(columns["shots"], [0] * 13 + [1] * 17 + [2] * 10)
        for shot, (start, stop) in enumerate([(0, 13), (13, 30), (30, 40)]):
            alone = run(make(options, clips=clips), values[start:stop])
            of_shot = [clip for clip in found.clips if clip.shot == shot]
            for clip, expected in zip(of_shot, alone.clips, strict=True):
                assert clip.start_seconds == pytest.approx(start / FPS + expected.start_seconds)
                assert clip.end_seconds == pytest.approx(start / FPS + expected.end_seconds)
                assert_clip(clip, expected.probabilities, expected.embedding)
            expected = flat(alone)
            np.testing.assert_array_equal(columns["labels"][start:stop], expected["labels"])
            np.testing.assert_allclose(columns["scores"][start:stop], expected["scores"], atol=1e-5)
        ends = [part.end_seconds for part in found.segments]
        assert {13 / FPS, 30 / FPS, 40 / FPS} <= set(ends)

    def test_the_threshold_of_a_cut(self):
        values = draw(20)
        values[[5, 12], CUT] = [1.0, 3.0]
        found = run(make(cut=CutSpec(CUT, 2.0)), values)

        assert spans(found) == [(0.0, 1.5, 12), (1.5, 2.5, 8)]

    def test_without_a_cut_feature_there_is_one_shot(self):
        assert len(run(make(), draw(40, cuts=[13, 30])).clips) == 1

    def test_a_shot_in_every_sample(self):
        found = run(make(cuts=True, context=1), draw(5, cuts=range(5)), sizes=[2])

        assert spans(found) == [(n / FPS, (n + 1) / FPS, 1) for n in range(5)]
        assert flat(found)["shots"].tolist() == [0, 1, 2, 3, 4]


class TestContext:
    """The first sample of a shot is encoded with a frame of another shot, or with itself."""

    @pytest.mark.parametrize("options", STREAMING + WHOLE_CLIPS, ids=cell)
    def test_the_first_sample_of_a_shot_is_masked(self, options):
        recognizer = make(options, context=1, cuts=True)
        values = draw(24, cuts=[10])
        found = run(recognizer, values)
        for clip, part in zip(found.clips, (values[:10], values[10:]), strict=True):
            frames, probabilities, embedding = forward(recognizer, part[1:])
            assert clip.num_frames == len(part)
            assert_clip(clip, probabilities, embedding)
        frames = [forward(recognizer, part[1:])[0] for part in (values[:10], values[10:])]
        assert_frames(found, np.concatenate([f[[0, *range(len(f))]] for f in frames]))

    @pytest.mark.parametrize("options", STREAMING + WHOLE_CLIPS, ids=cell)
    def test_only_the_first_clip_of_a_shot_has_a_masked_sample(self, options):
        recognizer = make(options, context=1, clips=ClipWindows(1.0))
        values = draw(24)
        found = run(recognizer, values, sizes=[3])

        _, probabilities, embedding = forward(recognizer, values[1:8])
        assert_clip(found.clips[0], probabilities, embedding)
        for number in (1, 2):
            part = values[8 * number : 8 * number + 8]
            _, probabilities, embedding = forward(recognizer, part)
            assert_clip(found.clips[number], probabilities, embedding)

    @pytest.mark.parametrize("options", STREAMING + WHOLE_CLIPS, ids=cell)
    def test_the_only_sample_of_a_shot_is_not_masked(self, options):
        recognizer = make(options, context=1, cuts=True)
        values = draw(9, cuts=[4, 5])
        found = run(recognizer, values)
        frames, probabilities, embedding = forward(recognizer, values[4:5])

        assert [clip.num_frames for clip in found.clips] == [4, 1, 4]
        assert_clip(found.clips[1], probabilities, embedding)
        assert flat(found)["labels"][4] == frames.argmax()

    def test_without_context_no_sample_is_masked(self):
        recognizer = make(context=0)
        values = draw(10)

        assert_clip(run(recognizer, values).clips[0], *forward(recognizer, values)[1:])


class TestChunks:
    @settings(max_examples=80, deadline=None)
    @given(
        options=st.sampled_from(STREAMING + WHOLE_CLIPS),
        count=st.integers(1, 40),
        cuts=st.lists(st.integers(0, 39), max_size=4),
        sizes=st.lists(st.integers(0, 12), max_size=8),
        clips=st.sampled_from([ClipWindows(), ClipWindows(1.0), ClipWindows(1.0, 0.375)]),
        context=st.integers(0, 1),
    )
    def test_chunks_do_not_change_the_result(self, options, count, cuts, sizes, clips, context):
        recognizer = make(options, context=context, cuts=True, clips=clips)
        values = draw(count, seed=count, cuts=[cut for cut in cuts if cut < count])

        assert_same(run(recognizer, values, sizes), run(recognizer, values))

    def test_a_chunk_with_the_first_sample_of_a_shot_only(self):
        """The sample is masked, so its prediction is that of the next one."""
        recognizer = make(context=1, cuts=True)
        values = draw(20, cuts=[9])

        assert_same(run(recognizer, values, sizes=[10]), run(recognizer, values))
        assert_same(run(recognizer, values, sizes=[1]), run(recognizer, values))

    def test_chunks_are_read_one_by_one(self):
        """At most the newest chunk has been read but not computed."""
        recognizer = make(clips=ClipWindows(1.0))
        values = draw(800)
        ahead = []

        def recorded():
            for number, part in enumerate(chunks(values, [8] * 100)):
                ahead.append(number - len(done))
                yield part

        done = []
        compute = module.compute
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(module, "compute", lambda r, rows: done.append(1) or compute(r, rows))
            recognize(recognizer, [("v", recorded(), 100.0)])

        assert max(ahead) <= 1


class TestManyVideos:
    @pytest.mark.parametrize("options", STREAMING + WHOLE_CLIPS, ids=cell)
    @pytest.mark.parametrize("steps", [1, 40, 16_384])
    def test_results_are_those_of_single_videos(self, options, steps, monkeypatch):
        monkeypatch.setattr(model_batches, "MAX_BATCH_STEPS", steps)
        recognizer = make(options, context=1, cuts=True, clips=ClipWindows(1.0, 0.5))
        videos = [draw(count, count, cuts=range(7, count, 11)) for count in (30, 1, 0, 9, 17, 30)]

        def given_videos():
            return [
                (str(n), chunks(values, [4, 9], str(n)), len(values) / FPS)
                for n, values in enumerate(videos)
            ]

        together = recognize(recognizer, given_videos())
        alone = [recognize(recognizer, [video])[0] for video in given_videos()]

        assert [found.video_id for found in together] == list("012345")
        for number, (found, expected) in enumerate(zip(together, alone, strict=True)):
            if number == 2:
                assert found == expected
            else:
                assert_same(found, expected)

    def test_padding_is_bounded(self, monkeypatch):
        """A batch has sequences of about equal lengths."""
        sizes = []
        recognizer = make(clips=ClipWindows(1.0))
        stream = recognizer.model.stream

        def recorded(x, state, mask):
            sizes.append((x.shape[0] * x.shape[1], int(mask.sum())))
            return stream(x, state, mask)

        monkeypatch.setattr(recognizer.model, "stream", recorded)
        monkeypatch.setattr(model_batches, "MAX_BATCH_STEPS", 256)
        videos = [
            (str(n), chunks(draw(count), video_id=str(n)), 100.0)
            for n, count in enumerate([200, 8, 8, 8, 8, 8, 150, 8])
        ]
        recognize(recognizer, videos)

        assert max(padded for padded, _ in sizes) <= 256
        assert sum(padded for padded, _ in sizes) < 1.3 * sum(counted for _, counted in sizes)


class TestSegments:
    @pytest.mark.parametrize("penalty", [0.0, 0.3, 3.0])
    def test_they_encode_the_smoothed_labels(self, penalty):
        recognizer = make(switch_penalty=penalty)
        values = draw(60)
        found = run(recognizer, values, sizes=[13, 22], seconds=7.6)
        frames, _, _ = forward(recognizer, values)
        expected = run_length_encode(smooth(np.log(frames.astype(float)), penalty))
        times = [*(np.arange(60) / FPS), 7.6]

        assert len(found.segments) == len(expected)
        for part, (start, stop, label) in zip(found.segments, expected, strict=True):
            assert part.label == label
            assert (part.start_seconds, part.end_seconds) == (times[start], times[stop])
            assert part.score == pytest.approx(frames[start:stop, label].mean(), abs=1e-5)

    def test_without_penalty_they_encode_the_labels_of_frames(self):
        found = run(make(switch_penalty=0.0), draw(60))

        assert len(found.segments) == len(run_length_encode(flat(found)["labels"])) > 3

    def test_a_very_high_penalty_gives_one_segment_per_shot(self):
        found = run(make(switch_penalty=1e6, cuts=True), draw(60, cuts=[25]))

        assert [(part.shot, part.start_seconds) for part in found.segments] == [
            (0, 0.0),
            (1, 25 / FPS),
        ]


class TestTimes:
    def part(self):
        (part,) = chunks(draw(4), first=10)
        return part

    def test_samples_at_a_rate_have_their_sampling_times(self):
        np.testing.assert_allclose(
            sample_times(self.part(), Sampling(fps=4)), [2.5, 2.75, 3.0, 3.25]
        )

    def test_every_nth_frame_has_its_presentation_time(self):
        part = self.part()

        np.testing.assert_array_equal(sample_times(part, Sampling(every=3)), part.pts_seconds)

    def test_clips_of_every_nth_frame_use_presentation_times(self):
        recognizer = make(sampling=Sampling(every=1), clips=ClipWindows(1.0))
        times = np.array([0, 0.1, 0.9, 1.1, 1.2, 2.5, 2.9])
        index = np.arange(7)
        part = FrameFeatures("v", 0, 7, 7, draw(7), index, index, times, OK)
        (found,) = recognize(recognizer, [("v", [part], 3.0)])

        assert spans(found) == [(0.0, 1.0, 3), (1.0, 2.0, 2), (2.0, 3.0, 2)]

    def test_missing_samples_leave_a_gap(self):
        recognizer = make(clips=ClipWindows(1.0))
        index = np.array([0, 1, 2, 7, 8, 24, 25])
        part = FrameFeatures("v", 0, 26, 26, draw(7), index, index, index / FPS, OK)
        (found,) = recognize(recognizer, [("v", [part], 3.25)])

        assert spans(found) == [(0.0, 1.0, 4), (1.0, 2.0, 1), (2.0, 3.25, 2)]
