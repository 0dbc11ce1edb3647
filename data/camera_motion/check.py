"""
Evaluate `camera-motion` on real videos with the whole pipeline.

    python -m data.camera_motion.check FOLDER [--static FOLDER]

Windows that move over a frame at several speeds, and random clips joined by cuts, are made of the
videos in FOLDER and encoded as H.264; then the pipeline runs and its results are compared with the
known motion. The videos in the folder of `--static` must be from a static camera: they are used as
they are, and with windows that move over them while they play.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.camera_motion.drawing import LABELS, Image, Pose, view
from pipeline.config import RunOptions
from pipeline.results.tables import load, write_run
from pipeline.run.process import open_session, run
from pipeline.sources.discovery import find_videos

FPS = 25
SIZE = (240, 320)
ASPECT = SIZE[1] / SIZE[0]
SECONDS = 2.0
SPEEDS = {
    "pan": (0.06, 0.12, 0.25, 0.5),
    "tilt": (0.06, 0.12, 0.25, 0.5),
    "zoom": (0.06, 0.12, 0.25, 0.4),
    "roll": (0.06, 0.12, 0.25, 0.5),
    "static": (0.0,),
}
"""Per second: share of the image size or scale, or radians."""
CUT_TOLERANCE_SECONDS = 0.13
"""Cuts are located at the sample after them: up to an eighth of a second."""
SEED = 30_000
MAX_PLAYING = 20
"""Number of playing videos with moving windows."""


def read_frames(path: Path, max_frames: int) -> list[Image]:
    """Read the first frames of a video as RGB."""
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return [
            np.asarray(f.to_ndarray(format="rgb24"), np.uint8)
            for f, _ in zip(frames, range(max_frames), strict=False)
        ]


def write_frames(path: Path, frames: list[Image]) -> None:
    """Encode frames as H.264 at 25 frames/s."""
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS), options={"crf": "23"})
        stream.height, stream.width, stream.pix_fmt = height // 2 * 2, width // 2 * 2, "yuv420p"
        for frame in frames:
            even = np.ascontiguousarray(frame[: stream.height, : stream.width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode())


def moving_window(frames: list[Image], label: int, speed: float) -> list[Image] | None:
    """
    Move a window over frames; a single frame is repeated.

    Returns:
        The images, or None if the frames are too small for the motion.
    """
    count = round(SECONDS * FPS)
    height, width = frames[0].shape[:2]
    way = speed * SECONDS
    kind = LABELS[label].split("_")[0]
    cos, sin = math.cos(way / 2), math.sin(way / 2)
    room = {
        "pan": (1 + way, 1.0),
        "tilt": (1.0, 1 + way),
        "zoom": (math.exp(way), math.exp(way)),
        "roll": (cos + sin / ASPECT, cos + sin * ASPECT),
    }
    across, down = room.get(kind, (1.0, 1.0))
    tall = 0.96 * min(height / down, width / (ASPECT * across))
    if tall < 100:
        return None
    start = Pose(width / 2, height / 2, math.log(tall), 0.0)
    # pans, tilts and rolls are centred in time; a zoom starts at one end of its range
    back = {"zoom": 0.0}.get(kind, -way / 2)
    pose = start.moved(label, back, ASPECT)
    if LABELS[label] == "zoom_in":
        pose = Pose(pose.x, pose.y, math.log(tall * math.exp(way)), 0.0)
    images = []
    for step in range(count):
        frame = frames[min(step, len(frames) - 1)] if len(frames) > 1 else frames[0]
        images.append(view(frame, pose, ASPECT, SIZE))
        pose = pose.moved(label, speed / FPS, ASPECT)
    return images


def make_windows(
    videos: list[Path], folder: Path, *, playing: bool = False
) -> Iterator[dict[str, Any]]:
    """Encode windows that move over the first frame or over a playing video. Yields the truth."""
    for number, path in enumerate(videos):
        frames = read_frames(path, round(SECONDS * FPS) if playing else 1)
        for label, name in enumerate(LABELS):
            speeds = SPEEDS[name.split("_")[0]]
            speed = speeds[(number + label) % len(speeds)]
            images = moving_window(frames, label, speed)
            if images is None:
                continue
            target = folder / f"{number:03}_{name}.mp4"
            write_frames(target, images)
            yield {"file": target.name, "truth": name, "speed": speed}


def make_joined(videos: list[Path], folder: Path, count: int) -> Iterator[dict[str, Any]]:
    """Encode random clips of one size joined by cuts. Yields the times of the cuts."""
    rng = np.random.default_rng(SEED)
    for number in range(count):
        chosen = rng.choice(len(videos), 4, replace=False)
        frames: list[Image] = []
        cuts = []
        for index in chosen:
            shot = read_frames(videos[index], int(rng.integers(20, 70)))
            if frames:
                cuts.append(len(frames) / FPS)
            frames += [_resized(frame) for frame in shot]
        target = folder / f"joined_{number:03}.mp4"
        write_frames(target, frames)
        yield {"file": target.name, "cuts": cuts}


def _resized(frame: Image) -> Image:
    height, width = frame.shape[:2]
    whole = Pose((width - 1) / 2, (height - 1) / 2, math.log(height), 0.0)
    return view(frame, whole, width / height, SIZE)


def recognize(folder: Path, out: Path, recognizer: str) -> dict[str, pd.DataFrame]:
    """Run the pipeline on a folder, and load its tables with file names."""
    with open_session(out, RunOptions(recognizer=recognizer)) as session:
        failures = run(session, find_videos([str(folder)]))
        if failures:
            raise failures[0]
        write_run(out, {"config_id": session.config.config_id, "configuration": session.describe()})
    tables = {name: load(out, name) for name in ("clips", "segments")}
    for table in tables.values():
        table["file"] = table.video.map(lambda path: Path(path).name)
    return tables


def check_windows(truth: pd.DataFrame, clips: pd.DataFrame) -> dict[str, Any]:
    """Compute the accuracy on windows."""
    merged = truth.merge(clips, on="file", validate="one_to_many")
    merged["correct"] = merged.label == merged.truth
    return {
        "windows": len(truth),
        "clips": len(merged),
        "accuracy": float(merged.correct.mean()),
        "by_label": merged.groupby("truth").correct.mean().round(3).to_dict(),
        "by_speed": merged.groupby("speed").correct.mean().round(3).to_dict(),
        "mistaken": _most_frequent_errors(merged[~merged.correct]),
    }


def _most_frequent_errors(wrong: pd.DataFrame) -> dict[str, int]:
    """Count the most frequent confusions."""
    counts = wrong.groupby(["truth", "label"]).size().sort_values(ascending=False)[:8]
    return {f"{truth} as {label}": int(count) for (truth, label), count in counts.items()}


def check_cuts(truth: list[dict[str, Any]], segments: pd.DataFrame) -> dict[str, Any]:
    """Compute precision and recall of cuts."""
    hits = found = made = 0
    for joined in truth:
        here = segments[segments.file == joined["file"]]
        starts = here.groupby("shot_index").start_seconds.min().to_numpy()[1:]
        hits += _count_matches(np.asarray(joined["cuts"]), starts)
        found, made = found + len(starts), made + len(joined["cuts"])
    precision, recall = hits / max(1, found), hits / max(1, made)
    return {
        "cuts": made,
        "precision": precision,
        "recall": recall,
        "f1": 2 * hits / max(1, found + made),
    }


def _count_matches(made: NDArray[np.float64], found: NDArray[np.float64]) -> int:
    left = list(found)
    hits = 0
    for cut in made:
        near = [time for time in left if -0.02 <= time - cut <= CUT_TOLERANCE_SECONDS]
        if near:
            left.remove(near[0])
            hits += 1
    return hits


def main() -> None:
    """Make the videos, run the pipeline, print the metrics."""
    parser = argparse.ArgumentParser(description="Evaluate camera-motion on real videos.")
    parser.add_argument("folder", type=Path, help="videos for windows and joined clips")
    parser.add_argument("--static", type=Path, help="videos of a static camera")
    parser.add_argument("--recognizer", default="camera-motion")
    parser.add_argument("--joined", type=int, default=40, help="number of joined videos")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        measured = check(options, Path(name))
    sys.stdout.write(json.dumps(measured, indent=2) + "\n")


def check(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Compute all metrics, with temporary files in `work`."""
    videos = _paths(options.folder)
    joined = list(make_joined(videos, _make_folder(work / "joined"), options.joined))
    segments = recognize(work / "joined", work / "out-joined", options.recognizer)["segments"]
    measured = {
        "windows": _evaluate_windows(videos, work / "windows", options.recognizer, playing=False),
        "cuts": check_cuts(joined, segments),
    }
    if options.static:
        still = _paths(options.static)
        some = still[:: math.ceil(len(still) / MAX_PLAYING)]
        clips = recognize(options.static, work / "out-static", options.recognizer)["clips"]
        share = float((clips.label == "static").mean())
        measured["playing"] = _evaluate_windows(
            some, work / "playing", options.recognizer, playing=True
        )
        measured["static"] = {"clips": len(clips), "labelled_static": share}
    return measured


def _evaluate_windows(
    videos: list[Path], folder: Path, recognizer: str, *, playing: bool
) -> dict[str, Any]:
    truth = pd.DataFrame(make_windows(videos, _make_folder(folder), playing=playing))
    clips = recognize(folder, folder.with_name(f"out-{folder.name}"), recognizer)["clips"]
    return check_windows(truth, clips)


def _paths(folder: Path) -> list[Path]:
    return [Path(video.location) for video in find_videos([str(folder)])]


def _make_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main()
