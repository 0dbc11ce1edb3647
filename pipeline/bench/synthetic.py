"""Synthetic videos to measure with: H.264 with motion and noise, as cameras record it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.records import Images

FPS = 30
SIZES = {(340, 256): 30, (854, 480): 20, (1920, 1080): 10}
"""Width and height of the default videos, and their duration in seconds for two cores."""
GENERATED_SECONDS = 2
"""Longer videos repeat their first seconds: the packets are copied, with later times."""
NOISE_STD = 9.0
"""Standard deviation of the noise, in levels of 255: as much detail as a camera gives a codec."""
NOISE_MARGIN = 64
"""Pixels by which the noise is larger than a frame, so that each frame has another part of it."""
MAX_DRIFT = 4.0
"""Largest motion along one axis, in pixels per frame of 480 lines."""


def make_videos(folder: Path, cores: int) -> Iterator[Path]:
    """Generate one video of each default size, longer for more cores, when it is needed."""
    for (width, height), seconds in SIZES.items():
        path = folder / f"{width}x{height}.mp4"
        yield make_video(path, (width, height), seconds * max(1, cores // 2))


def make_video(path: Path, size: tuple[int, int], seconds: float, seed: int = 0) -> Path:
    """
    Generate a video of a moving texture, in H.264.

    Args:
        path: MP4 file.
        size: width and height in pixels.
        seconds: duration; after `GENERATED_SECONDS` the video repeats.
        seed: another seed makes another video.
    """
    generated = min(seconds, GENERATED_SECONDS)
    if seconds <= generated:
        _encode(path, size, round(seconds * FPS), seed)
        return path
    short = path.with_name(f".{path.name}")
    _encode(short, size, round(generated * FPS), seed)
    loop_video(short, path, seconds)
    short.unlink()
    return path


def _encode(path: Path, size: tuple[int, int], count: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for image in _images(size, count, np.random.default_rng(seed)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _images(size: tuple[int, int], count: int, rng: np.random.Generator) -> Iterator[Images]:
    """Yield images (H, W, 3) of a texture that moves, each with other noise."""
    width, height = size
    texture = _texture(2 * height, 2 * width, rng)
    shape = (height + NOISE_MARGIN, width + NOISE_MARGIN, 1)
    noise = rng.normal(0, NOISE_STD, shape).astype(np.int16)
    drift = rng.uniform(-MAX_DRIFT, MAX_DRIFT, 2) * height / 480
    for number in range(count):
        top, left = ((drift * number) % (height, width)).astype(int)
        y, x = rng.integers(0, NOISE_MARGIN, 2)
        noisy = texture[top : top + height, left : left + width] + noise[y:, x:][:height, :width]
        yield np.clip(noisy, 0, 255).astype(np.uint8)


def _texture(height: int, width: int, rng: np.random.Generator) -> NDArray[np.int16]:
    """Return noise at many scales, (height, width, 3)."""
    total = np.zeros((height, width, 3))
    for level in range(2, 8):
        cells = 2**level
        coarse = rng.normal(0, 1, (cells, cells, 3))
        rows = np.arange(height) * cells // height
        columns = np.arange(width) * cells // width
        total += coarse[rows][:, columns] / level
    texture: NDArray[np.int16] = (127 + 60 * total / total.std()).astype(np.int16)
    return texture


def loop_video(source: Path, target: Path, seconds: float) -> Path:
    """
    Repeat a video by copying its packets with later times; nothing is encoded again.

    Args:
        source: video without an audio stream.
        target: the longer file.
        seconds: its duration, rounded up to a whole repetition.
    """
    with av.open(str(source)) as container:
        stream: Any = container.streams.video[0]
        packets: list[Any] = [packet for packet in container.demux(stream) if packet.size]
        step = round(1 / (stream.average_rate * stream.time_base))
        times = [packet.pts for packet in packets]
        duration = max(times) - min(times) + step
        repeats = math.ceil(seconds / stream.time_base / duration)
        with av.open(str(target), "w") as output:
            output_stream = output.add_stream_from_template(stream)
            for number in range(repeats):
                for packet in packets:
                    _mux(output, output_stream, packet, number * duration)
    return target


def _mux(container: Any, stream: Any, packet: Any, offset: int) -> None:
    copy = av.Packet(bytes(packet))
    copy.pts, copy.dts = packet.pts + offset, packet.dts + offset
    copy.duration, copy.time_base = packet.duration, packet.time_base
    copy.is_keyframe, copy.stream = packet.is_keyframe, stream
    container.mux(copy)
