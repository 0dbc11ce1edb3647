"""What is drawn to measure with."""

from __future__ import annotations

import av
import numpy as np
import pytest

from pipeline.bench.material import draw_clips, draw_video, loop_video, untrained_recognizer
from pipeline.config import RunOptions, Sampling
from pipeline.decode.container_index import read_index
from pipeline.encode.backbone import load_backbone
from pipeline.recognition.recognizer import load_recognizer
from pipeline.run.load import load_models
from pipeline.sources.discovery import find_videos
from tests.videos import read_number, write_video


def pictures(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


class TestVideo:
    def test_it_is_what_was_asked_for(self, tmp_path):
        index = read_index(str(draw_video(tmp_path / "a.mp4", (96, 64), 0.5)), 10**6)

        assert (index.codec, index.width, index.height) == ("h264", 96, 64)
        assert len(index.pts) == 15
        assert index.duration_seconds == pytest.approx(0.5)

    def test_pictures_move_and_have_grain(self, tmp_path):
        first, *_, last = pictures(draw_video(tmp_path / "a.mp4", (96, 64), 0.5))

        assert np.abs(first.astype(int) - last).mean() > 5

    def test_another_seed_draws_another_video(self, tmp_path):
        found = find_videos([str(draw_clips(tmp_path / "clips", 3, (96, 64)))])

        assert len(found) == 3  # none is a copy of another

    def test_long_ones_repeat_packets(self, tmp_path):
        index = read_index(str(draw_video(tmp_path / "a.mp4", (96, 64), 9.5)), 10**6)

        assert len(index.pts) == 12 * 30  # three times what was drawn
        assert index.steady
        assert not index.variable_frame_rate
        assert not (tmp_path / ".a.mp4").exists()


class TestLoop:
    @pytest.mark.parametrize("b_frames", [0, 2])
    def test_every_picture_comes_again_and_times_go_on(self, tmp_path, b_frames):
        source = write_video(tmp_path / "a.mp4", 12, b_frames=b_frames)

        looped = loop_video(source, tmp_path / "b.mp4", 1.0)

        assert [read_number(p) for p in pictures(looped)] == 3 * list(range(12))
        index = read_index(str(looped), 10**6)
        np.testing.assert_allclose(np.diff(index.seconds), 1 / 30, atol=1e-3)


def test_an_untrained_recognizer_can_be_loaded(tmp_path):
    backbone = load_backbone("random:test_resnet")
    one = untrained_recognizer(tmp_path / "one", backbone, Sampling(fps=8), seed=1)
    other = untrained_recognizer(tmp_path / "other", backbone, Sampling(fps=8), seed=2)

    assert load_recognizer(one).backbone.weights_hash == backbone.weights_hash
    assert load_recognizer(one).identity != load_recognizer(other).identity


def test_an_untrained_recognizer_knows_which_features_it_reads(tmp_path):
    backbone = load_backbone("random:test_resnet", layer="layer2", pool_size=2)
    made = untrained_recognizer(
        tmp_path / "one", backbone, Sampling(fps=8), seed=1, tap="layer2", grid=2
    )

    _, found = load_models(RunOptions(recognizer=str(made)))

    assert found.feature_size == backbone.feature_size == 2 * 2 * 48
