"""Rows of toy videos, as a run writes them."""

from __future__ import annotations

import numpy as np

from pipeline.encode.shot_store import Shots, Transition
from pipeline.recognition.predictions import ClipPrediction, LabelSegment, Recognition
from pipeline.records import DecodeReport, Video
from pipeline.results.rows import RowOptions, VideoRows
from pipeline.results.tables import write_run

LABELS = ("left", "right", "still")
OPTIONS = RowOptions(LABELS, "toy", "0123456789abcdef")
FULL = RowOptions(LABELS, "toy", "0123456789abcdef", frames=True, embeddings=True, shots=True)


def video(name, video_id=None, copies=()):
    return Video(name, f"/videos/{name}", "file", video_id or f"id-{name}", 1000, copies=copies)


def recognition(video_id, clips=2):
    """Clips of one second with 4 frames each; clip n has label n % 3."""
    result = Recognition(video_id)
    for number in range(clips):
        probabilities = np.full(3, 0.25, np.float32)
        probabilities[number % 3] = 0.5
        embedding = np.full(2, number, np.float32)
        result.clips.append(
            ClipPrediction(
                0, number, number + 1.0, 4, probabilities, int(probabilities.argmax()), embedding
            )
        )
        result.segments.append(LabelSegment(0, number, number + 1.0, number % 3, 0.5))
    count = 4 * clips
    result.sample_index.append(np.arange(count))
    result.frame_index.append(np.arange(count) * 2)
    result.pts_seconds.append(np.arange(count) / 4)
    result.shots.append(np.zeros(count, np.int64))
    result.labels.append(np.array([-1] + [0] * (count - 1)))
    result.scores.append(np.full(count, 0.5, np.float32))
    return result


def good(name, clips=2, **given):
    source = video(name, **given)
    report = DecodeReport("ok", decoder="pyav", width=96, duration_seconds=clips, frames_decoded=30)
    shots = Shots((Transition(3, 0.75, "cut", 0.9),))
    return VideoRows(source, report, recognition(source.video_id, clips), shots)


def bad(name, status="not_video"):
    report = DecodeReport(status, "no video container", attempts=("decord: no", "opencv: no"))
    return VideoRows(video(name), report, None)


def finish(out, options=OPTIONS):
    """Write `run.json` of a finished run, which `load` needs."""
    write_run(out, {"config_id": options.config_id, "configuration": {"labels": list(LABELS)}})
