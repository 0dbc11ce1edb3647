"""Novelty: what was planted ranks first, however it differs, and chunks do not matter."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.anomaly import fit as fitting
from pipeline.anomaly.fit import Moments, fit_novelty
from pipeline.anomaly.model import (
    NoveltyReader,
    clip_novelty,
    recognize_watched,
    require_features,
    shot_begins,
)
from pipeline.config import ClipWindows, Sampling
from pipeline.errors import RecognizerError, SourceError
from pipeline.recognition.recognize import recognize
from pipeline.recognition.recognizer import BackboneSpec, CutSpec, Recognizer
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import TemporalOptions
from tests.anomaly.swings import CUT, FPS, FRAMES, SPEC, D, chunks, draw, fit, material, score


@pytest.fixture(scope="module")
def model():
    return fit([draw(seed) for seed in range(8)])


ODD = {
    "in a direction that never varied": lambda v: v + 0.6,
    "with more noise": lambda v: v + 0.4 * np.random.default_rng(3).normal(size=v.shape),
    "farther than ever": lambda v: 4 * v,
    "moving three times as fast": lambda v: np.concatenate([v[::3]] * 3),
    "frozen": lambda v: np.repeat(v[:1], len(v), axis=0),
}


class TestRank:
    @pytest.mark.parametrize("how", ODD)
    def test_a_planted_anomaly_ranks_first(self, model, how):
        """Its first 60 frames are normal; so are ten other videos."""
        odd = draw(100)
        odd[60:] = ODD[how](draw(100)[60:])[:60]
        others = [clip_novelty(score(model, draw(seed))) for seed in range(200, 210)]
        scores = score(model, odd)

        assert clip_novelty(scores[60:]) > max(others)
        assert clip_novelty(scores[60:]) > clip_novelty(scores[:60])

    def test_normal_material_is_about_0_with_a_deviation_of_about_1(self, model):
        scores = np.concatenate([score(model, draw(seed)) for seed in range(300, 330)])

        assert abs(scores.mean()) < 0.5
        assert 0.6 < scores.std() < 1.6

    def test_only_the_forecast_sees_a_change_of_pace(self, model):
        values = np.concatenate([draw(5)[:40], draw(5)[40::3]]).astype(np.float32)
        parts = NoveltyReader(model).distances(values)
        standardized = (parts - model.statistics.part_means) / model.statistics.part_stds
        within, outside, forecast = standardized[41:].mean(0)

        assert forecast > 2
        assert max(abs(within), abs(outside)) < 0.7


class TestReader:
    @pytest.mark.parametrize("size", [1, 7, 50])
    def test_chunks_do_not_matter(self, model, size):
        values = draw(9)
        reader = NoveltyReader(model)
        parts = [reader.score(part.values.astype(np.float32)) for part in chunks(values, size)]

        np.testing.assert_allclose(np.concatenate(parts), score(model, values), atol=1e-4)

    def test_every_frame_has_a_finite_score(self, model):
        assert np.isfinite(score(model, draw(10))).all()

    def test_the_first_frame_has_no_forecast(self, model):
        parts = NoveltyReader(model).distances(draw(11).astype(np.float32))

        assert parts[0].isnan().tolist() == [False, False, True]
        assert not parts[1:].isnan().any()

    def test_no_frames(self, model):
        assert score(model, draw(1)[:0]).shape == (0,)

    def test_a_cut_begins_the_forecast_anew(self, model):
        with_cuts = dataclasses.replace(model, cut=CutSpec(CUT, 10.0))
        values = np.concatenate([draw(12)[:30], draw(13)[:30]])
        values[30, CUT] = 20
        parts = NoveltyReader(with_cuts).distances(values.astype(np.float32))
        alone = NoveltyReader(with_cuts).distances(values[30:].astype(np.float32))

        assert parts[:, 2].isnan().nonzero().flatten().tolist() == [0, 30]
        torch.testing.assert_close(parts[31:], alone[1:], atol=1e-5, rtol=0)

    def test_a_frame_encoded_with_one_of_another_shot_is_not_scored(self, model):
        pairs = dataclasses.replace(SPEC, context=1)
        looking_back = dataclasses.replace(model, cut=CutSpec(CUT, 10.0), features=pairs)
        values = draw(14)
        values[30, CUT] = 20
        scores = score(looking_back, values)

        assert np.flatnonzero(np.isnan(scores)).tolist() == [0, 30]

    def test_shot_begins(self):
        rows = np.zeros((4, 2), np.float32)
        rows[2, 1] = 5

        assert shot_begins(rows, None, first=True).tolist() == [True, False, False, False]
        cuts = shot_begins(rows, CutSpec(1, 3.0), first=False)
        assert cuts.tolist() == [False, False, True, False]


class TestFit:
    def test_the_same_seed_gives_the_same_model(self, model):
        again = fit([draw(seed) for seed in range(8)])
        other = fit([draw(seed) for seed in range(8)], seed=1)

        assert again.identity == model.identity
        assert other.identity != model.identity

    def test_statistics_do_not_depend_on_the_chunks_of_the_store(self, model):
        videos = [material(draw(seed), 17) for seed in range(8)]
        other = fit_novelty(videos, SPEC, None).statistics

        torch.testing.assert_close(other.mean, model.statistics.mean)
        torch.testing.assert_close(other.outside, model.statistics.outside)
        axes = (other.axes @ model.statistics.axes.T).abs()  # an axis may point either way
        lengths = other.axes.square().sum(1)
        torch.testing.assert_close(axes.diagonal(), lengths, rtol=1e-4, atol=1e-4)

    def test_the_first_forecasts_of_normal_videos_are_not_novel(self, model):
        """They are less sure, as they are made from few frames, and that is known."""
        starts = np.stack([score(model, draw(seed))[1:6] for seed in range(400, 430)])

        assert abs(starts.mean()) < 0.7

    def test_the_subspace_holds_what_varies(self, model):
        assert model.statistics.axes.shape == (4, D)
        assert model.notes == {"videos": 8, "frames": 7 * FRAMES, "subspace": 4}

    def test_of_few_videos_the_ends_are_held_out(self):
        found = fit([draw(0, 200)])

        assert found.notes["frames"] == 160
        assert np.isfinite(score(found, draw(1))).all()

    def test_a_feature_that_never_changes_is_no_division_by_zero(self):
        still = [np.ones((100, D), np.float16) for _ in range(2)]

        assert np.isfinite(score(fit(still), draw(1))).all()

    def test_too_little_material_fails(self):
        with pytest.raises(SourceError, match="2 normal videos hold 40 sampled frames, wanted 64"):
            fit([draw(0, 20), draw(1, 20)])

    def test_features_that_are_no_numbers_fail(self):
        values = draw(0)
        values[17, 3] = np.nan

        with pytest.raises(SourceError, match="video v are not finite, first in sample 17"):
            fit([values])

    def test_more_features_than_a_covariance_can_hold_fail(self, monkeypatch):
        monkeypatch.setattr(fitting, "LARGEST_FEATURES", 19)

        with pytest.raises(
            SourceError, match="19 features a frame at most, toy gives 20: use a sm"
        ):
            fit([draw(0)])


class TestMoments:
    def test_chunks_are_as_the_whole(self):
        values = (1000 + np.random.default_rng(0).normal(size=(500, 3))).astype(np.float32)
        moments = Moments(3)
        for start in (0, 1, 100):
            moments.add(values[start : {0: 1, 1: 100, 100: 500}[start]])

        np.testing.assert_allclose(moments.mean, values.astype(float).mean(0), rtol=1e-12)
        np.testing.assert_allclose(moments.covariance(), np.cov(values.T.astype(float)), rtol=1e-9)

    def test_nothing_is_added_by_no_rows(self):
        moments = Moments(2)
        moments.add(np.zeros((0, 2), np.float32))

        assert moments.count == 0


class TestRequire:
    def test_the_same_features_are_let_through(self):
        require_features(SPEC, dataclasses.replace(SPEC, backbone="same, elsewhere"), None)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"identity": "beef", "weights_hash": "dead"}, r"toy \(weights dead, features beef\)"),
            ({"sampling": Sampling(fps=4)}, r"float32, 4 frames/s: fit it again"),
            ({"precision": "bfloat16"}, "bfloat16, 8 frames/s"),
        ],
    )
    def test_others_are_refused_and_both_are_named(self, change, said):
        found = dataclasses.replace(SPEC, **change)
        with pytest.raises(RecognizerError, match=said) as told:
            require_features(SPEC, found, Path("M"))

        assert "novelty model M was fitted to features of toy (weights feed" in str(told.value)


class TestWatch:
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

    def test_what_is_recognized_is_the_same_and_has_novelty(self, recognizer, model):
        values = draw(30, 50)
        plain = recognize(recognizer, [("v", chunks(values), 6.25)], recognizer.clips)[0]
        (found,) = recognize_watched(
            recognizer, [("v", chunks(values, 13), 6.25)], recognizer.clips, model
        )
        expected = score(model, values)

        np.testing.assert_allclose(np.concatenate(found.novelty), expected, atol=1e-4)
        for clip, same in zip(found.clips, plain.clips, strict=True):
            first = round(clip.start_seconds * FPS)
            held = expected[first : first + clip.num_frames]
            assert clip.novelty == pytest.approx(np.quantile(held, 0.9), abs=1e-4)
            assert (clip.start_seconds, clip.num_frames) == (same.start_seconds, same.num_frames)
            assert same.novelty is None

    def test_each_video_has_its_own(self, recognizer, model):
        normal_video, odd = draw(31, 48), draw(31, 48) + np.float16(1)
        videos = [("n", chunks(normal_video), 6.0), ("o", chunks(odd), 6.0), ("e", [], 0.0)]
        found = recognize_watched(recognizer, videos, recognizer.clips, model)

        assert max(c.novelty for c in found[0].clips) < min(c.novelty for c in found[1].clips)
        assert (found[2].clips, found[2].novelty) == ([], [])

    def test_without_a_model_nothing_is_said(self, recognizer):
        (found,) = recognize_watched(
            recognizer, [("v", chunks(draw(1)), 15.0)], recognizer.clips, None
        )

        assert found.novelty == []
        assert {clip.novelty for clip in found.clips} == {None}

    def test_of_frames_that_are_not_known_there_is_none(self):
        assert clip_novelty(np.array([np.nan, np.nan], np.float32)) is None
        assert clip_novelty(np.array([np.nan, 2.0], np.float32)) == 2
