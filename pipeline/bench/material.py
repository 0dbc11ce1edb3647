"""Drawn videos and untrained recognizers to measure with: real codecs, sizes and time stamps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.config import ClipWindows, Sampling
from pipeline.encode.backbone import Backbone
from pipeline.recognition.recognizer import BackboneSpec, Recognizer, save_recognizer
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import TemporalOptions

FPS = 30
SIZES = {(340, 256): 60, (854, 480): 30, (1920, 1080): 20}
"""Widths and heights that are measured by default, and seconds of each."""
DRAWN_SECONDS = 4
"""What is longer repeats what was drawn: the packets, not the times."""
GRAIN = 9.0
"""Standard deviation of noise, in levels of 255: as much detail as a camera gives a codec."""


def draw_videos(folder: Path) -> list[Path]:
    """Draw one H.264 video of each size that is measured by default."""
    return [
        draw_video(folder / f"{width}x{height}.mp4", (width, height), seconds)
        for (width, height), seconds in SIZES.items()
    ]


def draw_video(path: Path, size: tuple[int, int], seconds: float, seed: int = 0) -> Path:
    """
    Draw a video of moving textures, in H.264 as phones and sites store it.

    Args:
        path: MP4 file.
        size: width and height in pixels.
        seconds: its length; what is drawn is repeated after `DRAWN_SECONDS`.
        seed: another one draws another video.
    """
    drawn = min(seconds, DRAWN_SECONDS)
    if seconds <= drawn:
        _encode(path, size, round(seconds * FPS), seed)
        return path
    short = path.with_name(f".{path.name}")
    _encode(short, size, round(drawn * FPS), seed)
    loop_video(short, path, seconds)
    short.unlink()
    return path


def _encode(path: Path, size: tuple[int, int], count: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for picture in _pictures(size, count, np.random.default_rng(seed)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _pictures(size: tuple[int, int], count: int, rng: np.random.Generator) -> Any:
    """Give pictures of a texture that wanders, (H, W, 3), with fresh grain on every one."""
    width, height = size
    scene = _texture(2 * height, 2 * width, rng)
    grain = rng.normal(0, GRAIN, (height + 64, width + 64, 1)).astype(np.int16)
    drift = rng.uniform(-4, 4, 2) * height / 480
    for number in range(count):
        top, left = ((drift * number) % (height, width)).astype(int)
        y, x = rng.integers(0, 64, 2)
        noisy = scene[top : top + height, left : left + width] + grain[y:, x:][:height, :width]
        yield np.clip(noisy, 0, 255).astype(np.uint8)


def _texture(height: int, width: int, rng: np.random.Generator) -> NDArray[np.int16]:
    """Draw noise at many scales, (height, width, 3)."""
    total = np.zeros((height, width, 3))
    for level in range(2, 8):
        cells = 2**level
        coarse = rng.normal(0, 1, (cells, cells, 3))
        rows = np.arange(height) * cells // height
        columns = np.arange(width) * cells // width
        total += coarse[rows][:, columns] / level
    scene: NDArray[np.int16] = (127 + 60 * total / total.std()).astype(np.int16)
    return scene


def loop_video(source: Path, target: Path, seconds: float) -> Path:
    """
    Repeat the packets of a video until it is so long; times go on and nothing is encoded again.

    Args:
        source: file with one video stream, which must start with a key frame.
        target: the longer file.
        seconds: its length, rounded up to a whole repetition.
    """
    with av.open(str(source)) as given:
        stream: Any = given.streams.video[0]
        packets: list[Any] = [packet for packet in given.demux(stream) if packet.size]
        step = round(1 / (stream.average_rate * stream.time_base))
        starts = [packet.pts for packet in packets]
        length = max(starts) - min(starts) + step
        turns = math.ceil(seconds / stream.time_base / length)
        with av.open(str(target), "w") as made:
            copy = made.add_stream_from_template(stream)
            for turn in range(turns):
                for packet in packets:
                    _mux(made, copy, packet, turn * length)
    return target


def _mux(container: Any, stream: Any, packet: Any, offset: int) -> None:
    copy = av.Packet(bytes(packet))
    copy.pts, copy.dts = packet.pts + offset, packet.dts + offset
    copy.duration, copy.time_base = packet.duration, packet.time_base
    copy.is_keyframe, copy.stream = packet.is_keyframe, stream
    container.mux(copy)


def draw_clips(folder: Path, count: int, size: tuple[int, int] = (160, 120)) -> Path:
    """Draw so many clips of two seconds, all different."""
    for number in range(count):
        draw_video(folder / f"clip-{number:05}.mp4", size, 2.0, seed=number)
    return folder


def untrained_recognizer(
    folder: Path,
    backbone: Backbone,
    sampling: Sampling,
    seed: int,
    *,
    tap: str | None = None,
    grid: int | None = None,
) -> Path:
    """
    Save a GRU with random weights: it computes as much as a trained one.

    Args:
        folder: of the recognizer.
        backbone: whose features it reads.
        sampling: of frames.
        seed: of the weights.
        tap: with which the backbone was loaded.
        grid: likewise.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        options = TemporalOptions(cell="gru")
        labels = ("one", "other", "neither")
        model = TemporalModel(backbone.feature_size, len(labels), options).eval()
    spec = BackboneSpec(
        name=backbone.name,
        weights_hash=backbone.weights_hash,
        feature_size=backbone.feature_size,
        tap=tap,
        grid=grid,
        context=backbone.previous_frames,
        precision="float32",
    )
    recognizer = Recognizer(
        name=folder.name,
        labels=labels,
        sampling=sampling,
        clips=ClipWindows(),
        backbone=spec,
        temporal=options,
        model=model,
    )
    save_recognizer(recognizer, folder)
    return folder
