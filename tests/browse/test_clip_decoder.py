from __future__ import annotations

import io

import av
import cv2
import numpy as np
import pytest

from pipeline.browse.clip_decoder import (
    MAX_PLAYED_FRAMES,
    MIN_PLAYED_FPS,
    ClipDecoder,
    encode_mp4,
    encode_webp,
    fit,
)
from pipeline.errors import VideoError
from pipeline.records import Video
from tests.browse.example_results import FPS
from tests.videos import read_number, write_video


@pytest.fixture(scope="module")
def decoder():
    made = ClipDecoder(workers=1)
    yield made
    made.close()


def video_of(path):
    kind = "images" if path.is_dir() else "file"
    return Video(path.name, str(path), kind, "id", 1, image_fps=FPS if path.is_dir() else None)


def read_mp4(data):
    with av.open(io.BytesIO(data)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("name", ["h264", "avi", "prores", "images"])
class TestParts:
    def test_frames_are_those_of_the_part(self, decoder, sources, name):
        images = decoder.frames(video_of(sources[name]), 0.5, 1.0, FPS, 192)

        assert [read_number(image) for image in images] == list(range(15, 30))

    def test_an_image_is_the_frame_at_a_time(self, decoder, sources, name):
        images = [decoder.image(video_of(sources[name]), t, 192) for t in (0.0, 1.01, 1.99)]

        assert [read_number(image) for image in images] == [0, 30, 59]

    def test_a_converted_clip_shows_its_frames(self, decoder, sources, name):
        frames = read_mp4(decoder.mp4(video_of(sources[name]), 1.0, 2.0))

        assert [read_number(frame) for frame in frames] == list(range(30, 60))


def test_turned_videos_are_upright(decoder, sources):
    image = decoder.image(video_of(sources["turned"]), 0.0, 192)

    assert image.shape == (192, 128, 3)


def test_images_are_scaled_down(decoder, tmp_path):
    path = write_video(tmp_path / "large.mp4", 3, size=(1280, 720))

    assert decoder.image(video_of(path), 0.0, 320).shape == (180, 320, 3)


def test_times_beyond_the_end_show_the_last_frame(decoder, sources):
    assert read_number(decoder.image(video_of(sources["h264"]), 99.0, 192)) == 59


def test_long_clips_are_limited(decoder, tmp_path):
    seconds = 2 * MAX_PLAYED_FRAMES / MIN_PLAYED_FPS
    path = write_video(tmp_path / "long.mp4", int(seconds), fps=1)

    frames = read_mp4(decoder.mp4(video_of(path), 0.0, seconds))

    assert len(frames) == MAX_PLAYED_FRAMES
    assert [read_number(frame) for frame in frames[:: int(MIN_PLAYED_FPS)]] == list(range(60))


def test_files_that_cannot_be_decoded_are_named(decoder, tmp_path):
    path = tmp_path / "text.mp4"
    path.write_text("no video")

    with pytest.raises(VideoError):
        decoder.image(video_of(path), 0.0, 192)


@pytest.mark.parametrize(
    ("size", "fitted"),
    [
        ((100, 50), (100, 50)),
        ((1080, 1920), (360, 640)),
        ((1921, 1081), (640, 360)),
        ((1, 1), (2, 2)),
        ((4000, 3), (640, 2)),
    ],
)
def test_sizes_are_even_and_at_most_the_limit(size, fitted):
    assert fit(*size, 640) == fitted


def test_images_are_encoded_in_their_colours():
    image = np.full((32, 48, 3), (200, 40, 20), np.uint8)

    decoded = cv2.imdecode(np.frombuffer(encode_webp(image), np.uint8), cv2.IMREAD_COLOR)
    (frame,) = read_mp4(encode_mp4(image[None], 30.0))

    np.testing.assert_allclose(decoded[16, 24, ::-1], image[0, 0], atol=12)
    np.testing.assert_allclose(frame[16, 24], image[0, 0], atol=12)
