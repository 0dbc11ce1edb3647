"""Novelty models: anomalies rank first, chunks do not change scores."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.anomaly import fit as fitting
from pipeline.anomaly.fit import RunningCovariance, fit_novelty
from pipeline.anomaly.model import (
    NoveltyScorer,
    require_features,
    shot_starts,
)
from pipeline.config import ClipWindows, Sampling
from pipeline.errors import RecognizerError, SourceError
from pipeline.recognition.recognize import recognize
from pipeline.recognition.recognizer import BackboneSpec, CutSpec, Recognizer
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import TemporalOptions
from tests.anomaly.synthetic_features import (
    CUT,
    FPS,
    FRAMES,
    SPEC,
    D,
    chunks,
    fit,
    make_features,
    score,
    training_video,
)


@pytest.fixture(scope="module")
def model():
    return fit([make_features(seed) for seed in range(8)])


ANOMALIES = {
    "outside the subspace": lambda v: v + 0.6,
    "more noise": lambda v: v + 0.4 * np.random.default_rng(3).normal(size=v.shape),
    "larger amplitude": lambda v: 4 * v,
    "three times as fast": lambda v: np.concatenate([v[::3]] * 3),
    "frozen": lambda v: np.repeat(v[:1], len(v), axis=0),
}


class TestRank:
    @pytest.mark.parametrize("how", ANOMALIES)
    def test_an_anomaly_ranks_first(self, model, how):
        """Its first 60 frames and ten other videos are normal."""
        odd = make_features(100)
        odd[60:] = ANOMALIES[how](make_features(100)[60:])[:60]
        others = [
            NoveltyScorer.clip_score(score(model, make_features(seed))) for seed in range(200, 210)
        ]
        scores = score(model, odd)

        assert NoveltyScorer.clip_score(scores[60:]) > max(others)
        assert NoveltyScorer.clip_score(scores[60:]) > NoveltyScorer.clip_score(scores[:60])

    def test_normal_videos_have_mean_0_and_standard_deviation_1(self, model):
        scores = np.concatenate([score(model, make_features(seed)) for seed in range(300, 330)])

        assert abs(scores.mean()) < 0.5
        assert 0.6 < scores.std() < 1.6

    def test_only_the_prediction_error_detects_a_change_of_speed(self, model):
        values = np.concatenate([make_features(5)[:40], make_features(5)[40::3]]).astype(np.float32)
        parts = NoveltyScorer(model).distances(values)
        standardized = (parts - model.statistics.part_means) / model.statistics.part_stds
        mahalanobis, residual, prediction_error = standardized[41:].mean(0)

        assert prediction_error > 2
        assert max(abs(mahalanobis), abs(residual)) < 0.7


class TestScorer:
    @pytest.mark.parametrize("size", [1, 7, 50])
    def test_chunks_do_not_change_scores(self, model, size):
        values = make_features(9)
        scorer = NoveltyScorer(model)
        parts = [scorer.score(part.values.astype(np.float32)) for part in chunks(values, size)]

        np.testing.assert_allclose(np.concatenate(parts), score(model, values), atol=1e-4)

    def test_every_frame_has_a_finite_score(self, model):
        assert np.isfinite(score(model, make_features(10))).all()

    def test_the_first_frame_has_no_prediction_error(self, model):
        parts = NoveltyScorer(model).distances(make_features(11).astype(np.float32))

        assert parts[0].isnan().tolist() == [False, False, True]
        assert not parts[1:].isnan().any()

    def test_no_frames(self, model):
        assert score(model, make_features(1)[:0]).shape == (0,)

    def test_a_cut_resets_the_forecaster(self, model):
        with_cuts = dataclasses.replace(model, cut=CutSpec(CUT, 10.0))
        values = np.concatenate([make_features(12)[:30], make_features(13)[:30]])
        values[30, CUT] = 20
        parts = NoveltyScorer(with_cuts).distances(values.astype(np.float32))
        alone = NoveltyScorer(with_cuts).distances(values[30:].astype(np.float32))

        assert parts[:, 2].isnan().nonzero().flatten().tolist() == [0, 30]
        torch.testing.assert_close(parts[31:], alone[1:], atol=1e-5, rtol=0)

    def test_a_frame_encoded_with_a_frame_of_another_shot_has_no_score(self, model):
        pairs = dataclasses.replace(SPEC, context=1)
        looking_back = dataclasses.replace(model, cut=CutSpec(CUT, 10.0), features=pairs)
        values = make_features(14)
        values[30, CUT] = 20
        scores = score(looking_back, values)

        assert np.flatnonzero(np.isnan(scores)).tolist() == [0, 30]

    def test_shot_starts(self):
        rows = np.zeros((4, 2), np.float32)
        rows[2, 1] = 5

        assert shot_starts(rows, None, is_first=True).tolist() == [True, False, False, False]
        cuts = shot_starts(rows, CutSpec(1, 3.0), is_first=False)
        assert cuts.tolist() == [False, False, True, False]


class TestFit:
    def test_the_same_seed_gives_the_same_model(self, model):
        again = fit([make_features(seed) for seed in range(8)])
        other = fit([make_features(seed) for seed in range(8)], seed=1)

        assert again.identity == model.identity
        assert other.identity != model.identity

    def test_statistics_do_not_depend_on_the_chunks_of_the_store(self, model):
        videos = [training_video(make_features(seed), 17) for seed in range(8)]
        other = fit_novelty(videos, SPEC, None).statistics

        torch.testing.assert_close(other.mean, model.statistics.mean)
        torch.testing.assert_close(other.outside, model.statistics.outside)
        axes = (other.axes @ model.statistics.axes.T).abs()  # an axis may point either way
        lengths = other.axes.square().sum(1)
        torch.testing.assert_close(axes.diagonal(), lengths, rtol=1e-4, atol=1e-4)

    def test_the_first_predictions_of_normal_videos_are_not_novel(self, model):
        """Predictions from few frames have larger errors, which are expected."""
        starts = np.stack([score(model, make_features(seed))[1:6] for seed in range(400, 430)])

        assert abs(starts.mean()) < 0.7

    def test_the_subspace_has_the_size_of_the_data(self, model):
        assert model.statistics.axes.shape == (4, D)
        assert model.notes == {"videos": 8, "frames": 7 * FRAMES, "subspace": 4}

    def test_with_few_videos_their_ends_are_held_out(self):
        found = fit([make_features(0, 200)])

        assert found.notes["frames"] == 160
        assert np.isfinite(score(found, make_features(1))).all()

    def test_constant_features_give_finite_scores(self):
        still = [np.ones((100, D), np.float16) for _ in range(2)]

        assert np.isfinite(score(fit(still), make_features(1))).all()

    def test_too_few_frames_fail(self):
        with pytest.raises(
            SourceError, match="2 normal videos have 40 sampled frames, at least 64"
        ):
            fit([make_features(0, 20), make_features(1, 20)])

    def test_features_that_are_not_finite_fail(self):
        values = make_features(0)
        values[17, 3] = np.nan

        with pytest.raises(SourceError, match="video v are not finite, first in sample 17"):
            fit([values])

    def test_too_many_features_fail(self, monkeypatch):
        monkeypatch.setattr(fitting, "MAX_FEATURE_SIZE", 19)

        with pytest.raises(
            SourceError, match="at most 19 features per frame, toy has 20: use a sm"
        ):
            fit([make_features(0)])


class TestRunningCovariance:
    def test_chunks_give_the_same_as_the_whole(self):
        values = (1000 + np.random.default_rng(0).normal(size=(500, 3))).astype(np.float32)
        running = RunningCovariance(3)
        for start in (0, 1, 100):
            running.add(values[start : {0: 1, 1: 100, 100: 500}[start]])

        np.testing.assert_allclose(running.mean, values.astype(float).mean(0), rtol=1e-12)
        np.testing.assert_allclose(running.covariance(), np.cov(values.T.astype(float)), rtol=1e-9)

    def test_no_rows_change_nothing(self):
        running = RunningCovariance(2)
        running.add(np.zeros((0, 2), np.float32))

        assert running.count == 0


class TestRequireFeatures:
    def test_the_same_features_are_accepted(self):
        require_features(SPEC, dataclasses.replace(SPEC, backbone="same, elsewhere"), None)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"identity": "beef", "weights_hash": "dead"}, r"toy \(weights dead, features beef\)"),
            ({"sampling": Sampling(fps=4)}, r"float32, 4 frames/s: fit it again"),
            ({"precision": "bfloat16"}, "bfloat16, 8 frames/s"),
        ],
    )
    def test_other_features_fail_with_both_descriptions(self, change, message):
        found = dataclasses.replace(SPEC, **change)
        with pytest.raises(RecognizerError, match=message) as caught:
            require_features(SPEC, found, Path("M"))

        assert "novelty model M was fitted to features of toy (weights feed" in str(caught.value)


class TestRecognize:
    @pytest.fixture
    def recognizer(self):
        options = TemporalOptions(cell="gru", size=8)
        return Recognizer(
            name="toy",
            labels=("a", "b"),
            sampling=Sampling(fps=FPS),
            clips=ClipWindows(2.0, 1.0),
            backbone=BackboneSpec("toy", "feed", D),
            temporal=options,
            model=TemporalModel(D, 2, options).eval(),
        )

    def test_predictions_are_the_same_and_have_novelty(self, recognizer, model):
        values = make_features(30, 50)
        plain = recognize(recognizer, [("v", chunks(values), 6.25)], recognizer.clips)[0]
        (found,) = recognize(
            recognizer, [("v", chunks(values, 13), 6.25)], make_scorer=partial(NoveltyScorer, model)
        )
        expected = score(model, values)

        np.testing.assert_allclose(np.concatenate(found.novelty), expected, atol=1e-4)
        for clip, same in zip(found.clips, plain.clips, strict=True):
            first = round(clip.start_seconds * FPS)
            held = expected[first : first + clip.num_frames]
            assert clip.novelty == pytest.approx(np.quantile(held, 0.9), abs=1e-4)
            assert (clip.start_seconds, clip.num_frames) == (same.start_seconds, same.num_frames)
            assert same.novelty is None

    def test_each_video_has_its_own_scorer(self, recognizer, model):
        normal_video, odd = make_features(31, 48), make_features(31, 48) + np.float16(1)
        videos = [("n", chunks(normal_video), 6.0), ("o", chunks(odd), 6.0), ("e", [], 0.0)]
        found = recognize(recognizer, videos, make_scorer=partial(NoveltyScorer, model))

        assert max(c.novelty for c in found[0].clips) < min(c.novelty for c in found[1].clips)
        assert (found[2].clips, found[2].novelty) == ([], [])

    def test_without_a_model_there_is_no_novelty(self, recognizer):
        (found,) = recognize(recognizer, [("v", chunks(make_features(1)), 15.0)])

        assert found.novelty == []
        assert {clip.novelty for clip in found.clips} == {None}

    def test_a_clip_without_scored_frames_has_no_novelty(self):
        assert NoveltyScorer.clip_score(np.array([np.nan, np.nan], np.float32)) is None
        assert NoveltyScorer.clip_score(np.array([np.nan, 2.0], np.float32)) == 2
