from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Geometry
from pipeline.decode.downscale import decoded_size, downscale
from tests.videos import draw_number, read_number

SIDES = st.integers(1, 4000)


@pytest.mark.parametrize(
    ("frame", "geometry", "delivered"),
    [
        ((1080, 1920), Geometry(224, 224), (540, 960)),
        ((1080, 1920), Geometry(224, 224, "squash"), (540, 960)),
        ((2160, 3840), Geometry(224, 224), (540, 960)),
        ((1920, 1080), Geometry(224, 224), (960, 540)),
        ((240, 320), Geometry(224, 224), (240, 320)),
        ((16, 16), Geometry(224, 224), (16, 16)),
        ((1080, 1920), Geometry(224, 224, crop_fraction=0.4), (1080, 1920)),
        ((1080, 1920), Geometry(64, 96, "squash", reducing_gap=1), (64, 96)),
    ],
)
def test_decoded_size(frame, geometry, delivered):
    """Smaller by an integer factor, but at least `reducing_gap` times the size of the geometry."""
    assert decoded_size(*frame, geometry) == delivered


@given(height=SIDES, width=SIDES, side=st.integers(1, 512), gap=st.floats(1.1, 4))
def test_decoded_size_leaves_enough_for_the_final_resize(height, width, side, gap):
    small = decoded_size(height, width, Geometry(side, side, reducing_gap=gap))
    short = min(height, width)

    factors = [f for f in range(1, 4001) if small == (max(1, height // f), max(1, width // f))]

    assert factors
    assert factors[0] == 1 or short / factors[0] >= gap * side
    assert short / (factors[-1] + 1) < gap * side, "it could be smaller still"


def test_an_image_of_the_right_size_is_unchanged():
    image = draw_number(5)

    assert downscale(image, (64, 96)) is image


def test_an_integer_factor_averages_blocks():
    image = np.random.default_rng(3).integers(0, 256, (12, 20, 3)).astype(np.uint8)
    blocks = image.reshape(3, 4, 5, 4, 3).mean((1, 3))

    assert np.abs(downscale(image, (3, 5)) - blocks).max() <= 0.51


def test_odd_rows_and_columns_are_cropped():
    image = np.zeros((13, 22, 3), np.uint8)
    image[:12, :20] = 100
    image[12:], image[:, 20:] = 255, 255

    assert (downscale(image, (6, 10)) == 100).all()


def test_colours_keep_their_order():
    small = downscale(draw_number(9, 960, 640), (64, 96))

    assert small[-4, -4].tolist() == [200, 40, 40]
    assert read_number(small) == 9


@pytest.mark.parametrize("size", [(64, 96), (48, 100), (30, 31)])
def test_another_aspect_ratio_is_resized(size):
    """A video may change its resolution: all frames leave in the size of the first."""
    small = downscale(draw_number(77, 300, 200), size)

    assert small.shape == (*size, 3)
    assert read_number(small) == 77


def test_a_smaller_image_is_enlarged():
    assert read_number(downscale(draw_number(77, 48, 32), (64, 96))) == 77


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(1, 60))
def test_a_uniform_colour_is_unchanged_at_any_size(height, width, to_height, to_width):
    small = downscale(np.full((height, width, 3), 91, np.uint8), (to_height, to_width))

    assert small.shape == (to_height, to_width, 3)
    assert (small == 91).all()


@given(height=st.integers(1, 300), width=st.integers(1, 300), side=st.integers(1, 64))
def test_any_image_is_resized_to_the_decoded_size(height, width, side):
    geometry = Geometry(side, side)
    size = decoded_size(height, width, geometry)

    assert downscale(np.zeros((height, width, 3), np.uint8), size).shape == (*size, 3)
