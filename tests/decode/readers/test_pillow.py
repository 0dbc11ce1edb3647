"""Animated WebP, and other animations beside it."""

from __future__ import annotations

import pytest
from PIL import Image

from pipeline.config import Sampling
from pipeline.decode.fallback import index_video
from pipeline.decode.versions import CHANGES
from pipeline.errors import VideoError
from pipeline.records import DecodeReport
from tests.decode.decoding import as_video, decode, numbers
from tests.videos import draw_number


def write_animation(path, count=10, duration=100, **options):
    images = [Image.fromarray(draw_number(number)) for number in range(count)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=duration, **options)
    return path


@pytest.mark.parametrize("name", ["a.webp", "a.gif", "a.png", "caf\udce9.webp"])
def test_every_frame_of_an_animation_is_read(tmp_path, process, name):
    options = {"lossless": True} if name.endswith("webp") else {}
    path = write_animation(tmp_path / name, **options)

    batch = decode(process, path)

    assert numbers(batch.images) == list(range(10))
    assert batch.pts_seconds == pytest.approx([n / 10 for n in range(10)])
    report = batch.report
    assert (report.status, report.frames_decoded) == ("ok", 10)
    assert report.duration_seconds == pytest.approx(1)


def test_durations_of_webp_are_the_times(tmp_path, process):
    """Too short ones are shown as in a browser."""
    path = write_animation(tmp_path / "a.webp", 4, duration=[40, 0, 500, 70])

    batch = decode(process, path)

    assert batch.report.decoder == "pillow"
    assert batch.pts_seconds == pytest.approx([0, 0.04, 0.14, 0.64])
    assert batch.report.duration_seconds == pytest.approx(0.71)


def test_parts_of_webp(tmp_path, process):
    path = write_animation(tmp_path / "a.webp", 12)

    batch = decode(process, path, Sampling(fps=5), start=2, stop=5, context=1)

    assert numbers(batch.images) == [2, 4, 6, 8]


@pytest.mark.parametrize("reader", ["opencv", "pyav"])
def test_other_readers_are_not_tried(tmp_path, forced_process, reader):
    path = write_animation(tmp_path / "a.webp", 3)

    report = decode(forced_process(reader), path).report

    assert (report.status, report.decoder, report.attempts) == ("ok", "pillow", ())


def test_a_webp_that_is_cut_off_is_partial(tmp_path, process):
    path = write_animation(tmp_path / "a.webp", 10, lossless=True)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])

    report = decode(process, path).report

    assert report.status in ("partial", "undecodable")
    assert "cut off: " in report.error or "Pillow" in report.error


def test_a_webp_without_frames_fails(tmp_path, process):
    path = write_animation(tmp_path / "a.webp", 3)
    path.write_bytes(path.read_bytes()[:40])

    with pytest.raises(VideoError, match="an animated WebP without a frame"):
        index_video(process, as_video(path))


def test_animated_webp_that_was_not_read_is_read_again(tmp_path):
    change = next(change for change in CHANGES if "WebP" in change.reason)
    animated = as_video(write_animation(tmp_path / "a.webp"))
    still = as_video(write_animation(tmp_path / "b.webp", 1))

    assert change.affects(animated, DecodeReport("undecodable"))
    assert not change.affects(still, DecodeReport("ok", codec="webp", frames_decoded=1))
    assert not change.affects(animated, DecodeReport("ok", codec="webp", frames_decoded=10))
