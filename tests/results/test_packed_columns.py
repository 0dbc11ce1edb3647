from __future__ import annotations

import numpy as np
import pytest

from pipeline.results.packed_columns import PackedNumbers, PackedTexts, round_mantissa
from tests.results.read_page import read_column


@pytest.mark.parametrize("differences", [False, True])
@pytest.mark.parametrize(
    ("array", "greatest"), [("Uint8Array", 255), ("Uint16Array", 65535), ("Uint32Array", 2**32 - 1)]
)
def test_integers_are_kept(array, greatest, differences):
    values = np.random.default_rng(0).integers(0, greatest, 1000, endpoint=True)
    column = PackedNumbers(array, differences=differences)

    column.add(values[:1])
    column.add([])
    column.add(values[1:])

    assert (read_column(column.finish()) == values).all()


def test_floats_keep_three_digits_and_missing_values():
    values = np.array([0.0, 1.0, -1234.56, 3e-7, 9e30, np.nan, np.inf], np.float32)
    column = PackedNumbers("Float32Array")

    column.add(values)

    np.testing.assert_allclose(read_column(column.finish()), values, rtol=1 / 4096)


def test_rounded_floats_are_smaller():
    values = np.random.default_rng(0).random(10_000).astype(np.float32)

    rounded, whole = PackedNumbers("Float32Array"), PackedNumbers("Uint32Array")
    rounded.add(values)
    whole.add(values.view(np.uint32))

    assert len(rounded.finish()["data"]) < 0.8 * len(whole.finish()["data"])
    assert (round_mantissa(values).view(np.uint32) % 2048 == 0).all()


@pytest.mark.parametrize("texts", [[], [""], ["", ""], ["a", "<b>\n", "ü", "", "\N{BELL}"]])
def test_texts_are_kept(texts):
    column = PackedTexts()

    column.add(texts[:1])
    column.add(texts[1:])

    assert read_column(column.finish()) == texts


def test_texts_that_cannot_be_stored_are_replaced():
    column = PackedTexts()

    column.add(["a\0b", "\ud800"])

    assert read_column(column.finish()) == ["a\N{REPLACEMENT CHARACTER}b", "?"]
