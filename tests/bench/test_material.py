"""Drawn videos are what they claim to be."""

from __future__ import annotations

import av
import numpy as np
import pytest
import torch

from pipeline.bench import material
from pipeline.bench.material import (
    draw_clips,
    draw_video,
    draw_videos,
    loop_video,
    untrained_recognizer,
)
from pipeline.config import Sampling
from pipeline.temporal.recognizer import load_recognizer


def facts(path):
    """Give codec, size, and the time of every frame in seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        times = [float(frame.time) for frame in container.decode(stream)]
        return stream.codec_context.name, (stream.width, stream.height), times


def first_picture(path):
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)


class TestDrawVideo:
    def test_it_has_the_codec_size_and_length_that_are_asked_for(self, tmp_path):
        codec, size, times = facts(draw_video(tmp_path / "new" / "a.mp4", (170, 96), 0.5))

        assert codec == "h264"
        assert size == (170, 96)
        np.testing.assert_allclose(times, np.arange(15) / 30, atol=1e-4)

    def test_what_is_longer_repeats_and_its_time_goes_on(self, tmp_path, monkeypatch):
        monkeypatch.setattr(material, "DRAWN_SECONDS", 0.5)

        _, _, times = facts(draw_video(tmp_path / "a.mp4", (64, 48), 2))

        np.testing.assert_allclose(times, np.arange(60) / 30, atol=1e-4)
        assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]

    def test_seeds_tell_videos_apart(self, tmp_path):
        a, same, other = (
            draw_video(tmp_path / f"{name}.mp4", (64, 48), 0.1, seed)
            for name, seed in (("a", 1), ("same", 1), ("other", 2))
        )

        np.testing.assert_array_equal(first_picture(a), first_picture(same))
        assert np.abs(first_picture(a) - first_picture(other)).mean() > 10


def test_one_video_is_drawn_of_each_size(tmp_path, monkeypatch):
    monkeypatch.setattr(material, "SIZES", {(64, 48): 0.2, (128, 72): 0.1})

    found = [facts(path)[1:] for path in draw_videos(tmp_path)]

    assert [(size, len(times)) for size, times in found] == [((64, 48), 6), ((128, 72), 3)]


def test_the_sizes_are_those_of_real_collections():
    assert list(material.SIZES) == [(340, 256), (854, 480), (1920, 1080)]


def test_a_repeated_video_is_rounded_up_to_whole_turns(tmp_path):
    short = draw_video(tmp_path / "short.mp4", (64, 48), 0.5)

    _, _, times = facts(loop_video(short, tmp_path / "long.mp4", 1.2))

    np.testing.assert_allclose(times, np.arange(45) / 30, atol=1e-4)


def test_clips_of_two_seconds_all_differ(tmp_path):
    folder = draw_clips(tmp_path / "clips", 3, (64, 48))
    paths = sorted(folder.iterdir())

    assert [path.name for path in paths] == [f"clip-0000{number}.mp4" for number in range(3)]
    assert [len(facts(path)[2]) for path in paths] == [60, 60, 60]
    assert len({path.read_bytes() for path in paths}) == 3


class TestUntrainedRecognizer:
    def test_it_reads_the_features_of_the_backbone(self, tmp_path, backbone):
        made = untrained_recognizer(tmp_path / "toy", backbone, Sampling(fps=4), 1)
        found = load_recognizer(made)

        assert found.sampling == Sampling(fps=4)
        assert found.backbone.weights_hash == backbone.weights_hash
        assert found.backbone.feature_size == backbone.feature_size

    def test_seeds_tell_recognizers_apart_and_leave_chance_alone(self, tmp_path, backbone):
        before = torch.random.get_rng_state()
        one, other = (
            untrained_recognizer(tmp_path / str(n), backbone, Sampling(fps=4), n) for n in (1, 2)
        )

        assert torch.equal(torch.random.get_rng_state(), before)
        assert load_recognizer(one).identity != load_recognizer(other).identity


@pytest.mark.parametrize("size", [(48, 64), (200, 33)])
def test_a_texture_has_its_size_and_details(size):
    scene = material._texture(*size, np.random.default_rng(0))

    assert scene.shape == (*size, 3)
    assert 50 < scene.std() < 70
