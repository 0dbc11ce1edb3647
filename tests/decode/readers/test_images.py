from __future__ import annotations

import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.config import Sampling
from pipeline.decode.fallback import index_video
from pipeline.errors import VideoError
from tests.decode.decoding import ALL, as_video, decode, numbers
from tests.videos import draw_number, write_images


def with_odd_profile(png: bytes) -> bytes:
    """Add a colour profile to a PNG about which libpng warns."""
    profile = b"iCCP" + b"ICC profile\0\0" + zlib.compress(struct.pack(">I", 132) + bytes(128))
    chunk = struct.pack(">I", len(profile) - 4) + profile + struct.pack(">I", zlib.crc32(profile))
    return png[:33] + chunk + png[33:]  # behind the header


def with_odd_field(tiff: bytes) -> bytes:
    """Add an unknown field to a TIFF."""
    (offset,) = struct.unpack("<I", tiff[4:8])
    (count,) = struct.unpack("<H", tiff[offset : offset + 2])
    fields = tiff[offset + 2 : offset + 2 + 12 * count]
    tiff += bytes(len(tiff) % 2)
    table = struct.pack("<H", count + 1) + fields + struct.pack("<HHII", 65111, 3, 1, 7) + bytes(4)
    return tiff[:4] + struct.pack("<I", len(tiff)) + tiff[8:] + table


def test_natural_order(tmp_path, process):
    write_images(tmp_path, range(8, 13))
    for number in range(8, 13):
        (tmp_path / f"img_{number:05}.png").rename(tmp_path / f"shot{number}.png")

    batch = decode(process, as_video(tmp_path, 10))

    assert numbers(batch.images) == [8, 9, 10, 11, 12]
    assert batch.report.status == "ok"
    assert batch.report.decoder == "images"


def test_a_gap_shows_the_image_before(tmp_path, process):
    write_images(tmp_path, [0, 1, 2, 6, 7])

    batch = decode(process, as_video(tmp_path, 10), Sampling(fps=10))

    assert numbers(batch.images) == [0, 1, 2, 2, 2, 2, 6, 7]
    assert batch.pts_seconds == pytest.approx([0, 0.1, 0.2, 0.2, 0.2, 0.2, 0.6, 0.7])
    assert batch.report.status == "partial"
    assert batch.report.error == "numbers missing between the images: 3, 4, 5 (3 in all)"


def test_a_broken_image_in_the_middle(tmp_path, process):
    write_images(tmp_path, range(6))
    (tmp_path / "img_00003.png").write_bytes(b"broken")

    batch = decode(process, as_video(tmp_path, 10))

    assert numbers(batch.images) == [0, 1, 2, 4, 5]
    assert batch.frame_index.tolist() == [0, 1, 2, 4, 5]
    report = batch.report
    assert report.status == "partial"
    assert "img_00003.png is not an image that can be read" in report.error
    assert (report.frames_decoded, report.frames_missing, report.frames_damaged) == (5, 1, 1)


def test_a_broken_image_with_an_undecodable_name(tmp_path, process):
    """Tables hold only UTF-8; such a name must not fail a shard."""
    write_images(tmp_path, range(3))
    (tmp_path / os.fsdecode(b"img_\xff00003.png")).write_bytes(b"broken")

    report = decode(process, as_video(tmp_path, 10)).report

    assert rb"img_\xff00003.png is not an image" in report.error.encode()
    assert all(error.encode() for error in report.attempts)


def test_warnings_about_undamaged_images(tmp_path, process):
    """Photo editors write profiles and fields that OpenCV does not know."""
    write_images(tmp_path, range(200))
    write_images(tmp_path, [200], suffix=".tif")
    for path in tmp_path.glob("*.png"):
        path.write_bytes(with_odd_profile(path.read_bytes()))
    odd = tmp_path / "img_00200.tif"
    odd.write_bytes(with_odd_field(odd.read_bytes()))

    report = decode(process, as_video(tmp_path, 10)).report

    assert (report.status, report.error, report.frames_decoded) == ("ok", "", 201)


def test_a_step(tmp_path, process):
    write_images(tmp_path, [5, 10, 15])

    batch = decode(process, as_video(tmp_path, 2))

    assert numbers(batch.images) == [5, 10, 15]
    assert batch.pts_seconds.tolist() == [0, 0.5, 1]
    assert batch.report.status == "ok"


def test_images_of_other_sizes_are_resized_to_the_first(tmp_path, process):
    write_images(tmp_path, [0, 1])
    write_images(tmp_path, [2], size=(300, 120))

    assert numbers(decode(process, as_video(tmp_path, 10)).images) == [0, 1, 2]


def test_chunks(tmp_path, process):
    video = as_video(write_images(tmp_path, range(20)), 10)

    batch = decode(process, video, ALL, start=8, stop=12, context=3)

    assert numbers(batch.images) == list(range(5, 12))
    assert batch.report.frames_expected == batch.report.frames_decoded == 4


def test_images_that_are_not_sampled_are_not_read(tmp_path, process):
    """A broken image between samples is not noticed, since reading images is the main cost."""
    write_images(tmp_path, range(6))
    (tmp_path / "img_00003.png").write_bytes(b"broken")

    batch = decode(process, as_video(tmp_path, 10), Sampling(every=2))

    assert numbers(batch.images) == [0, 2, 4]
    assert batch.report.status == "ok"


def test_a_folder_with_an_undecodable_name(tmp_path, process):
    folder = tmp_path / os.fsdecode(b"caf\xe9 %d")
    write_images(tmp_path / "plain", range(3))
    (tmp_path / "plain").rename(folder)

    assert numbers(decode(process, as_video(folder, 10)).images) == [0, 1, 2]


def test_a_deleted_folder_fails(tmp_path, process):
    with pytest.raises(VideoError, match="cannot be read: No such file") as caught:
        index_video(process, as_video(tmp_path / "gone", 10))
    assert caught.value.status == "unreadable"


def test_pages_of_a_stack(tmp_path, process):
    path = tmp_path / "stack.tif"
    images = [Image.fromarray(draw_number(number)) for number in range(30)]
    images[0].save(path, save_all=True, append_images=images[1:])

    whole = decode(process, as_video(path, 10))
    part = decode(process, as_video(path, 10), Sampling(every=3), start=2, stop=5, context=1)

    assert numbers(whole.images) == list(range(30))
    assert (whole.report.status, whole.report.duration_seconds) == ("ok", pytest.approx(3))
    assert numbers(part.images) == [3, 6, 9, 12]


def test_a_damaged_page(tmp_path, process):
    path = tmp_path / "stack.tif"
    images = [Image.fromarray(draw_number(number)) for number in range(8)]
    images[0].save(path, save_all=True, append_images=images[1:], compression="tiff_adobe_deflate")
    data = path.read_bytes()
    with Image.open(path) as image:
        image.seek(5)
        place, size = image.tag_v2[273][0], image.tag_v2[279][0]
    path.write_bytes(data[:place] + bytes(size) + data[place + size :])

    batch = decode(process, as_video(path, 10))

    assert numbers(np.delete(batch.images, 5, axis=0)) == [0, 1, 2, 3, 4, 6, 7]
    assert batch.report.status == "partial"
    assert "Decoding error" in batch.report.error


def test_one_range_of_values_for_all_chunks(tmp_path, process):
    for number in range(6):
        picture = (draw_number(number)[:, :, 0] >> (3 if number < 5 else 0)).astype(np.uint16) << 4
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), picture)

    dark = decode(process, as_video(tmp_path, 10), start=0, stop=3)
    bright = decode(process, as_video(tmp_path, 10), start=5, stop=6)

    assert dark.images.max() == 224 >> 3
    assert bright.images.max() == 224
    assert (
        dark.report.note
        == bright.report.note
        == ("16-bit pictures: 0 to 4095 are black to white, since 3584 is the largest value of all")
    )
