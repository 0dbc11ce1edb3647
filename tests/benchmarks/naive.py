"""
Compare a run with a naive loop: the code that is usually written first.

    python -m tests.benchmarks.naive VIDEOS… [--every N] [--repeats N] [--backbone NAME] [--json]

In the loop OpenCV decodes, timm's transform preprocesses one image at a time, and torch computes
in float32 on batches in its default layout: one video after the other, all in one thread.
"""

from __future__ import annotations

import copy
import math
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import torch
from PIL import Image

from flows.cli.bench_runs import TimedRuns, temporary_api
from pipeline.bench.rates import seconds_of
from pipeline.config import RunOptions, Sampling
from pipeline.encode.backbone import Backbone
from pipeline.run.load import load_models
from pipeline.sources.discovery import find_videos
from tests.benchmarks.output import make_parser, print_values

BATCH_SIZE = 32
MAX_FRAMES = 512
"""Frames that the loop encodes, about: the same number of every video."""


class NaiveLoop:
    """
    Encodes videos when called, and returns the number of encoded frames.

    Args:
        backbone: encodes the frames.
        locations: paths of the videos.
        stride: distance of encoded frames.
        max_frames: of all videos, about: as many whole batches of each video.
    """

    def __init__(
        self, backbone: Backbone, locations: Sequence[str], *, stride: int, max_frames: int
    ) -> None:
        module = copy.deepcopy(backbone.module)
        self.module: Any = module.to("cpu", memory_format=torch.contiguous_format)
        self.stride = stride
        self.locations = locations
        self.frames_per_video = math.ceil(max_frames / len(locations) / BATCH_SIZE) * BATCH_SIZE
        self.transform = _make_transform(backbone)

    def __call__(self) -> int:
        """Encode."""
        done = 0
        for location in self.locations:
            images = islice(_read(location), 0, None, self.stride)
            images = islice(images, self.frames_per_video)
            while batch := list(islice(images, BATCH_SIZE)):
                with torch.no_grad():
                    features = self.module(torch.stack([self.transform(p) for p in batch]))
                done += len(features.cpu().numpy())
        return done


def _make_transform(backbone: Backbone) -> Any:
    from timm.data import create_transform

    geometry = backbone.geometry
    return create_transform(
        input_size=(3, geometry.height, geometry.width),
        interpolation=backbone.interpolation,
        mean=backbone.mean,
        std=backbone.std,
        crop_pct=geometry.crop_fraction,
        crop_mode="squash" if geometry.fit == "squash" else "center",
    )


def _read(location: str) -> Iterator[Image.Image]:
    capture = cv2.VideoCapture(location)
    try:
        while True:
            found, image = capture.read()
            if not found:
                return
            yield Image.fromarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
    finally:
        capture.release()


def compare_with_loop(
    videos: Sequence[str], folder: Path, options: RunOptions, repeats: int
) -> dict[str, Any]:
    """
    Time the loop and whole runs in turn, after one run as a warm-up.

    Args:
        videos: files, folders, globs, lists.
        folder: for results.
        options: of the runs, with `Sampling(every=…)`.
        repeats: of each measurement.
    """
    assert options.sampling is not None
    assert options.sampling.every is not None
    found = find_videos(videos)
    loop = NaiveLoop(
        load_models(options)[1],
        [video.location for video in found],
        stride=options.sampling.every,
        max_frames=MAX_FRAMES,
    )
    rates, run_rates = [], []
    with temporary_api(folder):
        run = TimedRuns(folder, options)
        run(found)
        frames = loop()
        for _ in range(repeats):
            rates.append(frames / seconds_of(loop))
            timing = run(found)
            run_rates.append(timing.frames / timing.seconds)
    ratios = [run / loop for run, loop in zip(run_rates, rates, strict=True)]
    return {
        "videos": len(found),
        "loop_frames_per_second": statistics.median(rates),
        "run_frames_per_second": statistics.median(run_rates),
        "ratio": statistics.median(ratios),
    }


def main() -> None:
    """Measure, and print."""
    parser = make_parser(__doc__)
    parser.add_argument("videos", nargs="+")
    parser.add_argument("--every", type=int, default=1, help="sample every n-th frame")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--backbone", default="random:mobilenetv2_100")
    given = parser.parse_args()
    options = RunOptions(
        recognizer=None, backbone=given.backbone, sampling=Sampling(every=given.every)
    )
    with tempfile.TemporaryDirectory(prefix="clipline-naive-") as folder:
        found = compare_with_loop(given.videos, Path(folder), options, given.repeats)
    print_values(found, as_json=given.json)


if __name__ == "__main__":
    main()
