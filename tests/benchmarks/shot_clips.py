"""
Draw videos with known shots: pieces of real clips joined at random, encoded as H.264.

Shots are joined by hard cuts, dissolves and fades through black; some joined shots show one place.
Some shots have flashes, whip pans or camera shake, which are no cuts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

Images = list[NDArray[np.uint8]]
Rng = np.random.Generator

WIDTH, HEIGHT, FPS = 320, 240, 25
SHOTS = 8
"""Of each video."""
CUT_FREE: dict[str, tuple[tuple[int, int], ...]] = {
    "clips/flipping_a_pancake.mkv": ((0, 300),),
    "clips/k400_armwrestling.mp4": ((0, 225),),
    "clips/mma_skel.mp4": ((0, 72),),
    "clips/mma_test.avi": ((0, 160),),
    "clips/v_GGSY1Qvo990.mp4": ((0, 350),),
    "clips/v_ZNVhz7ctTq0.mp4": ((0, 300), (310, 420)),
    "decode/07d15e_bbb_800x640_768kbps_30fps_vp9.mp4": ((8, 120),),
    "decode/1bfcaa_v_shooting_01_02.mpg": ((0, 140),),
    "decode/786e6c_rv30.mp4": ((45, 109),),
    "decode/95a2e9_sample-in-issue-505.mp4": ((0, 105),),
    "decode/af571f_wmv8_x8intra.wmv": ((82, 245), (256, 315), (320, 386)),
    "decode/b38850_vc1-wmapro.mp4": ((2, 64), (68, 120)),
    "decode/f37af9_v_shooting_01_01.mpg": ((0, 105),),
}
"""Ranges of frames without a cut, checked by eye; every file of `ut_interaction` is one shot."""
QUALITIES = (18, 23, 28, 33, 38)
"""Constant rate factors of H.264."""
PRESETS = ("ultrafast", "veryfast", "medium")


@dataclass(frozen=True)
class Source:
    """A range of frames that is one shot."""

    path: Path
    start: int
    stop: int
    place: str
    """Sources of one place look alike."""

    def read(self, start: int, stop: int) -> Images:
        """Read the frames [start, stop) of the range as RGB of 320 × 240, cropped to 4:3."""
        images: Images = []
        with av.open(str(self.path)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number >= self.start + stop:
                    break
                if number >= self.start + start:
                    images.append(_resize(frame.to_ndarray(format="rgb24")))
        return images


@dataclass
class JoinedVideo:
    """A video and what is true of it; positions are frames."""

    path: Path
    quality: int
    cuts: list[int] = field(default_factory=list)
    """First frames of shots that follow a hard cut."""
    same_place: list[int] = field(default_factory=list)
    """Those of `cuts` whose two shots show one place."""
    gradual: list[tuple[str, int, int]] = field(default_factory=list)
    """Kind (`dissolve`, `fade`), first frame that is mixed, first that is not."""
    events: list[tuple[str, int, int]] = field(default_factory=list)
    """What is no cut: `flash`, `pan`, `shake`; first frame, first frame after it."""
    frames: int = 0


def find_sources(data: Path) -> list[Source]:
    """List the shots in a folder with `clips`, `decode` and `ut_interaction`."""
    found = [
        Source(data / name, start, stop, name)
        for name, ranges in CUT_FREE.items()
        for start, stop in ranges
        if (data / name).exists()
    ]
    for path in sorted((data / "ut_interaction").glob("*.avi")):
        with av.open(str(path)) as container:
            count = container.streams.video[0].frames
        sequence = path.stem.split("_")[1]
        found.append(Source(path, 0, count, f"ut_interaction {sequence}"))
    return found


def draw_videos(
    sources: Sequence[Source], folder: Path, count: int, seed: int
) -> Iterator[JoinedVideo]:
    """Draw videos of 8 shots, one after the other."""
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        yield _draw(rng, sources, folder / f"{seed}_{number:03}.mp4")


def _draw(rng: Rng, sources: Sequence[Source], path: Path) -> JoinedVideo:
    video = JoinedVideo(path, int(rng.choice(QUALITIES)))
    images: Images = []
    last: tuple[Source, int] | None = None
    for _ in range(SHOTS):
        kind = (
            str(rng.choice(["cut", "dissolve", "fade"], p=[0.7, 0.2, 0.1])) if images else "start"
        )
        source, begin, length, same = _choose(rng, sources, last)
        shot = source.read(begin, begin + length)
        events: list[tuple[str, int, int]] = []
        if same and rng.random() < 0.5:  # another camera: closer
            shot = [_window(image, *rng_window) for image, rng_window in _closer(rng, shot)]
        elif len(shot) >= 20:
            shot, events = _disturb(rng, shot)
        last = (source, begin + length)
        _join(rng, video, images, shot, kind, same=same)
        offset = len(images) - len(shot)
        video.events += [(name, a + offset, b + offset) for name, a, b in events]
    video.frames = len(images)
    _encode(path, images, video.quality, str(rng.choice(PRESETS)))
    return video


def _choose(
    rng: Rng, sources: Sequence[Source], last: tuple[Source, int] | None
) -> tuple[Source, int, int, bool]:
    """Choose the next shot: source, first frame, length, whether its place was seen before."""
    wanted = int(rng.integers(30, 80)) if rng.random() < 0.8 else int(rng.integers(12, 30))
    if last is not None and rng.random() < 0.25:
        source, end = last
        begin = end + int(rng.integers(FPS, 3 * FPS))
        if begin + 12 <= source.stop - source.start:
            return source, begin, min(wanted, source.stop - source.start - begin), True
    various = [s for s in sources if not s.place.startswith("ut")]
    chosen = various if rng.random() < 0.5 else sources
    source = chosen[int(rng.integers(len(chosen)))]
    while last is not None and source == last[0]:
        source = chosen[int(rng.integers(len(chosen)))]
    room = source.stop - source.start
    length = min(wanted, room)
    same = last is not None and source.place == last[0].place
    return source, int(rng.integers(0, room - length + 1)), length, same


def _join(
    rng: Rng, video: JoinedVideo, images: Images, shot: Images, kind: str, *, same: bool
) -> None:
    """Append a shot to the images, and note how."""
    reach = int(rng.uniform(0.3, 1.5) * FPS)
    if kind == "dissolve" and min(len(images), len(shot)) > reach + 5 and not same:
        start = len(images) - reach
        for step in range(reach):
            share = (step + 1) / (reach + 1)
            images[start + step] = _mix(images[start + step], shot[step], share)
        video.gradual.append(("dissolve", start, start + reach))
        images += shot[reach:]
    elif kind == "fade" and min(len(images), len(shot)) > reach + 5:
        half = max(4, reach // 2)
        start = len(images) - half
        black = np.zeros_like(shot[0])
        for step in range(half):
            images[start + step] = _mix(images[start + step], black, (step + 1) / half)
        hold = [black] * int(rng.integers(0, 8))
        shot[:half] = [_mix(black, shot[s], (s + 1) / (half + 1)) for s in range(half)]
        video.gradual.append(("fade", start, len(images) + len(hold) + half))
        images += hold + shot
    else:
        if images:
            video.cuts.append(len(images))
            if same:
                video.same_place.append(len(images))
        images += shot


def _disturb(rng: Rng, shot: Images) -> tuple[Images, list[tuple[str, int, int]]]:
    """Add a flash, a whip pan or camera shake to some shots. Returns the events too."""
    what = str(rng.choice(["", "flash", "pan", "shake"], p=[0.46, 0.18, 0.18, 0.18]))
    count = len(shot)
    if what == "flash":
        at, length = int(rng.integers(5, count - 5)), int(rng.integers(1, 4))
        gain = rng.uniform(60, 220)
        rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
        x, y = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT)
        spread = rng.uniform(0.4, 3) * WIDTH
        light = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / spread**2)[..., None]
        for step in range(at, at + length):
            shot[step] = np.clip(shot[step] + gain * light, 0, 255).astype(np.uint8)
        return shot, [("flash", at, at + length)]
    if what == "pan":
        length = int(rng.integers(4, 12))
        at = int(rng.integers(3, count - length - 3))
        way = np.clip((np.arange(count) - at) / length, 0, 1)
        if rng.random() < 0.5:
            way = 1 - way
        side = rng.uniform(0.5, 0.7)
        y = rng.uniform(0, 1 - side)
        moved = [_window(im, w * (1 - side), y, side) for im, w in zip(shot, way, strict=True)]
        return moved, [("pan", at, at + length)]
    if what == "shake":
        strength = rng.uniform(0.005, 0.03)
        x = y = 0.5
        moved = []
        for image in shot:
            x = float(np.clip(0.7 * (x - 0.5) + 0.5 + rng.normal(0, strength / 0.15), 0, 1))
            y = float(np.clip(0.7 * (y - 0.5) + 0.5 + rng.normal(0, strength / 0.15), 0, 1))
            moved.append(_window(image, x * 0.15, y * 0.15, 0.85))
        return moved, [("shake", 0, count)]
    return shot, []


def _closer(
    rng: Rng, shot: Images
) -> Iterator[tuple[NDArray[np.uint8], tuple[float, float, float]]]:
    side = rng.uniform(0.55, 0.8)
    x, y = rng.uniform(0, 1 - side, 2)
    return ((image, (x, y, side)) for image in shot)


def _window(image: NDArray[np.uint8], x: float, y: float, side: float) -> NDArray[np.uint8]:
    """Cut a window out of an image and enlarge it; place and side are shares of the image."""
    matrix = np.array([[side, 0, x * WIDTH], [0, side, y * HEIGHT]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(image, matrix, (WIDTH, HEIGHT), flags=flags))


def _mix(a: NDArray[np.uint8], b: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    return np.asarray(cv2.addWeighted(a, 1 - share, b, share, 0))


def _resize(image: NDArray[Any]) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    w, h = min(width, height * WIDTH // HEIGHT), min(height, width * HEIGHT // WIDTH)
    x, y = (width - w) // 2, (height - h) // 2
    part = np.ascontiguousarray(image[y : y + h, x : x + w])
    return np.asarray(cv2.resize(part, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA))


def _encode(path: Path, images: Images, quality: int, preset: str) -> None:
    with av.open(str(path), "w") as container:
        options = {"crf": str(quality), "preset": preset, "threads": "1"}
        stream: Any = container.add_stream("libx264", rate=Fraction(FPS), options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
