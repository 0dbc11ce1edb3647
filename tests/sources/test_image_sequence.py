from __future__ import annotations

import os
from fractions import Fraction

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import VideoError
from pipeline.sources.image_sequence import (
    frame_numbers,
    image_files,
    natural_key,
    read_image,
    read_image_index,
)
from tests.decode.decoding import numbers
from tests.videos import draw_number, write_images

PIXELS = 10_000_000


class TestOrder:
    def test_numbers_are_compared_by_value(self):
        names = ["img_10.png", "img_2.png", "img_1.png", "b1_10.png", "b1_9.png", "B3.png"]

        assert sorted(names, key=natural_key) == [
            "B3.png", "b1_9.png", "b1_10.png", "img_1.png", "img_2.png", "img_10.png",
        ]  # fmt: skip

    @pytest.mark.parametrize("name", ["²", "5²6.png", "٣.png", "", "१२", "1e5", "007"])
    def test_any_name_has_a_key(self, name):
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
    def test_of_one_image_in_two_formats_the_common_one_is_listed(self, tmp_path, names, listed):
        for name in names:
            (tmp_path / name).touch()

        assert [path.name for path in image_files(tmp_path)] == listed

    def test_hidden_and_other_files_are_skipped(self, tmp_path):
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
        assert frame_numbers(names) == found


class TestReadImage:
    @pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp", ".tif", ".ppm", ".jpg"])
    def test_gives_rgb(self, tmp_path, suffix):
        write_images(tmp_path, [3], suffix=suffix)

        image = read_image(tmp_path / f"img_00003{suffix}")

        off = np.abs(image.astype(int) - draw_number(3))
        assert off[-8:, -8:].max() <= (3 if suffix == ".jpg" else 0), "red lower right corner"
        assert off.mean() <= (2 if suffix == ".jpg" else 0)

    @pytest.mark.parametrize("pixel_format", ["grey", "alpha", "16 bit"])
    def test_every_pixel_format_becomes_8_bit_rgb(self, tmp_path, pixel_format):
        colour = draw_number(3)[:, :, ::-1]
        stored = {
            "grey": colour[:, :, 0],
            "alpha": np.dstack([colour, np.full(colour.shape[:2], 9, np.uint8)]),
            "16 bit": colour.astype(np.uint16) * 257,
        }[pixel_format]
        cv2.imwrite(str(tmp_path / "a.png"), stored)

        image = read_image(tmp_path / "a.png")

        assert image.shape == (64, 96, 3)
        assert image.dtype == np.uint8
        assert numbers([image]) == [3]

    @pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n1234"])
    def test_a_file_that_is_not_an_image_is_none(self, tmp_path, content):
        (tmp_path / "a.png").write_bytes(content)

        assert read_image(tmp_path / "a.png") is None

    def test_a_missing_file_is_none(self, tmp_path):
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

    def test_missing_numbers_with_a_step(self, tmp_path):
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

    def test_time_stamps_as_names(self, tmp_path):
        """Missing numbers between nanoseconds are counted, not listed."""
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
        """Frames and their masks, or two exports: only the user can decide."""
        for suffix in (".png", ".jpg"):
            write_images(tmp_path, [1, 2], suffix=suffix)

        message = r"^the folder holds the same images as \.jpg and as \.png: keep one$"
        with pytest.raises(VideoError, match=message) as caught:
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
