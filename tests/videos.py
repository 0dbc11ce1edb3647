"""
Videos generated for tests: every frame shows its number, so that wrong frames are detected.

The number is shown twice: as a bar code of 12 cells along the top, black for 0 and
white for 1, and as the brightness of the rest. Both survive lossy codecs and resizing.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 12
DARK, BRIGHT = 32, 224


def draw_number(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """Draw frame `number` as RGB image, uint8 (H, W, 3)."""
    level = 60 + number * 7 % 130
    image = np.full((height, width, 3), level, np.uint8)
    image[height // 2 :, width // 2 :] = (200, 40, 40)  # red in the lower right corner
    cell = width / BITS
    for bit in range(BITS):
        colour = BRIGHT if number >> bit & 1 else DARK
        image[: height // 3, round(bit * cell) : round((bit + 1) * cell)] = colour
    return image


def read_number(image: np.ndarray) -> int:
    """Read the number from the bar code of an image, (H, W, 3), of any size."""
    height, width = image.shape[:2]
    row = image[max(1, height // 12) : max(2, height // 4)].astype(float).mean((0, 2))
    cell = width / BITS
    number = 0
    for bit in range(BITS):
        a, b = (bit + 0.3) * cell, (bit + 0.7) * cell
        value = row[int(a) : max(int(a) + 1, int(np.ceil(b)))].mean()
        number |= int(value > (DARK + BRIGHT) / 2) << bit
    return number


def write_video(
    path: Path,
    count: int = 30,
    *,
    fps: int | Fraction = 30,
    size: tuple[int, int] = (96, 64),
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    times: Sequence[float] | None = None,
    time_base: Fraction = Fraction(1, 1000),
    gop: int = 12,
    b_frames: int = 0,
    first: int = 0,
    options: dict[str, str] | None = None,
    container: str | None = None,
    muxing: dict[str, str] | None = None,
) -> Path:
    """
    Write a video of numbered frames.

    Args:
        path: its suffix selects the container unless `container` does.
        count: number of frames.
        fps: frames per second; ignored if `times` are given.
        size: width and height.
        times: presentation time of each frame in seconds, for variable rates.
        time_base: seconds per tick if `times` are given.
        gop: frames from key frame to key frame.
        b_frames: frames between reference frames, which are stored out of order.
        first: number of the first frame.
        options: of the encoder.
        muxing: options of the container.
    """
    width, height = size
    settings = {"preset": "ultrafast", "bf": str(b_frames), **(options or {})}
    if codec not in ("libx264", "libx265"):
        settings = dict(options or {})
    with av.open(str(path), "w", format=container, options=muxing or {}) as output:
        stream = output.add_stream(codec, rate=fps, options=settings)
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.codec_context.gop_size = gop
        if codec == "libx264":
            stream.codec_context.options = {**settings, "sc_threshold": "0", "crf": "12"}
        if times is not None:
            stream.time_base = stream.codec_context.time_base = time_base
        for number in range(count):
            image = draw_number(first + number, width, height)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times is not None:
                frame.pts = round(Fraction(times[number]) / time_base)
                frame.time_base = time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def cut_copy(source: Path, target: Path, start_seconds: float, frames: int | None = None) -> Path:
    """
    Cut a file as `ffmpeg -ss START -c copy` does: from the key frame before, with an edit list.

    The result claims frames that are hidden, which hangs decoders that count packets.
    """
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        stream = given.streams.video[0]
        copy = made.add_stream_from_template(stream)
        start = round(start_seconds / stream.time_base)
        given.seek(start, stream=stream)
        for number, packet in enumerate(given.demux(stream)):
            if packet.size == 0 or number == frames:
                break
            packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, copy
            made.mux(packet)
    return target


def repeat_video(source: Path, target: Path, times: int) -> Path:
    """Repeat the packets of a video without B-frames: writes a long file quickly."""
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        stream = given.streams.video[0]
        copy = made.add_stream_from_template(stream)
        packets = [packet for packet in given.demux(stream) if packet.size]
        ticks = packets[-1].pts + packets[-1].duration - packets[0].pts
        pts = [packet.pts for packet in packets]
        for number in range(times):
            for packet, first in zip(packets, pts, strict=True):
                packet.stream, packet.pts = copy, first + number * ticks
                packet.dts = packet.pts
                packet.time_base = stream.time_base
                made.mux(packet)
    return target


def write_streams(
    path: Path,
    firsts: Sequence[int],
    count: int = 10,
    *,
    sizes: Sequence[tuple[int, int]] | None = None,
    default: int | None = None,
) -> Path:
    """
    Write several video streams into one file.

    Args:
        firsts: number of the first frame of each stream.
        count: frames per stream.
        sizes: width and height of each stream.
        default: stream with the default flag; None leaves it to the container.
    """
    sizes = sizes or [(128, 64)] * len(firsts)
    with av.open(str(path), "w") as output:
        streams = [output.add_stream("libx264", rate=30) for _ in firsts]
        for number, (stream, (width, height)) in enumerate(zip(streams, sizes, strict=True)):
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            if default is not None:
                stream.disposition = av.stream.Disposition(int(number == default))
        for number in range(count):
            for stream, first, size in zip(streams, firsts, sizes, strict=True):
                frame = av.VideoFrame.from_ndarray(draw_number(first + number, *size))
                output.mux(stream.encode(frame))
        for stream in streams:
            output.mux(stream.encode())
    return path


def write_sound(path: Path, seconds: float = 0.5) -> Path:
    """Write a file with an audio stream only."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=44100)
        for start in range(0, int(44100 * seconds), 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 44100, start
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def turn(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """
    Write a display matrix into an MP4 file, as phones do instead of rotating the frames.

    Args:
        matrix: a, b, c, d of [[a, b], [c, d]]; (0, 1, -1, 0) turns by 90° clockwise.
    """
    data = bytearray(path.read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    place = data.index(b"tkhd") + 44  # behind version, times, number, duration, layer, volume
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def spoil(source: Path, target: Path, packets: Sequence[int], part: float = 1.0) -> Path:
    """
    Copy a file with some of its packets overwritten by zeros.

    Args:
        packets: indices, in the order of storage.
        part: share of each packet that is overwritten, at its end; below 1 a frame may be decoded.
    """
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for number in packets:
        position, size = places[number]
        spoiled = round(size * part)
        data[position + size - spoiled : position + size] = bytes(spoiled)
    target.write_bytes(data)
    return target


def write_images(
    folder: Path, numbers: Sequence[int], *, suffix: str = ".png", size: tuple[int, int] = (96, 64)
) -> Path:
    """Write a folder of numbered images, `img_00007.png`."""
    import cv2

    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        image = draw_number(number, *size)[:, :, ::-1]
        assert cv2.imwrite(str(folder / f"img_{number:05}{suffix}"), image)
    return folder
