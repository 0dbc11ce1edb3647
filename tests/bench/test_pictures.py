"""What the pictures of a bench show."""

from __future__ import annotations

from dataclasses import replace

import matplotlib.image
import pytest

from pipeline.bench.pictures import bars_of, plot_memory, plot_rates
from tests.bench.test_rates import FOUND


def test_parts_are_ordered_and_the_whole_comes_last():
    assert list(bars_of(FOUND)) == [
        "decode: decord, all cores",
        "decode: opencv, all cores",
        "decode: decord, 1 core",
        "decode: opencv, 1 core",
        "engine: torch on cpu, float32",
        "floor",
        "run",
        "naive loop",
    ]


def test_bars_are_sampled_frames_a_second():
    bars = bars_of(replace(FOUND, decoded=3000, naive=None))

    assert bars["decode: decord, all cores"] == 200  # of 600 decoded
    assert bars["engine: torch on cpu, float32"] == 40
    assert bars["run"] == 120
    assert "naive loop" not in bars


def test_every_group_has_its_panel(tmp_path):
    one = {"floor": 150.0, "run": 120.0}
    plot_rates({"a $ name": one}, tmp_path / "one.png")
    plot_rates({"a": one, "b": one | {"naive loop": 3.0}}, tmp_path / "two.png")

    low, high = (matplotlib.image.imread(tmp_path / f"{name}.png") for name in ("one", "two"))
    assert low.shape[1] == high.shape[1]
    assert high.shape[0] > 1.5 * low.shape[0]


@pytest.mark.parametrize("peak", [0.5, 5.0])
def test_memory_is_drawn_below_and_above_its_limit(tmp_path, peak):
    plot_memory([0.0, 1.0, 2.0], [0.2, peak, 0.3], 2.0, tmp_path / "memory.png")

    picture = matplotlib.image.imread(tmp_path / "memory.png")
    red = (picture[..., 0] > 0.7) & (picture[..., 1] < 0.4) & (picture[..., 2] < 0.4)
    assert red.any()
