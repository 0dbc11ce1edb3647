"""Hold the rows of two runs against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.results.tables import load

MADE_BY = ["recognizer", "config_id"]
ORDER = {"clips": "clip_index", "segments": "segment_index"}


def compare_rows(one: Path, other: Path) -> dict[str, Any]:
    """
    Compare clips and segments of the newest runs in two results folders.

    Returns:
        Rows of each table, whether everything but scores is equal, and by how much scores differ.
    """
    said: dict[str, Any] = {"equal": True, "score_difference": 0.0}
    for table, index in ORDER.items():
        a, b = (load(out, table).sort_values(["video_id", index]) for out in (one, other))
        said[table] = len(a)
        scores = ["score", "scores", "embedding"]
        plain = [name for name in a.columns if name not in (*MADE_BY, *scores)]
        same = len(a) == len(b) and a[plain].reset_index(drop=True).equals(
            b[plain].reset_index(drop=True)
        )
        said["equal"] = said["equal"] and bool(same)
        if len(a) == len(b) and len(a):
            gap = float(np.abs(a["score"].to_numpy() - b["score"].to_numpy()).max())
            said["score_difference"] = max(said["score_difference"], gap)
    return said
