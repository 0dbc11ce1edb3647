"""Which images of a folder belong to one sequence."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.sources.sequences import group_images, varying_numbers


def groups(names):
    """Count the images of each sequence."""
    return {name: len(group) for name, group in group_images(map(Path, names)).items()}


NINE = range(9)
CASES = {
    "numbers": ([f"{n:04}.png" for n in NINE], {"*.png": 9}),
    "letters": (
        [f"cam{c}_{n:04}.png" for n in NINE for c in "AB"],
        {"camA_*.png": 9, "camB_*.png": 9},
    ),
    "camera first": (
        [f"cam{c}_{n}.png" for n in NINE for c in (0, 1)],
        {"cam0_*.png": 9, "cam1_*.png": 9},
    ),
    "camera last": (
        [f"{n}_cam{c}.png" for n in NINE for c in (0, 1)],
        {"*_cam0.png": 9, "*_cam1.png": 9},
    ),
    "camera without a word": (
        [f"{n}_{c}.png" for n in NINE for c in (0, 1)],
        {"*_0.png": 9, "*_1.png": 9},
    ),
    "takes": (
        [f"take{t}_{n}.png" for n in range(6) for t in (1, 2)],
        {"take1_*.png": 6, "take2_*.png": 6},
    ),
    "colour and depth": (
        [f"{kind}_{n}.png" for n in range(3) for kind in ("rgb", "depth")],
        {"rgb_*.png": 3, "depth_*.png": 3},
    ),
    "masks": (
        [f"{n}{kind}.png" for n in range(3) for kind in ("", "_mask")],
        {"*.png": 3, "*_mask.png": 3},
    ),
    "two numbers of each frame": ([f"f{n:03}_t{n * 33:05}.png" for n in NINE], {"f*_t*.png": 9}),
    "a thumbnail": ([*(f"f{n}.png" for n in NINE), "thumb.png"], {"f*.png": 9, "thumb.png": 1}),
    "ascending": (["a_1.png", "a_2.png", "b_3.png", "b_4.png"], {"*.png": 4}),
    "two formats": (["1.jpg", "2.JPG", "3.png", "4.jpg"], {"*.jpg": 4}),
    "case": (["IMG_1.jpg", "img_2.jpg"], {"IMG_*.jpg": 2}),
    "no numbers": (["before.png", "after.png"], {"after.png": 1, "before.png": 1}),
    "compact times": (
        [f"2024010{d}_10{m}{s}.jpg" for d in (1, 2) for m in (10, 11) for s in (10, 50)],
        {"*.jpg": 8},
    ),
    "times": ([f"2024-01-02_10-{m}-{s}.jpg" for m in (10, 11) for s in (10, 50)], {"*.jpg": 4}),
    "times of day": ([f"x_10-{m}-{s}.5.jpg" for m in (10, 11) for s in (10, 50)], {"x_*.jpg": 4}),
    "nothing": ([], {}),
}


@pytest.mark.parametrize(("names", "expected"), CASES.values(), ids=CASES)
def test_groups(names, expected):
    assert groups(names) == expected
    assert groups(reversed(names)) == expected


@given(st.lists(st.text("ab0123_-.", min_size=1, max_size=8).map(lambda name: name + ".png")))
def test_every_image_is_in_one_group(names):
    paths = {Path(name) for name in names}

    found = [path for group in group_images(paths).values() for path in group]

    assert sorted(found) == sorted(paths)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["7_cam0.png", "9_cam0.png"], [7, 9]),
        (["7_a.png", "7_b.png"], None),
        (["1_1.png", "2_2.png"], None),
        (["2024-01-02_10-20-59.png", "2024-01-02_10-21-00.png"], None),
    ],
)
def test_the_number_that_varies(names, expected):
    assert varying_numbers(list(map(Path, names))) == expected


@pytest.mark.parametrize(
    ("size", "expected"), [(8, {"*.png": 4}), (9, {"a_*.png": 2, "b_*.png": 2})]
)
def test_ascending_numbers_of_images_of_two_sizes(tmp_path, size, expected):
    for name, side in (("a_1", 8), ("a_2", 8), ("b_3", size), ("b_4", size)):
        Image.new("L", (8, side)).save(tmp_path / f"{name}.png")

    assert groups(tmp_path.iterdir()) == expected
