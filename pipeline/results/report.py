"""The report of a run as an HTML page: labels, segments of each video, failures, configuration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.records import STATUSES
from pipeline.results.html import label_colours, write_page
from pipeline.results.tables import read_run, read_shards

MAX_VIDEOS = 200
"""Rows of each list of videos; the tables hold all of them."""
TIMELINE_WIDTH = 1000
"""Width of a timeline in SVG units."""
COLUMNS = {
    "videos": ("video", "video_id", "status", "error", "duration_seconds", "frames_decoded"),
    "clips": ("label", "score"),
    "segments": (
        *("video", "video_id", "shot_index", "start_seconds", "end_seconds"),
        *("label", "score"),
    ),
}
"""Columns that the report reads."""

Row = Mapping[str, Any]


def write_report(out: Path) -> Path:
    """
    Write `OUT/report.html` from the results of the newest run.

    Reads one shard at a time; memory does not grow with their number.

    Returns:
        The path of the page.
    """
    run = read_run(out)
    configuration = run["configuration"]
    contents = _Contents()
    for shard in read_shards(out, run["config_id"], COLUMNS):
        contents.add(shard)
    return write_page(
        "run.html.j2",
        out / "report.html",
        title=out.name,
        recognizer=configuration["recognizer"],
        finished_at=run["finished_at"],
        contents=contents,
        label_counts=contents.label_counts(configuration["labels"]),
        colours=label_colours(configuration["labels"]),
        statuses=STATUSES,
        facts=_facts(run),
    )


@dataclass(frozen=True, slots=True)
class _Box:
    """One segment of a timeline, in SVG units."""

    x: float
    width: float
    label: str
    tooltip: str
    starts_shot: bool


@dataclass(frozen=True, slots=True)
class _Timeline:
    """The segments of one video."""

    video: str
    duration_seconds: float
    boxes: list[_Box]


@dataclass(frozen=True, slots=True)
class _LabelCount:
    """Clips of one label."""

    label: str
    num_clips: int
    percent_of_largest: float
    mean_score: float


@dataclass
class _Contents:
    """What the report shows of the tables, added up shard by shard."""

    num_videos: int = 0
    duration_seconds: float = 0.0
    num_clips: int = 0
    clips_by_label: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    scores_by_label: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Sums."""
    num_failures: int = 0
    failures: list[Row] = field(default_factory=list)
    """The first `MAX_VIDEOS` rows of `videos` whose status is not ok."""
    failure_statuses: set[str] = field(default_factory=set)
    num_timelines: int = 0
    timelines: list[_Timeline] = field(default_factory=list)
    """Of the first `MAX_VIDEOS` videos that have segments."""

    def add(self, shard: Mapping[str, pa.Table]) -> None:
        """Add the rows of one shard."""
        self._add_clips(shard["clips"])
        self._add_videos(shard["videos"])
        self._add_timelines(shard["videos"], shard["segments"])

    def _add_clips(self, clips: pa.Table) -> None:
        self.num_clips += len(clips)
        groups = clips.group_by("label").aggregate([("score", "count"), ("score", "sum")])
        for row in groups.to_pylist():
            self.clips_by_label[row["label"]] += row["score_count"]
            self.scores_by_label[row["label"]] += row["score_sum"]

    def _add_videos(self, videos: pa.Table) -> None:
        self.num_videos += len(videos)
        self.duration_seconds += pc.sum(videos["duration_seconds"]).as_py() or 0.0
        failures = videos.filter(pc.not_equal(videos["status"], "ok"))
        self.num_failures += len(failures)
        self.failure_statuses.update(pc.unique(failures["status"]).to_pylist())
        self.failures += failures.slice(0, MAX_VIDEOS - len(self.failures)).to_pylist()

    def _add_timelines(self, videos: pa.Table, segments: pa.Table) -> None:
        # two source lists may give two videos the same name
        keys = ["video", "video_id"]
        self.num_timelines += len(segments.group_by(keys).aggregate([]))
        if len(self.timelines) == MAX_VIDEOS:
            return
        by_video = defaultdict(list)
        for segment in segments.to_pylist():
            by_video[segment["video"], segment["video_id"]].append(segment)
        for video in videos.to_pylist():
            found = by_video.get((video["video"], video["video_id"]))
            if found and len(self.timelines) < MAX_VIDEOS:
                self.timelines.append(_timeline(video, found))

    def label_counts(self, labels: Sequence[str]) -> list[_LabelCount]:
        """Summarize the clips of each label that occurs, in the order of the recognizer."""
        largest = max(self.clips_by_label.values(), default=0)
        return [
            _LabelCount(
                label,
                count,
                max(0.5, 100 * count / largest),
                self.scores_by_label[label] / count,
            )
            for label in labels
            if (count := self.clips_by_label.get(label, 0))
        ]


def _timeline(video: Row, segments: Sequence[Row]) -> _Timeline:
    duration = max(video["duration_seconds"] or segments[-1]["end_seconds"], 1e-6)
    boxes, shot = [], 0
    for segment in segments:
        start, end = segment["start_seconds"], segment["end_seconds"]
        x = TIMELINE_WIDTH * start / duration
        boxes.append(
            _Box(
                x,
                max(1.0, TIMELINE_WIDTH * end / duration - x),
                segment["label"],
                f"{start:.2f}–{end:.2f} s {segment['label']} ({segment['score']:.2f})",
                segment["shot_index"] != shot,
            )
        )
        shot = segment["shot_index"]
    return _Timeline(video["video"], duration, boxes)


def _facts(run: Row) -> dict[str, Any]:
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
