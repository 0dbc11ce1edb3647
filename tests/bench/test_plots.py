"""Plots of measured rates."""

from __future__ import annotations

import cv2

from pipeline.bench import plots
from pipeline.bench.plots import bars_of, plot_rates
from tests.bench.test_rates import FOUND


def test_bars_are_in_sampled_frames_and_end_with_bound_and_run():
    bars = bars_of(FOUND)

    assert list(bars) == [
        "decode: decord, all cores",
        "decode: pyav, all cores",
        "decode: decord, 1 core",
        "decode: pyav, 1 core",
        "engine: openvino on cpu, float32",
        "bound",
        "run",
    ]
    assert bars["decode: decord, all cores"] == 400
    assert (bars["bound"], bars["run"]) == (FOUND.bound, 72)


def test_each_group_has_a_panel(tmp_path):
    plot_rates({"a": bars_of(FOUND)}, tmp_path / "one.png")
    plot_rates({"a": bars_of(FOUND), "$b": bars_of(FOUND)}, tmp_path / "two.png")
    one, two = (cv2.imread(str(tmp_path / name)) for name in ("one.png", "two.png"))

    assert two.shape[0] == 2 * one.shape[0]
    assert one.shape[1] == two.shape[1]


def test_bars_are_labelled_with_formatted_rates(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, _: drawn.append(figure))
    plot_rates({"a": {"run": 1.84, "engine": 0.0213, "decode": 1600}}, tmp_path / "a.png")

    labels = [text.get_text() for text in drawn[0].axes[0].texts]
    assert labels == ["1.8", "0.021", "1,600"]
