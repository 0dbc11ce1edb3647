from __future__ import annotations

import os
import struct
import zlib
from fractions import Fraction

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Sampling
from pipeline.decode.fallback import index_video
from pipeline.errors import VideoError
from pipeline.sources.image_sequence import (
    image_files,
    natural_key,
    numbers_of,
    read_image,
    read_image_index,
)
from tests.decode.decoding import ALL, as_video, decode, numbers
from tests.videos import draw_number, write_images

PIXELS = 10_000_000


def with_odd_profile(png: bytes) -> bytes:
    """Give a PNG a colour profile that libpng warns of."""
    profile = b"iCCP" + b"ICC profile\0\0" + zlib.compress(struct.pack(">I", 132) + bytes(128))
    chunk = struct.pack(">I", len(profile) - 4) + profile + struct.pack(">I", zlib.crc32(profile))
    return png[:33] + chunk + png[33:]  # behind the header


def with_odd_field(tiff: bytes) -> bytes:
    """Give a TIFF a field that nobody knows."""
    (place,) = struct.unpack("<I", tiff[4:8])
    (count,) = struct.unpack("<H", tiff[place : place + 2])
    fields = tiff[place + 2 : place + 2 + 12 * count]
    tiff += bytes(len(tiff) % 2)
    table = struct.pack("<H", count + 1) + fields + struct.pack("<HHII", 65111, 3, 1, 7) + bytes(4)
    return tiff[:4] + struct.pack("<I", len(tiff)) + tiff[8:] + table


class TestOrder:
    def test_numbers_count_by_value(self):
        names = ["img_10.png", "img_2.png", "img_1.png", "b1_10.png", "b1_9.png", "B3.png"]

        assert sorted(names, key=natural_key) == [
            "B3.png", "b1_9.png", "b1_10.png", "img_1.png", "img_2.png", "img_10.png",
        ]  # fmt: skip

    @pytest.mark.parametrize("name", ["²", "5²6.png", "٣.png", "", "१२", "1e5", "007"])
    def test_takes_any_name(self, name):
        assert sorted([name, "5", "a", "5a"], key=natural_key)

    @given(st.lists(st.text(max_size=8), max_size=8))
    def test_any_names_can_be_sorted(self, names):
        ordered = sorted(names, key=natural_key)

        assert sorted(ordered) == sorted(names)

    @given(st.lists(st.integers(0, 10**12), min_size=2))
    def test_order_is_that_of_the_numbers(self, values):
        names = [f"img_{value}.png" for value in values]

        assert sorted(names, key=natural_key) == [f"img_{value}.png" for value in sorted(values)]

    @pytest.mark.parametrize(
        ("names", "listed"),
        [
            (["1.jpg", "2.jpg", "3.jpg", "1.png"], ["1.jpg", "2.jpg", "3.jpg"]),
            (["1.jpg", "2.JPG", "2.png", "3.png", "4.jpg"], ["1.jpg", "2.JPG", "3.png", "4.jpg"]),
            (["1.jpg", "2.jpg", "1.png", "2.png"], ["1.jpg", "1.png", "2.jpg", "2.png"]),
        ],
        ids=["a preview", "half converted", "all twice"],
    )
    def test_of_one_picture_in_two_formats_the_common_one_is_listed(self, tmp_path, names, listed):
        for name in names:
            (tmp_path / name).touch()

        assert [path.name for path in image_files(tmp_path)] == listed

    def test_hidden_and_other_files_are_left_out(self, tmp_path):
        for name in ["2.PNG", "10.jpeg", "1.tif", ".3.png", "notes.txt", "4.mp4"]:
            (tmp_path / name).touch()

        assert [path.name for path in image_files(tmp_path)] == ["1.tif", "2.PNG", "10.jpeg"]


class TestNumbers:
    @pytest.mark.parametrize(
        ("names", "found"),
        [
            (["img_00001.jpg", "img_00002.jpg"], [1, 2]),
            (["7.png"], [7]),
            (["take2_008.png", "take2_012.png"], [8, 12]),
            (["a1.mp4.png", "a2.mp4.png"], None),
            (["first.png", "2.png"], None),
            (["a_1.png", "b_1.png"], None),
            (["a_2.png", "b_1.png"], None),
        ],
    )
    def test_last_number_of_each_name(self, names, found):
        assert numbers_of(names) == found


class TestReadImage:
    @pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp", ".tif", ".ppm", ".jpg"])
    def test_gives_rgb(self, tmp_path, suffix):
        write_images(tmp_path, [3], suffix=suffix)

        picture = read_image(tmp_path / f"img_00003{suffix}")

        off = np.abs(picture.astype(int) - draw_number(3))
        assert off[-8:, -8:].max() <= (3 if suffix == ".jpg" else 0), "red lower right corner"
        assert off.mean() <= (2 if suffix == ".jpg" else 0)

    @pytest.mark.parametrize("drawn", ["grey", "alpha", "16 bit"])
    def test_every_kind_of_picture_becomes_8_bit_rgb(self, tmp_path, drawn):
        colour = draw_number(3)[:, :, ::-1]
        stored = {
            "grey": colour[:, :, 0],
            "alpha": np.dstack([colour, np.full(colour.shape[:2], 9, np.uint8)]),
            "16 bit": colour.astype(np.uint16) * 257,
        }[drawn]
        cv2.imwrite(str(tmp_path / "a.png"), stored)

        picture = read_image(tmp_path / "a.png")

        assert picture.shape == (64, 96, 3)
        assert picture.dtype == np.uint8
        assert numbers([picture]) == [3]

    @pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n1234"])
    def test_what_is_no_image_is_none(self, tmp_path, content):
        (tmp_path / "a.png").write_bytes(content)

        assert read_image(tmp_path / "a.png") is None

    def test_what_is_not_there_is_none(self, tmp_path):
        assert read_image(tmp_path / "a.png") is None
        (tmp_path / "folder.png").mkdir()
        assert read_image(tmp_path / "folder.png") is None

    @pytest.mark.parametrize("name", [b"caf\xe9.png", "🎬 \n'%d.png".encode()])
    def test_any_file_name(self, tmp_path, name):
        write_images(tmp_path, [3])
        path = tmp_path / os.fsdecode(name)
        os.rename(tmp_path / "img_00003.png", path)

        assert numbers([read_image(path)]) == [3]


class TestReadImageIndex:
    def test_consecutive_numbers(self, tmp_path):
        index = read_image_index(str(write_images(tmp_path, range(1, 6))), 12.5, PIXELS)

        assert index.pts.tolist() == [0, 1, 2, 3, 4]
        assert index.seconds == pytest.approx([0, 0.08, 0.16, 0.24, 0.32])
        assert index.duration_seconds == pytest.approx(0.4)
        assert (index.width, index.height) == (96, 64)
        assert (index.format, index.codec) == ("images", "png")
        assert index.problem == ""
        assert not index.truncated

    def test_rates_are_exact(self, tmp_path):
        index = read_image_index(str(write_images(tmp_path, range(3))), 30000 / 1001, PIXELS)

        assert Fraction(*index.time_base) == Fraction(1001, 30000)

    def test_a_step_is_no_gap(self, tmp_path):
        index = read_image_index(str(write_images(tmp_path, [5, 10, 15, 20])), 10, PIXELS)

        assert index.pts.tolist() == [0, 1, 2, 3]
        assert index.problem == ""

    def test_missing_numbers_leave_gaps_in_time(self, tmp_path):
        index = read_image_index(str(write_images(tmp_path, [1, 2, 5, 6])), 10, PIXELS)

        assert index.pts.tolist() == [0, 1, 4, 5]
        assert index.problem == "numbers missing between the images: 3, 4 (2 in all)"
        assert index.truncated

    def test_missing_numbers_of_a_step(self, tmp_path):
        numbers = [5, 10, 20, *range(60, 100, 5)]
        index = read_image_index(str(write_images(tmp_path, numbers)), 10, PIXELS)

        assert index.pts.tolist()[:4] == [0, 1, 3, 11]
        assert index.problem == (
            "numbers missing between the images: 15, 25, 30, 35, 40, … (8 in all)"
        )

    def test_names_without_numbers_are_taken_in_order(self, tmp_path):
        write_images(tmp_path, [1, 2])
        (tmp_path / "img_00001.png").rename(tmp_path / "before.png")
        (tmp_path / "img_00002.png").rename(tmp_path / "after.png")

        assert read_image_index(str(tmp_path), 10, PIXELS).pts.tolist() == [0, 1]

    def test_one_image(self, tmp_path):
        index = read_image_index(str(write_images(tmp_path, [400])), 4, PIXELS)

        assert index.pts.tolist() == [0]
        assert index.duration_seconds == 0.25

    def test_times_as_names(self, tmp_path):
        """The gaps between nanoseconds are counted, not listed."""
        first, hour = 10**18, 3600 * 10**9
        write_images(tmp_path, [0, 1, 2])
        for number, name in enumerate([first, first + hour - 1, first + hour]):
            (tmp_path / f"img_{number:05}.png").rename(tmp_path / f"{name}.png")

        index = read_image_index(str(tmp_path), 10, PIXELS)

        assert index.pts.tolist() == [0, hour - 1, hour]
        assert index.frames_from_header == hour + 1
        assert index.problem == (
            "numbers missing between the images: 1000000000000000001, 1000000000000000002, "
            "1000000000000000003, 1000000000000000004, 1000000000000000005, … "
            "(3599999999998 in all)"
        )

    def test_every_image_in_two_formats_fails(self, tmp_path):
        """Frames and their masks, or two exports: only the user knows which to take."""
        for suffix in (".png", ".jpg"):
            write_images(tmp_path, [1, 2], suffix=suffix)

        words = r"^the folder holds the same images as \.jpg and as \.png: keep one$"
        with pytest.raises(VideoError, match=words) as caught:
            read_image_index(str(tmp_path), 10, PIXELS)
        assert caught.value.status == "undecodable"

    def test_no_images_fails(self, tmp_path):
        (tmp_path / "notes.txt").touch()

        with pytest.raises(VideoError, match="holds no images") as caught:
            read_image_index(str(tmp_path), 10, PIXELS)
        assert caught.value.status == "not_video"

    def test_no_readable_image_fails(self, tmp_path):
        for name in ("1.png", "2.png"):
            (tmp_path / name).write_bytes(b"broken")

        with pytest.raises(VideoError, match="none of its 2 images can be read") as caught:
            read_image_index(str(tmp_path), 10, PIXELS)
        assert caught.value.status == "undecodable"

    def test_too_many_pixels_fails(self, tmp_path):
        write_images(tmp_path, [1])

        with pytest.raises(VideoError, match="96 × 64 pixels; at most 6,143") as caught:
            read_image_index(str(tmp_path), 10, 6143)
        assert caught.value.status == "too_large"


class TestDecodedSequences:
    def test_natural_order(self, tmp_path, process):
        write_images(tmp_path, range(8, 13))
        for number in range(8, 13):
            (tmp_path / f"img_{number:05}.png").rename(tmp_path / f"shot{number}.png")

        batch = decode(process, as_video(tmp_path, 10))

        assert numbers(batch.images) == [8, 9, 10, 11, 12]
        assert batch.report.status == "ok"
        assert batch.report.decoder == "images"

    def test_a_gap_shows_the_image_before(self, tmp_path, process):
        write_images(tmp_path, [0, 1, 2, 6, 7])

        batch = decode(process, as_video(tmp_path, 10), Sampling(fps=10))

        assert numbers(batch.images) == [0, 1, 2, 2, 2, 2, 6, 7]
        assert batch.pts_seconds == pytest.approx([0, 0.1, 0.2, 0.2, 0.2, 0.2, 0.6, 0.7])
        assert batch.report.status == "partial"
        assert batch.report.error == "numbers missing between the images: 3, 4, 5 (3 in all)"

    def test_a_broken_image_in_the_middle(self, tmp_path, process):
        write_images(tmp_path, range(6))
        (tmp_path / "img_00003.png").write_bytes(b"broken")

        batch = decode(process, as_video(tmp_path, 10))

        assert numbers(batch.images) == [0, 1, 2, 4, 5]
        assert batch.frame_index.tolist() == [0, 1, 2, 4, 5]
        report = batch.report
        assert report.status == "partial"
        assert "img_00003.png is not an image that can be read" in report.error
        assert (report.frames_decoded, report.frames_missing, report.frames_damaged) == (5, 1, 1)

    def test_a_broken_image_whose_name_cannot_be_stored(self, tmp_path, process):
        """Tables hold UTF-8 alone; one such name must not take a shard with it."""
        write_images(tmp_path, range(3))
        (tmp_path / os.fsdecode(b"img_\xff00003.png")).write_bytes(b"broken")

        report = decode(process, as_video(tmp_path, 10)).report

        assert rb"img_\xff00003.png is not an image" in report.error.encode()
        assert all(said.encode() for said in report.attempts)

    def test_warnings_on_images_that_are_whole(self, tmp_path, process):
        """However many: photo editors write profiles and fields that OpenCV does not know."""
        write_images(tmp_path, range(200))
        write_images(tmp_path, [200], suffix=".tif")
        for path in tmp_path.glob("*.png"):
            path.write_bytes(with_odd_profile(path.read_bytes()))
        odd = tmp_path / "img_00200.tif"
        odd.write_bytes(with_odd_field(odd.read_bytes()))

        report = decode(process, as_video(tmp_path, 10)).report

        assert (report.status, report.error, report.frames_decoded) == ("ok", "", 201)

    def test_a_step(self, tmp_path, process):
        write_images(tmp_path, [5, 10, 15])

        batch = decode(process, as_video(tmp_path, 2))

        assert numbers(batch.images) == [5, 10, 15]
        assert batch.pts_seconds.tolist() == [0, 0.5, 1]
        assert batch.report.status == "ok"

    def test_images_of_other_sizes_leave_in_the_size_of_the_first(self, tmp_path, process):
        write_images(tmp_path, [0, 1])
        write_images(tmp_path, [2], size=(300, 120))

        assert numbers(decode(process, as_video(tmp_path, 10)).images) == [0, 1, 2]

    def test_segments(self, tmp_path, process):
        video = as_video(write_images(tmp_path, range(20)), 10)

        batch = decode(process, video, ALL, start=8, stop=12, context=3)

        assert numbers(batch.images) == list(range(5, 12))
        assert batch.report.frames_expected == batch.report.frames_decoded == 4

    def test_images_that_are_not_wanted_are_not_read(self, tmp_path, process):
        """A broken image between samples goes unseen: reading it would be all the cost there is."""
        write_images(tmp_path, range(6))
        (tmp_path / "img_00003.png").write_bytes(b"broken")

        batch = decode(process, as_video(tmp_path, 10), Sampling(every=2))

        assert numbers(batch.images) == [0, 2, 4]
        assert batch.report.status == "ok"

    def test_one_folder_in_undecodable_bytes(self, tmp_path, process):
        folder = tmp_path / os.fsdecode(b"caf\xe9 %d")
        write_images(tmp_path / "plain", range(3))
        (tmp_path / "plain").rename(folder)

        assert numbers(decode(process, as_video(folder, 10)).images) == [0, 1, 2]

    def test_a_folder_that_went_away_fails(self, tmp_path, process):
        with pytest.raises(VideoError, match="cannot be read: No such file") as caught:
            index_video(process, as_video(tmp_path / "gone", 10))
        assert caught.value.status == "unreadable"
