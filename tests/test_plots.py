"""Pictures are drawn without a display, and written whole or not at all."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.plots import new_figure, plot_learning, save_figure


def test_learning_curves_are_side_by_side(tmp_path):
    path = tmp_path / "new" / "learning.png"

    plot_learning([("loss", [3, 2, 1], [3, 2.5, None]), ("clipped", [1, 0.5, 0], [])], 2, path)

    with Image.open(path) as picture:
        assert picture.format == "PNG"
        width, height = picture.size
        assert width > 2 * height
        assert np.asarray(picture.convert("L")).std() > 5
    assert [p.name for p in path.parent.iterdir()] == ["learning.png"]


@pytest.mark.parametrize("held_back", [[], [None], [0.5]])
def test_one_epoch_is_seen(held_back, tmp_path):
    plot_learning([("loss", [1.0], held_back)], 1, tmp_path / "one.png")

    with Image.open(tmp_path / "one.png") as picture:
        blue = np.all(np.asarray(picture.convert("RGB")) == (31, 119, 180), axis=2)
    assert blue.any()


def test_a_figure_belongs_to_no_window(tmp_path):
    import matplotlib as mpl

    before = mpl.get_backend(auto_select=False)
    save_figure(new_figure(1, 1), tmp_path / "empty.png")

    assert mpl.get_backend(auto_select=False) == before
