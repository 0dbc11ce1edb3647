"""Plots need no display, and are written atomically."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.results.plots import new_figure, plot_training, save_figure


def test_training_curves_are_side_by_side(tmp_path):
    path = tmp_path / "new" / "training.png"

    plot_training([("loss", [3, 2, 1], [3, 2.5, None]), ("clipped", [1, 0.5, 0], [])], 2, path)

    with Image.open(path) as picture:
        assert picture.format == "PNG"
        width, height = picture.size
        assert width > 2 * height
        assert np.asarray(picture.convert("L")).std() > 5
    assert [p.name for p in path.parent.iterdir()] == ["training.png"]


@pytest.mark.parametrize("validation", [[], [None], [0.5]])
def test_a_single_epoch_is_visible(validation, tmp_path):
    plot_training([("loss", [1.0], validation)], 1, tmp_path / "one.png")

    with Image.open(tmp_path / "one.png") as picture:
        blue = np.all(np.asarray(picture.convert("RGB")) == (31, 119, 180), axis=2)
    assert blue.any()


def test_a_figure_leaves_the_backend_unchanged(tmp_path):
    import matplotlib as mpl

    before = mpl.get_backend(auto_select=False)
    save_figure(new_figure(1, 1), tmp_path / "empty.png")

    assert mpl.get_backend(auto_select=False) == before
