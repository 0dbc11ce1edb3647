"""Results of videos in several formats; the frames show their numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.records import DecodeReport
from tests.results.example_report import labelled, write_example
from tests.videos import turn, write_images, write_video

FPS = 30
SIZE = (192, 128)
CLIP_SECONDS = 1.0


def write_sources(folder: Path) -> dict[str, Path]:
    """Write two seconds of video in each format."""
    folder.mkdir()
    turned = turn(write_video(folder / "turned.mp4", 2 * FPS, size=SIZE), (0, 1, -1, 0))
    prores = {"codec": "prores_ks", "pixel_format": "yuv422p10le"}
    mpeg4 = {"codec": "mpeg4", "options": {"qscale": "2", "flags": "qscale"}}
    return {
        "h264": write_video(folder / "h264.mp4", 2 * FPS, size=SIZE),
        "avi": write_video(folder / "old.avi", 2 * FPS, size=SIZE, **mpeg4),
        "prores": write_video(folder / "prores.mov", 2 * FPS, size=SIZE, **prores),
        "images": write_images(folder / "images", range(2 * FPS), size=SIZE),
        "turned": turned,
    }


def write_results(out: Path, sources: dict[str, Path]) -> Path:
    """Write the results of two clips a video, with embeddings that pair them by label."""
    rows = []
    for path in sources.values():
        row = labelled(path.name, [0, 1], seconds=CLIP_SECONDS)
        report = DecodeReport("ok", duration_seconds=2.0, frames_decoded=2 * FPS, frame_rate=FPS)
        clips = row.recognition.clips
        for number, clip in enumerate(clips):
            vector = np.array([1.0, number], np.float32)
            clips[number] = replace(clip, embedding=vector)
        rows.append(replace(row, video=replace(row.video, location=str(path)), report=report))
    write_example(out, rows, embeddings=True)
    return out
