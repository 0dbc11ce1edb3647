"""`clipline cells` as a user runs it."""

from __future__ import annotations

import pandas as pd


def test_cells_are_compared(clipline, tmp_path):
    ended = clipline(
        *("cells", "-o", tmp_path, "--lag", "9", "--sequences", "32", "--epochs", "1"),
        *("--steps", "256"),
    )

    assert ended.code == 0, ended.err
    assert "mingru\ttrained" in ended.out
    assert "times as fast as gru" in ended.out
    assert "maximum difference" in ended.out
    assert len(pd.read_parquet(tmp_path / "lags.parquet")) == 6 * 2 * 10
