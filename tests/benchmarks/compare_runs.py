"""
Compare the rows of the newest runs in two results folders.

    python -m tests.benchmarks.compare_runs OUT OTHER [--json]

Exit code 1 if anything but scores differs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.results.tables import load
from tests.benchmarks.output import make_parser, print_values

ID_COLUMNS = ["recognizer", "config_id"]
SCORE_COLUMNS = ["score", "scores", "embedding"]
INDEX_COLUMNS = {"clips": "clip_index", "segments": "segment_index"}
"""Tables that are compared, and the columns that number their rows."""


def compare_runs(one: Path, other: Path) -> dict[str, Any]:
    """
    Compare clips and segments.

    Returns:
        Rows of each table, whether all columns but scores are equal, and the largest difference of
        scores.
    """
    found: dict[str, Any] = {"equal": True, "score_difference": 0.0}
    for table, index in INDEX_COLUMNS.items():
        a, b = (load(out, table).sort_values(["video_id", index]) for out in (one, other))
        found[table] = len(a)
        names = [name for name in a.columns if name not in (*ID_COLUMNS, *SCORE_COLUMNS)]
        same = len(a) == len(b) and a[names].reset_index(drop=True).equals(
            b[names].reset_index(drop=True)
        )
        found["equal"] = found["equal"] and bool(same)
        if len(a) == len(b) and len(a):
            difference = float(np.abs(a["score"].to_numpy() - b["score"].to_numpy()).max())
            found["score_difference"] = max(found["score_difference"], difference)
    return found


def main() -> None:
    """Compare, and print."""
    parser = make_parser(__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("other", type=Path)
    given = parser.parse_args()
    found = compare_runs(given.out, given.other)
    print_values(found, as_json=given.json)
    sys.exit(0 if found["equal"] else 1)


if __name__ == "__main__":
    main()
