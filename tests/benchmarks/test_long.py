"""The memory of a long run is plotted, and its rows are compared."""

from __future__ import annotations

import cv2
import pytest

from tests.benchmarks.long import LIMIT_GIB, measure_long, plot_memory


def test_memory_is_plotted_over_time(tmp_path):
    plot_memory([0.0, 1.0, 2.0], [0.1, 0.9, 1.0], 2.0, tmp_path / "memory.png")
    image = cv2.imread(str(tmp_path / "memory.png"))

    assert (image.std((0, 1)) > 5).all()


@pytest.mark.slow
def test_a_long_video_has_the_rows_of_an_undivided_run(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    found = measure_long(0.02, tmp_path, tmp_path / "memory.png")

    assert found["rows"]["equal"] is True
    assert 0 < found["peak_gib"] < LIMIT_GIB
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")
