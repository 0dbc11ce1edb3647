"""
The report of a run: one HTML file in which every clip can be searched, filtered and sorted.

Its script (`templates/explorer/*.js`) reads the columns that are embedded in the page. The page
loads nothing, and its Content-Security-Policy allows no other script.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.records import STATUSES
from pipeline.results.html import COLOURS, read_scripts, render_page
from pipeline.results.packed_columns import PackedNumbers, PackedTexts
from pipeline.results.tables import read_run, read_shards
from pipeline.storage import write_text

MAX_ROWS = 500_000
"""Clips, segments or videos in the page; further ones are in the tables only."""
TICKS_PER_SECOND = 10_000
"""Unit of the times in the page."""
SCORE_STEPS = 10_000
"""Unit of the scores in the page."""
NO_LABEL = 0xFFFF
"""Index of the label of clips without a label."""
COLUMNS = {
    "videos": (
        *("video", "video_id", "path", "status", "error", "duration_seconds"),
        *("frames_decoded", "decoder"),
    ),
    "clips": ("video", "video_id", "start_seconds", "end_seconds", "label", "score", "novelty"),
    "segments": (
        *("video", "video_id", "shot_index", "start_seconds", "end_seconds"),
        *("label", "score"),
    ),
}
"""Columns that the report reads."""
SCRIPTS = (
    *("elements", "data", "selection", "timeline", "list", "filters", "player", "details"),
    "explorer",
)
"""Files of `templates/explorer`, in the order in which they are joined to one script."""


def write_report(out: Path) -> Path:
    """
    Write `OUT/report.html` from the results of the newest run.

    Reads one shard at a time; only compressed columns stay in memory.

    Returns:
        The path of the page.
    """
    run = read_run(out)
    contents = Contents(run["configuration"]["labels"], MAX_ROWS)
    for shard in read_shards(out, run["config_id"], COLUMNS):
        contents.add(shard)
    path = out / "report.html"
    write_text(render_report(out.name, run, contents), path)
    return path


def render_report(
    title: str, run: Mapping[str, Any], contents: Contents, *, served: bool = False
) -> str:
    """
    Render the page.

    Args:
        title: of the page.
        run: the content of `run.json`.
        contents: the rows.
        served: whether the page asks its server for images and videos.
    """
    configuration = run["configuration"]
    return render_page(
        "run.html.j2",
        styles=("style.css", "explorer/explorer.css"),
        script=read_scripts("explorer", SCRIPTS),
        served=served,
        title=title,
        recognizer=configuration["recognizer"],
        finished_at=run["finished_at"],
        contents=contents,
        label_rows=contents.label_rows(),
        statuses={name: STATUSES.get(name, "") for name in sorted(contents.num_videos_by_status)},
        data={**contents.as_json(), "served": served},
        facts=_facts(run),
    )


class Contents:
    """
    The columns of the page and its totals, added up shard by shard.

    Args:
        labels: of the recognizer.
        max_rows: clips, segments or videos in the page; None for all.
    """

    def __init__(self, labels: Sequence[str], max_rows: int | None = None) -> None:
        self.labels = list(labels)
        self.max_rows = sys.maxsize if max_rows is None else max_rows
        self._label_index = pa.array(self.labels, pa.string())
        self.num_videos = self.num_clips = self.num_segments = 0
        self.duration_seconds = 0.0
        self.num_videos_by_status: dict[str, int] = {}
        self.clips_by_label = np.zeros(len(self.labels), np.int64)
        self._score_sums = np.zeros(len(self.labels))
        self._videos: dict[str, Any] = {
            "name": PackedTexts(),
            "path": PackedTexts(),
            "status": PackedTexts(),
            "error": PackedTexts(),
            "decoder": PackedTexts(),
            "duration": PackedNumbers("Uint32Array"),
            "frames": PackedNumbers("Uint32Array"),
        }
        self._clips: dict[str, Any] = {**_range_columns(), "novelty": PackedNumbers("Float32Array")}
        self._segments: dict[str, Any] = {**_range_columns(), "shot": PackedNumbers("Uint8Array")}
        self._has_novelty = False

    @property
    def num_failures(self) -> int:
        """Videos that are not `ok`."""
        return self.num_videos - self.num_videos_by_status.get("ok", 0)

    @property
    def num_left_out(self) -> dict[str, int]:
        """Rows that the page does not hold, by table."""
        totals = {"videos": self.num_videos, "clips": self.num_clips, "segments": self.num_segments}
        return {
            name: total - self.max_rows for name, total in totals.items() if total > self.max_rows
        }

    def add(self, shard: Mapping[str, pa.Table]) -> None:
        """Add the rows of one shard."""
        first = self.num_videos
        videos = shard["videos"]
        # two lists of sources may give two videos the same name
        keys = zip(videos["video"].to_pylist(), videos["video_id"].to_pylist(), strict=True)
        index = {key: first + number for number, key in enumerate(keys)}
        self._add_videos(videos)
        self._add_clips(shard["clips"], index)
        self._add_segments(shard["segments"], index)

    def _add_videos(self, videos: pa.Table) -> None:
        self.duration_seconds += pc.sum(videos["duration_seconds"]).as_py() or 0.0
        for status in videos["status"].to_pylist():
            self.num_videos_by_status[status] = self.num_videos_by_status.get(status, 0) + 1
        kept = videos.slice(0, max(0, self.max_rows - self.num_videos))
        self.num_videos += len(videos)
        self._videos["name"].add(kept["video"].to_pylist())
        for column in ("path", "status", "error", "decoder"):
            self._videos[column].add(text or "" for text in kept[column].to_pylist())
        self._videos["duration"].add(_ticks(kept["duration_seconds"]))
        self._videos["frames"].add(pc.fill_null(kept["frames_decoded"], 0).to_numpy())

    def _add_clips(self, clips: pa.Table, index: Mapping[tuple[str, str], int]) -> None:
        labels = self._indices_of_labels(clips)
        known = labels != NO_LABEL
        scores = clips["score"].to_numpy()
        size = len(self.labels)
        self.clips_by_label += np.bincount(labels[known], minlength=size)
        self._score_sums += np.bincount(labels[known], weights=scores[known], minlength=size)
        kept = max(0, self.max_rows - self.num_clips)
        self.num_clips += len(clips)
        clips, labels = clips.slice(0, kept), labels[:kept]
        _add_ranges(self._clips, clips, labels, index)
        novelty = clips["novelty"].to_numpy().astype(np.float32)
        self._has_novelty |= bool(np.isfinite(novelty).any())
        self._clips["novelty"].add(novelty)

    def _add_segments(self, segments: pa.Table, index: Mapping[tuple[str, str], int]) -> None:
        kept = segments.slice(0, max(0, self.max_rows - self.num_segments))
        self.num_segments += len(segments)
        _add_ranges(self._segments, kept, self._indices_of_labels(kept), index)
        # the script only needs to know where the shot changes
        self._segments["shot"].add(pc.fill_null(kept["shot_index"], 0).to_numpy() % 256)

    def _indices_of_labels(self, table: pa.Table) -> NDArray[np.int64]:
        """Return the index of the label of each row, (n,)."""
        found = pc.index_in(table["label"], self._label_index)
        indices: NDArray[np.int64] = pc.fill_null(found, NO_LABEL).to_numpy().astype(np.int64)
        return indices

    def label_rows(self) -> list[dict[str, Any]]:
        """Summarize the clips of each label that occurs, in the order of the recognizer."""
        counts = self.clips_by_label.tolist()
        return [
            {"label": label, "clips": counts[number], "score": self._score_sums[number] / count}
            for number, label in enumerate(self.labels)
            if (count := counts[number])
        ]

    def as_json(self) -> dict[str, Any]:
        """Return the data of the page."""
        tables = {"videos": self._videos, "clips": self._clips, "segments": self._segments}
        if not self._has_novelty:
            self._clips.pop("novelty", None)
        return {
            "labels": self.labels,
            "colours": list(COLOURS),
            "statuses": STATUSES,
            "ticksPerSecond": TICKS_PER_SECOND,
            "scoreSteps": SCORE_STEPS,
            "noLabel": NO_LABEL,
            "tables": {
                table: {name: column.finish() for name, column in columns.items()}
                for table, columns in tables.items()
            },
        }


def _range_columns() -> dict[str, Any]:
    """Make the columns that clips and segments share."""
    return {
        "video": PackedNumbers("Uint32Array", differences=True),
        "start": PackedNumbers("Uint32Array", differences=True),
        "length": PackedNumbers("Uint32Array", differences=True),
        "label": PackedNumbers("Uint16Array"),
        "score": PackedNumbers("Uint16Array"),
    }


def _add_ranges(
    columns: Mapping[str, Any],
    rows: pa.Table,
    labels: NDArray[np.int64],
    index: Mapping[tuple[str, str], int],
) -> None:
    """Add the rows of clips or segments to their columns."""
    videos = zip(rows["video"].to_pylist(), rows["video_id"].to_pylist(), strict=True)
    start, end = _ticks(rows["start_seconds"]), _ticks(rows["end_seconds"])
    score = np.nan_to_num(rows["score"].to_numpy().astype(np.float64))
    columns["video"].add([index[key] for key in videos])
    columns["start"].add(start)
    columns["length"].add(np.maximum(end - start, 0))
    columns["label"].add(labels)
    columns["score"].add(np.rint(np.clip(score, 0, 1) * SCORE_STEPS))


def _ticks(seconds: pa.ChunkedArray) -> NDArray[np.int64]:
    """Convert times to ticks, (n,)."""
    values = pc.fill_null(seconds, 0.0).to_numpy()
    ticks: NDArray[np.int64] = np.rint(values * TICKS_PER_SECOND).clip(0, 2**32 - 1)
    return ticks.astype(np.int64)


def _facts(run: Mapping[str, Any]) -> dict[str, Any]:
    configuration = run["configuration"]
    return {
        "configuration id": run["config_id"],
        "sampling": configuration["sampling"],
        "clips": configuration["clips"],
        "backbone": configuration["backbone"],
        "backbone weights": configuration["backbone_weights"],
        "engine": f"{configuration['engine']} on {configuration['device']}, "
        f"{configuration['precision']}",
    }
