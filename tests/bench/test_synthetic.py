"""Generated videos to measure with."""

from __future__ import annotations

import av
import numpy as np
import pytest

from pipeline.bench import synthetic
from pipeline.bench.synthetic import loop_video, make_video, make_videos
from pipeline.decode.container_index import read_index
from tests.videos import read_number, write_video


def images(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


class TestVideo:
    def test_size_and_duration_are_as_given(self, tmp_path):
        index = read_index(str(make_video(tmp_path / "a.mp4", (96, 64), 0.5)), 10**6)

        assert (index.codec, index.width, index.height) == ("h264", 96, 64)
        assert len(index.pts) == 15
        assert index.duration_seconds == pytest.approx(0.5)

    def test_images_move_and_have_noise(self, tmp_path):
        first, *_, last = images(make_video(tmp_path / "a.mp4", (96, 64), 0.5))

        assert np.abs(first.astype(int) - last).mean() > 5

    def test_long_videos_repeat_packets(self, tmp_path):
        index = read_index(str(make_video(tmp_path / "a.mp4", (96, 64), 9.5)), 10**6)

        assert len(index.pts) == 10 * 30  # the first 2 seconds, five times
        assert index.steady
        assert not index.variable_frame_rate
        assert not (tmp_path / ".a.mp4").exists()


def test_default_videos_are_longer_for_more_cores(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(synthetic, "make_video", lambda path, size, seconds: made.append(seconds))

    for cores in (1, 2, 8):
        list(make_videos(tmp_path, cores))

    assert made == [30, 20, 10, 30, 20, 10, 120, 80, 40]


class TestLoop:
    @pytest.mark.parametrize("b_frames", [0, 2])
    def test_every_image_is_repeated_and_times_increase(self, tmp_path, b_frames):
        source = write_video(tmp_path / "a.mp4", 12, b_frames=b_frames)

        looped = loop_video(source, tmp_path / "b.mp4", 1.0)

        assert [read_number(p) for p in images(looped)] == 3 * list(range(12))
        index = read_index(str(looped), 10**6)
        np.testing.assert_allclose(np.diff(index.seconds), 1 / 30, atol=1e-3)
