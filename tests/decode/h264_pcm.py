"""
Write H.264 streams of numbered frames, whose frames are coded as frames or as two fields.

All macroblocks are I_PCM, uncompressed: no encoder at hand codes fields as pictures of their own,
as broadcast encoders and cameras do.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.videos import draw_number

WIDTH, HEIGHT = 96, 64
SPS, PPS, IDR, PICTURE = 0x67, 0x68, 0x65, 0x61
"""First bytes of NAL units, of reference pictures."""


class Bits:
    """A bit string."""

    def __init__(self) -> None:
        self.text = ""

    def u(self, value: int, width: int) -> Bits:
        """Append an unsigned number of fixed width."""
        self.text += f"{value:0{width}b}"
        return self

    def ue(self, *values: int) -> Bits:
        """Append exponential Golomb codes."""
        for value in values:
            code = f"{value + 1:b}"
            self.text += "0" * (len(code) - 1) + code
        return self

    def align(self) -> Bits:
        """Append zeros up to a whole byte."""
        self.text += "0" * (-len(self.text) % 8)
        return self

    def bytes(self) -> bytes:
        """Return whole bytes."""
        return int(self.text, 2).to_bytes(len(self.text) // 8, "big") if self.text else b""


def nal(head: int, payload: bytes) -> bytes:
    """Make a NAL unit: start code, header, payload with emulation prevention bytes."""
    data, zeros = bytearray(), 0
    for byte in payload:
        if zeros >= 2 and byte <= 3:
            data.append(3)
            zeros = 0
        data.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return b"\0\0\0\1" + bytes([head]) + bytes(data)


def parameter_sets(fps: int | None, *, interlaced: bool = True) -> bytes:
    """Make the sequence parameter set, with or without a frame rate, and the picture one."""
    sps = Bits().u(77, 8).u(0, 8).u(30, 8).ue(0, 0, 2, 1).u(0, 1)
    sps.ue(WIDTH // 16 - 1, HEIGHT // (32 if interlaced else 16) - 1)
    sps.u(0b001 if interlaced else 0b11, 3 if interlaced else 2).u(0, 1)
    if fps is None:
        sps.u(0, 1)
    else:
        # only timing information: 1 tick is a field
        sps.u(1, 1).u(0, 4).u(1, 1).u(1, 32).u(2 * fps, 32).u(1, 1).u(0, 4)
    pps = Bits().ue(0, 0).u(0, 2).ue(0, 0, 0).u(0, 3).ue(0, 0, 0).u(0b100, 3)
    return b"".join(
        nal(head, bits.u(1, 1).align().bytes()) for head, bits in ((SPS, sps), (PPS, pps))
    )


def picture(
    planes: Sequence[np.ndarray], frame_num: int, *, idr: bool, parity: int | None, interlaced: bool
) -> bytes:
    """
    Make the NAL unit of a picture.

    Args:
        planes: Y, U, V of the frame, or of the field.
        frame_num: of its frame; counts reference frames.
        idr: whether it is an IDR picture.
        parity: 0 for a top field, 1 for a bottom field, None for a frame.
        interlaced: whether the sequence allows fields.
    """
    bits = Bits().ue(0, 7, 0).u(frame_num % 16, 4)
    if interlaced:
        bits.u(parity is not None, 1)
    if parity is not None:
        bits.u(parity, 1)
    if idr:
        bits.ue(0).u(0, 2)
    else:
        bits.u(0, 1)
    bits.ue(0, 1)  # no change of the quantizer, no deblocking
    y, u, v = planes
    data = b""
    for row in range(y.shape[0] // 16):
        for column in range(y.shape[1] // 16):
            bits.ue(25).align()
            data += bits.bytes()
            data += y[row * 16 : row * 16 + 16, column * 16 : column * 16 + 16].tobytes()
            for plane in (u, v):
                data += plane[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8].tobytes()
            bits = Bits()
    return nal(IDR if idr else PICTURE, data + b"\x80")


def frame_planes(number: int) -> list[np.ndarray]:
    """Draw a frame as planes Y, U, V."""
    image = draw_number(number, WIDTH, HEIGHT)
    packed = av.VideoFrame.from_ndarray(image, format="rgb24").to_ndarray(format="yuv420p")
    flat, size = packed.reshape(-1), WIDTH * HEIGHT
    y, u, v = np.split(flat, [size, size * 5 // 4])
    half = (HEIGHT // 2, WIDTH // 2)
    return [y.reshape(HEIGHT, WIDTH), u.reshape(half), v.reshape(half)]


def coded_pictures(
    structures: str, *, gop: int = 12, fps: int | None = 25, interlaced: bool = True
) -> list[list[bytes]]:
    """
    Code numbered frames.

    Args:
        structures: one letter for each frame: `p` for a frame, `t` for two fields, top field first,
            `b` for two fields, bottom field first.
        gop: frames from IDR picture to IDR picture.
        fps: frame rate that the stream states; None states none.
        interlaced: whether the sequence allows fields.

    Returns:
        The pictures of each frame, in Annex B format.
    """
    frames = []
    for number, structure in enumerate(structures):
        planes = frame_planes(number)
        idr = number % gop == 0
        parities = {"p": [None], "t": [0, 1], "b": [1, 0]}[structure]
        pictures = [
            picture(
                planes if parity is None else [plane[parity::2] for plane in planes],
                number % gop,
                idr=idr and order == 0,
                parity=parity,
                interlaced=interlaced,
            )
            for order, parity in enumerate(parities)
        ]
        if idr:
            pictures[0] = parameter_sets(fps, interlaced=interlaced) + pictures[0]
        frames.append(pictures)
    return frames


def write_fields(
    path: Path,
    frames: Sequence[Sequence[bytes]],
    *,
    fps: int = 25,
    container: str | None = None,
    joined: bool = False,
) -> Path:
    """
    Write coded pictures into a container.

    Args:
        path: its suffix selects the container unless `container` does.
        frames: from `coded_pictures`.
        fps: frames per second in the container.
        joined: store the two fields of a frame as one packet.
    """
    if path.suffix == ".h264":
        path.write_bytes(b"".join(b"".join(pictures) for pictures in frames))
        return path
    raw = path.with_suffix(".raw.h264")
    raw.write_bytes(b"".join(b"".join(pictures) for pictures in frames))
    ticks = Fraction(1, 90000)
    step = round(1 / (fps * ticks))
    with (
        av.open(str(raw), format="h264") as given,
        av.open(str(path), "w", format=container) as made,
    ):
        copy = made.add_stream_from_template(given.streams.video[0])
        copy.time_base = ticks
        for number, pictures in enumerate(frames):
            parts = [b"".join(pictures)] if joined else pictures
            for order, data in enumerate(parts):
                packet = av.Packet(data)
                packet.stream, packet.time_base = copy, ticks
                packet.pts = packet.dts = number * step + order * step // 2
                packet.duration = step // len(parts)
                packet.is_keyframe = bytes([IDR]) in data[:80] and order == 0
                made.mux(packet)
    return path
