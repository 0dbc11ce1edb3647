"""The report of a run over toy videos, with hostile names."""

from __future__ import annotations

import numpy as np

from pipeline.recognition.predictions import ClipPrediction, LabelSegment, Recognition
from pipeline.records import DecodeReport, Video
from pipeline.results.report import write_report
from pipeline.results.rows import RowOptions, VideoRows
from pipeline.results.tables import write_rows, write_run

EVIL = '<script>alert(\'"&x")</script>'
LABELS = ("pan left", "still", f"zoom {EVIL}")


def labelled(name, labels, seconds=1.0, video_id=None):
    """A video with one clip and one segment per label."""
    video_id = video_id or f"id-{name}"
    result = Recognition(video_id)
    for number, label in enumerate(labels):
        probabilities = np.full(3, 0.1, np.float32)
        probabilities[label] = 0.8
        start, end = number * seconds, (number + 1) * seconds
        result.clips.append(
            ClipPrediction(0, start, end, 8, probabilities, label, np.zeros(2, np.float32))
        )
        result.segments.append(LabelSegment(0, start, end, label, 0.8))
    duration = seconds * len(labels)
    report = DecodeReport("ok", duration_seconds=duration, frames_decoded=30)
    return VideoRows(Video(name, f"/v/{name}", "file", video_id, 9), report, result)


def failed(name, status="not_video", error="no video container", frames=0):
    report = DecodeReport(status, error, frames_decoded=frames)
    return VideoRows(Video(name, f"/v/{name}", "file", f"id-{name}", 9), report, None)


def write_example(out, rows, labels=LABELS, embeddings=False):
    """Write the tables, `run.json` and the report of a run. Returns the path of the report."""
    recognizer = "toy" if labels else ""
    options = RowOptions(labels, recognizer, "0123456789abcdef", embeddings=embeddings)
    if rows:
        write_rows(out, rows, options)
    configuration = {
        "recognizer": "toy" if labels else None,
        "labels": list(labels),
        "sampling": {"fps": 8, "every": None},
        "clips": {"seconds": 1.0, "stride_seconds": None},
        "backbone": f"net {EVIL}",
        "backbone_weights": "feed",
        "engine": "torch",
        "device": "cpu",
        "precision": "float32",
    }
    write_run(
        out,
        {
            "config_id": options.config_id,
            "configuration": configuration,
            "finished_at": "2026-01-02T03:04:05+00:00",
        },
    )
    return write_report(out)


MIXED = [
    labelled("a.mp4", [0, 0, 1]),
    labelled("b.mp4", [1]),
    failed("text.mp4"),
    failed("cut.mp4", "partial", "the header claims 60 frames", 1234),
]
