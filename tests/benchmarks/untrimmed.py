"""
Learn and recognize untrimmed videos by the command line: five motions with pauses between them.

    python -m tests.benchmarks.untrimmed [--multi-label] [--json] [--train OPTIONS...]

Videos of 60 s are drawn: a square moves in random directions for random times, and rests between.
With `--multi-label` two squares move independently of each other. Some of the videos are learned
(`clipline train`), the others recognized (`clipline run`); their segments are compared with the
truth: F1@50, boundaries within a quarter of a second, and F1 of the frames of each label.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.evaluation.segment_metrics import binary_f1, segment_f1
from tests.benchmarks.commands import time_command
from tests.benchmarks.output import make_parser, print_values

FPS, SIDE, SQUARE = 8, 96, 14
SPEED = 4
"""Pixels a frame."""
RADIUS, PERIOD = 10, 8
"""Of the circle, in pixels and frames."""
MOTIONS = ("left", "right", "up", "down", "circle")
SEPARATE = (("right",), ("down",))
"""Motions of each of the two squares of multi-label videos."""
SHORTEST, LONGEST = 1.5, 4.0
"""Seconds of a motion."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.75, 3.0
BOUNDARY_SECONDS = 0.25
TICKS = 100
"""A second, in the units in which segments are compared."""


@dataclass(frozen=True)
class Part:
    """A labelled part of a video, in seconds."""

    start: float
    end: float
    label: str


def draw_parts(rng: np.random.Generator, seconds: float, labels: Sequence[str]) -> list[Part]:
    """Draw motions in random order with pauses of random length."""
    parts, now = [], float(rng.uniform(SHORTEST_PAUSE, LONGEST_PAUSE))
    while now + LONGEST <= seconds:
        length = round(FPS * rng.uniform(SHORTEST, LONGEST)) / FPS
        start = round(FPS * now) / FPS
        parts.append(Part(start, start + length, str(rng.choice(labels))))
        now = start + length + rng.uniform(SHORTEST_PAUSE, LONGEST_PAUSE)
    return parts


def positions(parts: Sequence[Part], frames: int, start: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give the position of the square in each frame, (T, 2); it leaves and enters at the edges."""
    steps = {"left": (0, -SPEED), "right": (0, SPEED), "up": (-SPEED, 0), "down": (SPEED, 0)}
    found, at = np.zeros((frames, 2), np.int64), start.astype(float)
    for frame in range(frames):
        now = frame / FPS
        part = next((p for p in parts if p.start <= now < p.end), None)
        if part is not None and part.label == "circle":
            angle = 2 * np.pi * frame / PERIOD
            speed = 2 * np.pi * RADIUS / PERIOD
            at = at + speed * np.array([np.sin(angle), np.cos(angle)])
        elif part is not None:
            at = at + np.array(steps[part.label])
        found[frame] = np.round(at)
    return found % SIDE


def write_video(path: Path, squares: Sequence[Sequence[Part]], seconds: int, seed: int) -> None:
    """Draw a square for each list of parts, over a noisy background."""
    rng = np.random.default_rng(seed)
    frames = seconds * FPS
    background = rng.integers(40, 90, (SIDE, SIDE, 3))
    tracks = [positions(parts, frames, rng.integers(0, SIDE, 2)) for parts in squares]
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=FPS, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        for frame in range(frames):
            picture = background + rng.integers(-8, 9, background.shape)
            for number, track in enumerate(tracks):
                rows, columns = ((track[frame][axis] + np.arange(SQUARE)) % SIDE for axis in (0, 1))
                picture[np.ix_(rows, columns)] = ((240, 230, 220), (20, 220, 60))[number]
            shown = av.VideoFrame.from_ndarray(
                picture.clip(0, 255).astype(np.uint8), format="rgb24"
            )
            output.mux(stream.encode(shown))
        output.mux(stream.encode())


def draw_videos(
    folder: Path, count: int, seconds: int, *, seed: int, multi_label: bool
) -> dict[str, list[Part]]:
    """Draw videos and `labels.csv`; give the parts by name of the video."""
    rng = np.random.default_rng(seed)
    truth: dict[str, list[Part]] = {}
    rows = ["video,label,start_seconds,end_seconds"]
    folder.mkdir()
    for number in range(count):
        kinds = SEPARATE if multi_label else (MOTIONS,)
        squares = [draw_parts(rng, seconds, labels) for labels in kinds]
        name = f"{number}.mp4"
        write_video(folder / name, squares, seconds, seed=seed + number)
        truth[name] = [part for parts in squares for part in parts]
        rows += [f"{name},{part.label},{part.start},{part.end}" for part in truth[name]]
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return truth


def read_segments(out: Path) -> dict[str, list[Part]]:
    """Read the segments of a run by name of the video, without the background."""
    table = pd.read_parquet(out / "segments")
    found: dict[str, list[Part]] = {}
    for row in table[table.label != "background"].itertuples():
        part = Part(row.start_seconds, row.end_seconds, row.label)
        found.setdefault(Path(row.video).name, []).append(part)
    return found


def compare(
    truth: dict[str, list[Part]], found: dict[str, list[Part]], seconds: int
) -> dict[str, Any]:
    """Compare segments of videos with the truth."""
    pairs = [(truth[name], found.get(name, [])) for name in truth]
    ticks = [tuple([_in_ticks(part) for part in parts] for parts in pair) for pair in pairs]
    f1 = {
        f"f1_at_{share}": segment_f1([a for a, _ in ticks], [b for _, b in ticks], share / 100)
        for share in (10, 25, 50)
    }
    return {
        **f1,
        "boundaries_within_a_quarter_second": np.mean(
            [_is_near(edge, kind, part, b) for a, b in pairs for part in a
             for kind, edge in (("start", part.start), ("end", part.end))]
        ).item(),
        "f1_of_frames": {
            label: binary_f1(
                np.concatenate([_frames(a, label, seconds) for a, _ in pairs]),
                np.concatenate([_frames(b, label, seconds) for _, b in pairs]),
            )
            for label in sorted({part.label for parts in truth.values() for part in parts})
        },
    }  # fmt: skip


def _in_ticks(part: Part) -> tuple[int, int, int]:
    return round(part.start * TICKS), round(part.end * TICKS), MOTIONS.index(part.label)


def _is_near(edge: float, kind: str, part: Part, found: Sequence[Part]) -> bool:
    """Whether a segment of the label begins or ends about at a boundary."""
    edges = [getattr(one, kind) for one in found if one.label == part.label]
    return any(abs(one - edge) <= BOUNDARY_SECONDS + 1e-6 for one in edges)


def _frames(parts: Sequence[Part], label: str, seconds: int) -> NDArray[np.bool_]:
    """Whether each frame has a label, (T,)."""
    found = np.zeros(seconds * FPS, np.bool_)
    for part in parts:
        if part.label == label:
            found[round(part.start * FPS) : round(part.end * FPS)] = True
    return found


def measure(folder: Path, given: Any) -> dict[str, Any]:
    """Draw, train, run, and compare."""
    multi_label = ["--multi-label"] if given.multi_label else []
    draw = {"seconds": given.seconds, "multi_label": given.multi_label}
    draw_videos(folder / "learned", given.videos, seed=1000 * given.seed, **draw)
    truth = draw_videos(folder / "judged", given.judged, seed=1000 * given.seed + 500, **draw)
    made, out, state = folder / "made", folder / "out", folder / "state"
    backbone = ["--backbone", given.backbone, "--features", str(folder / "features")]
    labels = str(folder / "learned" / "labels.csv")
    train = ["train", labels, "-o", str(made), *backbone, *multi_label, "--quiet"]
    train_seconds, _ = time_command([*train, *(given.train or [])], state)
    run = ["run", str(folder / "judged"), "-o", str(out), "--recognizer", str(made), "--quiet"]
    run_seconds, _ = time_command([*run, "--features", str(folder / "features")], state)
    return {
        "train_seconds": train_seconds,
        "run_seconds": run_seconds,
        **compare(truth, read_segments(out), given.seconds),
    }


def main() -> None:
    """Measure, and print."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--multi-label", action="store_true", help="two squares, overlapping motions"
    )
    parser.add_argument("--videos", type=int, default=16, help="videos that are learned")
    parser.add_argument("--judged", type=int, default=8, help="videos that are recognized")
    parser.add_argument("--seconds", type=int, default=60, help="length of a video")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing")
    parser.add_argument("--backbone", default="random:test_resnet", help="of the recognizer")
    parser.add_argument("--train", nargs="...", help="more options of `clipline train`")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="clipline-untrimmed-") as name:
        found = measure(Path(name), given)
    print_values(found, as_json=given.json)


if __name__ == "__main__":
    main()
