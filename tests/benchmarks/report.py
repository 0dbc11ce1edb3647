"""
The report of many clips in a browser: its size, and the time until it is ready, filtered, sorted.

    python -m tests.benchmarks.report [CLIPS]

Needs Chromium. Times are those of the script in the page, without the start of the browser.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.results.report import write_report
from pipeline.results.schemas import SCHEMAS
from pipeline.results.tables import write_run
from pipeline.storage import write_table
from tests.system.browser import open_browser

LABELS = [f"label {number}" for number in range(9)]
CLIPS_PER_VIDEO = 20
CONFIG_ID = "0123456789abcdef"
ACTIONS = {
    "search": "explorer.state.search = 'camera_03'",
    "label": "explorer.state.search = ''; explorer.state.labels = new Set(['label 3'])",
    "score": "explorer.state.labels = new Set(); explorer.state.score = [0.5, 0.8]",
    "sort by score": "explorer.state.score = [0, 1]; explorer.state.sort = 'least'",
    "sort by novelty": "explorer.state.sort = 'novel'",
    "sort by name": "explorer.state.sort = 'name'",
    "videos": "explorer.state.sort = 'found'; explorer.state.view = 'videos'",
}


def write_results(out, num_clips):
    """Write the tables of synthetic clips: random names, labels, scores and novelty."""
    rng = np.random.default_rng(0)
    tables = {"videos": [], "clips": [], "segments": []}
    for video in range(num_clips // CLIPS_PER_VIDEO):
        name = f"camera_{video % 7:02}/2026-{video % 12 + 1:02}/{rng.integers(10**9):09}.mp4"
        key = {"video": name, "video_id": f"{video:032x}"}
        report = {
            "status": "ok",
            "duration_seconds": 2.0 * CLIPS_PER_VIDEO,
            "path": f"/data/{name}",
        }
        tables["videos"].append({**key, **report, "frames_decoded": 1000, "decoder": "pyav"})
        for clip in range(CLIPS_PER_VIDEO):
            times = {"start_seconds": 2.0 * clip, "end_seconds": 2.0 * clip + 2.0}
            label = {"label": LABELS[rng.integers(9)], "score": rng.beta(5, 2)}
            tables["clips"].append({**key, **times, **label, "novelty": rng.gamma(2.0)})
            if clip % 2:
                tables["segments"].append({**key, **times, **label, "shot_index": clip // 4})
    for name, rows in tables.items():
        path = out / name / f"part-{CONFIG_ID}-0.parquet"
        write_table(pa.Table.from_pylist(rows, SCHEMAS[name]), path)
    configuration = {"recognizer": "toy", "labels": LABELS, "sampling": {}, "clips": {}}
    for name in ("backbone", "backbone_weights", "engine", "device", "precision"):
        configuration[name] = "toy"
    run = {"config_id": CONFIG_ID, "configuration": configuration, "finished_at": "today"}
    write_run(out, run)


def main():
    num_clips = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "results")
        write_results(out, num_clips)
        start = time.perf_counter()
        path = write_report(out)
        print(f"written in         {time.perf_counter() - start:8.2f} s")
        print(f"size               {path.stat().st_size / 1e6:8.2f} MB for {num_clips:,} clips")
        with open_browser(Path(folder, "profile")) as page:
            page.open(path, 1440)
            page.wait("document.body.dataset.ready === 'true'", seconds=120)
            print(f"ready after        {page.evaluate('explorer.readyMilliseconds'):8.0f} ms")
            for name, action in ACTIONS.items():
                took = page.evaluate(
                    f"(() => {{ const start = performance.now(); {action}; explorer.update(); "
                    "return performance.now() - start })()"
                )
                print(f"{name:<18} {took:8.0f} ms")
            count = page.evaluate("document.querySelectorAll('*').length")
            print(f"elements           {count:8}")


if __name__ == "__main__":
    main()
