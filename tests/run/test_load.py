"""The precision is chosen once, by what the first frames give, and found again."""

from __future__ import annotations

import json
import os
from functools import partial

import pytest
import torch

from pipeline.config import DecodeOptions, EncodeOptions, Geometry, RunOptions, Sampling
from pipeline.results.tables import load, read_run
from pipeline.run import choose_precision
from pipeline.run import load as loading
from pipeline.run.load import open_session
from pipeline.run.process import process_videos
from pipeline.sources.discovery import find_videos
from tests.videos import write_video


@pytest.fixture
def videos(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    write_video(tmp_path / "a.mp4", 30)
    write_video(tmp_path / "b.mp4", 90, first=200)
    return find_videos([str(tmp_path)])


@pytest.fixture
def opened(tmp_path, tiny_recognizer, engine_cache, monkeypatch):
    """Open pipelines on a device that computes bfloat16, whose error is left to chance."""
    monkeypatch.setattr(choose_precision, "reduced_precision", lambda device: "bfloat16")

    def open_(videos=(), *, least=0.999, out="out", **encode):
        monkeypatch.setattr("pipeline.encode.precision.MIN_COSINE", least)
        options = RunOptions(
            recognizer=str(tiny_recognizer),
            decode=DecodeOptions(workers=1),
            encode=EncodeOptions(device="cpu", **encode),
        )
        with open_session(tmp_path / out, options, engine_cache, videos=videos) as session:
            return session

    return open_


def kept(folder):
    return [json.loads(path.read_text()) for path in folder.glob("features/_precision-*.json")]


class TestAuto:
    def test_a_reduced_precision_that_holds_is_used(self, opened, videos, tmp_path):
        session = opened(videos, least=-1)

        assert session.engine.precision == "bfloat16"
        assert (
            session.precision_check.frames == 8 + 16
        )  # of one second, and of the first two of three
        (said,) = kept(tmp_path / "out")
        assert said == session.precision_check.to_json()

    def test_one_that_does_not_hold_is_not(self, opened, videos, tmp_path):
        session = opened(videos, least=1.1)

        assert session.engine.precision == "float32"
        assert session.precision_check.tried == "bfloat16"
        assert session.precision_check.cosine_min < 1.1

    @pytest.mark.parametrize(("first", "then"), [(-1, 1.1), (1.1, -1)])
    def test_the_same_run_again_finds_the_same(self, opened, videos, first, then):
        """Even where it would be chosen otherwise now: rows of one run must not be mixed."""
        one = opened(videos, least=first)
        other = opened(videos, least=then)

        assert other.engine.precision == one.engine.precision
        assert other.config.features_id == one.config.features_id
        assert other.precision_check == one.precision_check

    def test_another_card_chooses_what_it_computes(self, opened, videos, monkeypatch, tmp_path):
        """One that computes bfloat16 and one that does not share a folder of features."""
        assert opened(videos, least=-1).engine.precision == "bfloat16"
        monkeypatch.setattr(choose_precision, "reduced_precision", lambda device: "float16")
        assert opened(videos, least=-1).engine.precision == "float16"
        monkeypatch.setattr(choose_precision, "reduced_precision", lambda device: "bfloat16")
        assert opened(videos, least=1.1).engine.precision == "bfloat16"
        assert len(kept(tmp_path / "out")) == 2

    def test_other_results_are_chosen_for_anew(self, opened, videos):
        assert opened(videos, least=-1).engine.precision == "bfloat16"
        assert opened(videos, least=1.1, out="other").engine.precision == "float32"

    def test_without_videos_it_is_float32_and_nothing_is_kept(self, opened, tmp_path):
        assert opened(least=-1).engine.precision == "float32"
        assert kept(tmp_path / "out") == []

    @pytest.mark.parametrize(
        ("sampling", "taken"),
        [
            (Sampling(every=3), range(0, 48, 3)),
            (Sampling(every=4), range(0, 48, 3)),  # the last of 16 would be the 61st frame
            (Sampling(fps=0.5), range(0, 48, 3)),  # so would the second of two
            (Sampling(fps=30), range(16)),
        ],
    )
    def test_no_long_stretch_is_decoded_for_it(self, videos, pool, monkeypatch, sampling, taken):
        """Frames a minute apart would take minutes of decoding before the run even begins."""
        monkeypatch.setattr(choose_precision, "CHECKED_PIXELS", 48 * 96 * 64)
        video = next(video for video in videos if video.path.endswith("b.mp4"))
        ask = partial(
            choose_precision.first_frames, video=video, sampling=sampling, geometry=Geometry(64, 96)
        )
        batch = pool.submit(ask).result()

        assert batch.frame_index.tolist() == list(taken)
        assert batch.report.frames_decoded <= 48

    def test_videos_without_a_frame_prove_nothing(self, opened, videos, tmp_path):
        bad = [video for video in videos if video.path.endswith("text.mp4")]

        assert opened(bad, least=-1).engine.precision == "float32"
        assert kept(tmp_path / "out") == []

    def test_a_device_without_reduced_precision_needs_no_proof(
        self, opened, videos, monkeypatch, tmp_path
    ):
        monkeypatch.setattr(choose_precision, "reduced_precision", lambda device: None)

        assert opened(videos, least=-1).engine.precision == "float32"
        assert kept(tmp_path / "out") == []


@pytest.mark.cuda
@pytest.mark.skipif(
    not torch.cuda.is_available() and not os.environ.get("FAIL_WITHOUT_CUDA"),
    reason="torch sees no CUDA device",
)
def test_a_cuda_device_is_tried_once(tmp_path, tiny_recognizer, engine_cache, videos):
    options = RunOptions(
        recognizer=str(tiny_recognizer),
        decode=DecodeOptions(workers=1),
        encode=EncodeOptions(device="cuda"),
    )
    with open_session(tmp_path / "out", options, engine_cache, videos=videos) as first:
        assert (first.engine.name, first.engine.device) == ("torch", "cuda")
    with open_session(tmp_path / "out", options, engine_cache) as again:
        assert again.engine.precision == first.engine.precision

    (said,) = kept(tmp_path / "out")
    assert said["tried"] == choose_precision.reduced_precision("cuda")
    assert said["frames"] == 8 + 16
    assert again.precision_check == first.precision_check


def test_what_is_asked_for_is_used_without_proof(opened, videos):
    session = opened(videos, least=1.1, precision="bfloat16")

    assert session.engine.precision == "bfloat16"
    assert session.precision_check is None


def test_a_pipeline_that_cannot_be_opened_leaves_no_process(tmp_path, monkeypatch):
    pools = []

    class Pool(loading.DecodePool):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            pools.append(self)

    monkeypatch.setattr(loading, "DecodePool", Pool)
    with pytest.raises(loading.RecognizerError, match="no recognizer nowhere"):
        open_session(tmp_path, RunOptions(recognizer="nowhere"))

    assert pools[0].pids() == []


def test_one_call_does_a_whole_run(tmp_path, tiny_recognizer):
    write_video(tmp_path / "a.mp4", 30)
    options = RunOptions(recognizer=str(tiny_recognizer), decode=DecodeOptions(workers=1))

    said = process_videos([str(tmp_path / "a.mp4")], tmp_path / "out", options)

    assert said["counts"]["videos_done"] == 1
    assert said["failures"] == []
    assert said["config_id"] == read_run(tmp_path / "out")["config_id"]
    assert len(load(tmp_path / "out")) == said["counts"]["clips"] == 1
    assert (tmp_path / "out/report.html").exists()
