"""Pictures of any depth, and the pages of TIFF files, as 8-bit RGB."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.sources.image_sequence import read_image_index
from pipeline.sources.pictures import (
    PictureReader,
    find_value_range,
    is_stack,
    list_pictures,
    read_image,
)
from pipeline.sources.tiff import tiff_pages
from tests.decode.decoding import numbers
from tests.videos import draw_number

PIXELS = 10_000_000


def grey(number):
    """Frame `number` with values of 8 bits, (H, W)."""
    return draw_number(number)[:, :, 0].copy()


def stored(number, bits, channels=1):
    """Frame `number` with values of some bits."""
    picture = draw_number(number)[:, :, ::-1] if channels == 3 else grey(number)
    kind = np.uint8 if bits == 8 else np.uint16
    return (picture.astype(np.uint32) * (2**bits - 1) // 255).astype(kind)


def write_stack(path, pages, **options):
    """Write a TIFF with several pages."""
    images = [Image.fromarray(page) for page in pages]
    images[0].save(path, save_all=True, append_images=images[1:], **options)
    return path


def with_tag(path, tag, value):
    """Add a tag with a number (SHORT) to a TIFF of one page, in little-endian byte order."""
    data = path.read_bytes()
    (offset,) = struct.unpack("<I", data[4:8])
    (count,) = struct.unpack("<H", data[offset : offset + 2])
    entries = data[offset + 2 : offset + 2 + 12 * count] + struct.pack("<HHII", tag, 3, 1, value)
    table = struct.pack("<H", count + 1) + entries + bytes(4)
    path.write_bytes(data[:4] + struct.pack("<I", len(data)) + data[8:] + table)
    return path


def with_significant_bits(path, bits):
    """Add the chunk sBIT to a PNG in grey."""
    png = path.read_bytes()
    chunk = b"sBIT" + bytes([bits])
    path.write_bytes(png[:33] + struct.pack(">I", 1) + chunk + bytes(4) + png[33:])
    return path


def write(path, picture):
    assert cv2.imwrite(str(path), picture)
    return path


def read_all(*files):
    """Read the pictures of files as one video."""
    pictures = list_pictures(files)
    values, note = find_value_range(pictures)
    reader = PictureReader(values)
    return [reader.read(picture) for picture in pictures], note


class TestPages:
    @pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "zstd"])
    @pytest.mark.parametrize("kind", ["grey 8", "grey 16", "float", "rgb"])
    def test_every_page_is_a_frame(self, tmp_path, kind, compression):
        make = {
            "grey 8": grey,
            "grey 16": lambda n: stored(n, 16),
            "float": lambda n: (grey(n) / 255).astype(np.float32),
            "rgb": draw_number,
        }[kind]
        path = write_stack(tmp_path / "a.tif", map(make, range(10)), compression=compression)

        images, _ = read_all(path)

        assert is_stack(path)
        assert numbers(images) == list(range(10))
        assert images[0].shape == (64, 96, 3)
        assert np.abs(images[3].astype(int)[:, :, 0] - draw_number(3)[:, :, 0]).max() <= 1

    def test_big_tiff(self, tmp_path):
        path = write_stack(tmp_path / "a.tif", map(grey, range(3)), big_tiff=True)

        assert path.read_bytes()[2] == 43
        assert numbers(read_all(path)[0]) == [0, 1, 2]

    @pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "large"])
    @pytest.mark.parametrize("big", [True, False], ids=["BigTIFF", "TIFF"])
    def test_pages_can_be_read_in_any_order(self, tmp_path, monkeypatch, mapped, big):
        if not mapped:
            monkeypatch.setattr("pipeline.sources.pictures.MAX_MAPPED_BYTES", 0)
        path = write_stack(tmp_path / "a.tif", map(grey, range(30)), big_tiff=big)
        before = path.read_bytes()
        pictures, reader = list_pictures([path]), PictureReader()
        order = [0, 1, 2, 3, 9, 20, 21, 22, 23, 24, 5, 29, 0]

        assert numbers([reader.read(pictures[n]) for n in order]) == order
        assert path.read_bytes() == before

    def test_the_pages_of_files_follow_in_natural_order(self, tmp_path):
        for number in (1, 2, 10):
            pages = map(grey, range(3 * number, 3 * number + 3))
            write_stack(tmp_path / f"stack{number}.tif", pages)

        index = read_image_index(str(tmp_path), 10, PIXELS)

        assert index.pts.tolist() == list(range(9))
        assert (index.problem, index.truncated) == ("", False)
        assert index.note == "numbers missing between the images: 3, 4, 5, 6, 7, … (7 in all)"

    def test_smaller_versions_of_a_page_are_no_frames(self, tmp_path):
        path = tmp_path / "a.tif"
        pages = [Image.fromarray(grey(n)) for n in range(3)]
        pages[1].encoderinfo = {"tiffinfo": {254: 1}}
        pages[0].save(path, save_all=True, append_images=pages[1:])

        assert [page.number for page in tiff_pages(path)] == [0, 2]
        assert numbers(read_all(path)[0]) == [0, 2]

    def test_a_stack_that_is_cut_off_has_its_first_pages(self, tmp_path):
        path = write_stack(tmp_path / "a.tif", map(grey, range(10)), description="x")
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])

        assert 0 < len(tiff_pages(path)) < 10

    def test_pages_that_imagej_claims_and_that_are_not_there(self, tmp_path):
        path = write_stack(
            tmp_path / "a.tif", map(grey, range(2)), description="ImageJ=1.53\nimages=7\nslices=7\n"
        )

        index = read_image_index(str(path), 10, PIXELS)

        assert (len(index.pts), index.frames_from_header, index.truncated) == (2, 7, True)

    @pytest.mark.parametrize(
        "content",
        [b"", b"II", b"II*\0", b"II*\0\x08\0\0\0\xff\xff", b"MM\0*\0\0\0\x08", b"TIFF"],
    )
    def test_other_files_have_no_pages(self, tmp_path, content):
        (tmp_path / "a.tif").write_bytes(content)

        assert tiff_pages(tmp_path / "a.tif") == []
        assert not is_stack(tmp_path / "a.tif")
        assert read_image(tmp_path / "a.tif") is None


class TestValueRange:
    @pytest.mark.parametrize("bits", [10, 12, 14])
    @pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_fewer_significant_bits_look_like_16(self, tmp_path, bits, suffix, channels):
        suffix = ".ppm" if suffix == ".pgm" and channels == 3 else suffix
        files = [write(tmp_path / f"{n}{suffix}", stored(n, bits, channels)) for n in range(6)]

        images, note = read_all(*files)

        assert numbers(images) == list(range(6))
        largest = max(stored(n, bits, channels).max() for n in range(6))
        assert note == (
            f"16-bit pictures: 0 to {2**bits - 1} are black to white, "
            f"since {largest} is the largest value of all"
        )
        for number, image in enumerate(images):
            assert np.abs(image.astype(int) - draw_number(number)).max() <= 1 or channels == 1

    @pytest.mark.parametrize("suffix", [".png", ".tif", ".ppm"])
    def test_pictures_that_use_16_bits_are_as_before(self, tmp_path, suffix):
        rng = np.random.default_rng(0)
        picture = rng.integers(0, 65536, (16, 16, 3), dtype=np.uint16)
        path = write(tmp_path / f"a{suffix}", picture)
        before = cv2.imread(str(path), cv2.IMREAD_COLOR)[:, :, ::-1]

        (image,), note = read_all(path)

        assert note == ""
        np.testing.assert_array_equal(image, before)

    def test_there_is_one_range_for_all_pictures(self, tmp_path):
        """A dark picture stays dark beside a bright one."""
        dark = write(tmp_path / "1.png", np.full((8, 8), 60, np.uint16))
        bright = write(tmp_path / "2.png", np.full((8, 8), 4000, np.uint16))

        images, _ = read_all(dark, bright)

        assert [int(image.max()) for image in images] == [60 >> 4, 4000 >> 4]

    @pytest.mark.parametrize("tag", [281, 341], ids=["MaxSampleValue", "SMaxSampleValue"])
    def test_the_tags_of_tiff_decide(self, tmp_path, tag):
        path = with_tag(write(tmp_path / "a.tif", np.full((8, 8), 300, np.uint16)), tag, 4095)

        (image,), note = read_all(path)

        assert image.max() == 300 >> 4
        assert note == "16-bit pictures: 0 to 4095 are black to white, by their tags"

    def test_the_largest_value_of_pgm_decides(self, tmp_path):
        pixels = np.full((8, 8), 500, ">u2").tobytes()
        (tmp_path / "a.pgm").write_bytes(b"P5\n# a camera\n8 8\n999\n" + pixels)

        (image,), note = read_all(tmp_path / "a.pgm")

        assert image.max() == 128
        assert note == "16-bit pictures: 0 to 999 are black to white, by their tags"

    @pytest.mark.parametrize(("value", "expected"), [(300, 300 >> 4), (40_000, 40_000 >> 8)])
    def test_significant_bits_of_png_unless_values_are_shifted(self, tmp_path, value, expected):
        path = write(tmp_path / "a.png", np.full((8, 8), value, np.uint16))

        (image,), _ = read_all(with_significant_bits(path, 12))

        assert image.max() == expected

    def test_packed_bits(self, tmp_path):
        """Two samples of 12 bits in three bytes."""
        values = np.arange(8 * 8).reshape(8, 8) * 65
        packed = b"".join(
            bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255])
            for a, b in values.reshape(-1, 2).tolist()
        )
        tags = [(256, 8), (257, 8), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 8)]
        tags.append((279, len(packed)))
        table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        head = b"II*\0" + struct.pack("<I", 8 + len(packed))
        table = struct.pack("<H", len(tags)) + table + bytes(4)
        (tmp_path / "a.tif").write_bytes(head + packed + table)

        (image,), note = read_all(tmp_path / "a.tif")

        np.testing.assert_array_equal(image[:, :, 0], values >> 4)
        assert note == "12-bit pictures: 0 to 4095 are black to white, by their tags"

    @pytest.mark.parametrize(
        ("low", "high", "black", "white"),
        [(0, 0.9, 0, 1), (0, 200, 0, 200), (-5, 35, -5, 35), (0, 0.01, 0, 0.01)],
    )
    def test_floating_point(self, tmp_path, low, high, black, white):
        first = np.linspace(low, high, 64, dtype=np.float32).reshape(8, 8)
        first[0, 1] = np.nan
        files = [
            write(tmp_path / "1.tif", first),
            write(tmp_path / "2.tif", np.full((8, 8), (low + high) / 2, np.float32)),
        ]

        images, note = read_all(*files)

        middle = ((low + high) / 2 - black) / (white - black) * 255
        assert images[1].max() == pytest.approx(middle, abs=1)
        assert note.startswith(f"floating-point pictures: {black:g} to {white:g} are black to")

    def test_pictures_of_8_bits_have_none(self, tmp_path):
        files = [write(tmp_path / f"a{suffix}", grey(3)) for suffix in (".png", ".tif", ".pgm")]

        assert find_value_range(list_pictures(files)) == (None, "")

    def test_the_index_has_the_range(self, tmp_path):
        for number in range(3):
            write(tmp_path / f"{number}.png", stored(number, 12))
        calls = []

        index = read_image_index(str(tmp_path), 10, PIXELS, calls.append)

        assert index.value_range == (0, 4095)
        assert calls == [1, 2, 3]
        assert type(index).from_json(index.to_json()).value_range == (0, 4095)
