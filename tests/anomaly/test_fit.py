"""Novelty from files to rows: fit to normal videos, score others, refuse other features."""

from __future__ import annotations

import dataclasses
import logging
from unittest import mock

import av
import numpy as np
import pandas as pd
import pytest

from pipeline.anomaly import fit
from pipeline.anomaly.fit import fit_to_videos
from pipeline.anomaly.storage import load_novelty, save_novelty
from pipeline.config import DecodeOptions, RunOptions, Sampling
from pipeline.errors import OptionError, RecognizerError, SourceError
from pipeline.progress import RunProgress
from pipeline.results.tables import load, part_paths
from pipeline.run.load import open_session
from pipeline.run.process import run
from pipeline.run.run_record import finish
from pipeline.sources.discovery import find_videos

WORKER = DecodeOptions(workers=1)
FPS, FRAMES = 8, 32


def draw_oscillation(path, phase, odd=None):
    """Draw a bright square that oscillates horizontally for four seconds."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(
            "libx264", rate=FPS, options={"preset": "ultrafast", "crf": "12"}
        )
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(FRAMES):
            picture = np.full((64, 96, 3), 90, np.uint8)
            x = round(40 + 30 * np.sin(2 * np.pi * (number / 16 + phase)))
            picture[24:40, x : x + 16] = (240, 240, 240)
            if odd and number >= FRAMES // 2:
                odd(picture)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode())
    return path


def fit_normal(session, videos):
    return fit_to_videos(videos, session.store, session.feature_spec, recognizer=session.recognizer)


def draw_bar(picture):
    """Draw a blue bar, which normal videos do not have."""
    picture[44:60, 10:80] = (20, 30, 200)


@pytest.fixture(scope="module", autouse=True)
def _short_training():
    with mock.patch.object(fit, "TRAINING_STEPS", 60):
        yield


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    (folder / "normal").mkdir()
    for number in range(6):
        draw_oscillation(folder / "normal" / f"n{number}.mp4", number / 7)
    (folder / "new").mkdir()
    for number in range(3):
        draw_oscillation(folder / "new" / f"usual{number}.mp4", number / 7 + 0.05)
    draw_oscillation(folder / "new" / "strange.mp4", 0.2, draw_bar)
    (folder / "new" / "broken.mp4").write_text("no video")
    return folder


@dataclasses.dataclass(frozen=True)
class Runner:
    """Opens sessions on one results folder, with one recognizer."""

    out: object
    recognizer: object
    cache: object

    def open(self, **options):
        chosen = {"recognizer": str(self.recognizer), "decode": WORKER, **options}
        return open_session(self.out, RunOptions(**chosen), self.cache)

    def run(self, *sources, **options):
        with self.open(**options) as session:
            progress = RunProgress()
            failures = run(session, find_videos([str(s) for s in sources]), progress)
            finish(session, progress, [], failures)
            return session.config.config_id


@pytest.fixture(scope="module")
def runner(work, plain_recognizer, engine_cache):
    return Runner(work / "out", plain_recognizer, engine_cache)


@pytest.fixture(scope="module")
def fitted(work, runner):
    """The folder of a novelty model of the normal videos."""
    videos = find_videos([str(work / "normal")])
    with runner.open() as session:
        assert run(session, videos) == []
        save_novelty(fit_normal(session, videos), work / "M")
    return work / "M"


@pytest.fixture(scope="module")
def tables(work, runner, fitted):
    """The new videos, run with the novelty model."""
    runner.run(work / "new", novelty=str(fitted), frames=True)
    return {table: load(runner.out, table) for table in ("clips", "frames", "videos")}


def test_an_anomaly_ranks_first(tables):
    ranked = tables["clips"].sort_values("novelty", ascending=False)

    assert ranked.video.str.contains("strange")[:2].all()
    assert ranked.start_seconds[:2].tolist() == [2.0, 3.0] or set(ranked.start_seconds[:2]) == {
        2,
        3,
    }
    assert ranked.novelty.iloc[1] > ranked.novelty.iloc[2] + 2


def test_frames_have_high_scores_from_its_start(tables):
    frames = tables["frames"].set_index("sample_index")
    strange = frames[frames.video.str.contains("strange")].novelty
    usual = frames[frames.video.str.contains("usual")].novelty

    assert strange[16:].min() > max(strange[:16].max(), usual.quantile(0.99))
    assert frames.novelty.notna().all()


def test_bad_videos_stay_rows(tables):
    assert tables["videos"].status.value_counts().to_dict() == {"ok": 4, "not_video": 1}


def test_without_a_model_novelty_is_null_and_the_config_id_differs(work, runner, fitted, tables):
    with_it = tables["clips"].config_id.iloc[0]
    without = runner.run(work / "new", frames=True)
    plain = load(runner.out, "clips")

    assert without != with_it
    assert plain.novelty.isna().all()
    assert load(runner.out, "frames").novelty.isna().all()
    columns = ["video", "clip_index", "label", "score"]
    again = load(runner.out, "clips", with_it)
    pd.testing.assert_frame_equal(plain[columns], again[columns])
    assert part_paths(runner.out, "clips", with_it)


def test_another_model_gives_another_config_id(work, runner, fitted):
    other = dataclasses.replace(load_novelty(fitted), cut=None)
    statistics = dataclasses.replace(other.statistics, total=other.statistics.total + 1)
    save_novelty(dataclasses.replace(other, statistics=statistics), work / "M2")
    with runner.open(novelty=str(fitted)) as one, runner.open(novelty=str(work / "M2")) as two:
        assert one.config.config_id != two.config.config_id


def test_the_model_describes_its_features(fitted, plain_recognizer):
    model = load_novelty(fitted)

    assert model.features.backbone == "random:test_resnet"
    assert model.features.sampling == Sampling(fps=8)
    assert model.notes["videos"] == 6
    assert model.notes["recognizer"] == "plain"


class TestFails:
    def test_other_sampling(self, runner, fitted):
        with pytest.raises(RecognizerError, match=r"8 frames/s; those of this run .* 4 frames/s"):
            runner.open(novelty=str(fitted), sampling=Sampling(fps=4))

    def test_another_backbone(self, runner, fitted, tiny_recognizer):
        with pytest.raises(RecognizerError, match=r"random:test_resnet .*of pairs .*fit it again"):
            runner.open(recognizer=str(tiny_recognizer), novelty=str(fitted))

    def test_no_recognizer(self):
        with pytest.raises(OptionError, match=r"novelty scores need a recognizer \(--recognizer\)"):
            RunOptions(recognizer=None, backbone="x", sampling=Sampling(fps=8), novelty="M")

    def test_no_model(self, runner, tmp_path):
        with pytest.raises(RecognizerError, match="no novelty model"):
            runner.open(novelty=str(tmp_path))

    def test_no_video_can_be_decoded(self, runner, tmp_path):
        (tmp_path / "text.mp4").write_text("no video")
        videos = find_videos([str(tmp_path)])
        with runner.open() as session:
            run(session, videos)
            with pytest.raises(SourceError, match="none of 1 normal videos has a frame"):
                fit_normal(session, videos)


def test_bad_normal_videos_are_ignored_with_a_warning(work, runner, fitted, tmp_path, caplog):
    (tmp_path / "text.mp4").write_text("no video")
    videos = find_videos([str(work / "normal"), str(tmp_path)])
    with runner.open() as session, caplog.at_level(logging.WARNING):
        run(session, videos)
        model = fit_normal(session, videos)

    assert model.notes["videos"] == 6
    assert "1 of 7 videos have no frames and are ignored" in caplog.text


def test_features_of_frame_pairs(work, tiny_recognizer, engine_cache, tmp_path):
    """As those of camera-motion: the first frame of a shot has no score."""
    runner = Runner(tmp_path, tiny_recognizer, engine_cache)
    videos = find_videos([str(work / "normal")])
    with runner.open() as session:
        run(session, videos)
        save_novelty(fit_normal(session, videos), tmp_path / "M")
    runner.run(work / "new" / "strange.mp4", novelty=str(tmp_path / "M"), frames=True)
    frames = load(tmp_path, "frames")

    assert frames.novelty.isna().tolist() == [True] + [False] * (FRAMES - 1)
    assert load(tmp_path).novelty.notna().all()
