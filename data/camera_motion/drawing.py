"""
Draw synthetic video with known camera motion: scenes, camera poses, and image degradations.

Scenes are noise, dead leaves, shapes, gradients, gratings and text. Positions are in units of the
image size: a pan of 0.05 per frame moves the scene by a twentieth of the image width.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

LABELS = (
    "static",
    "pan_left",
    "pan_right",
    "tilt_up",
    "tilt_down",
    "zoom_in",
    "zoom_out",
    "roll_cw",
    "roll_ccw",
)
"""Motion of the camera: `pan_right` moves the scene to the left."""
IGNORED = -100
"""Label of frames whose motion is ambiguous; losses ignore it."""
CANVAS = 768
"""Side of a scene in pixels; scenes are periodic."""
RENDER = (144, 192)
"""Height and width of images as drawn; they are then resized to half."""

Grey = NDArray[np.uint8]
Image = NDArray[np.uint8]
Rng = np.random.Generator


def draw_scene(rng: Rng) -> Grey:
    """Draw a scene, (CANVAS, CANVAS) uint8: a background with objects."""
    image = _background(rng)
    painters = [_leaves, _shapes, _text, _lines]
    min_layers = 1 if image.std() < 8 else 0  # motion is invisible on an empty scene
    for painter in rng.permutation(len(painters))[: rng.integers(min_layers, 4)]:
        painters[painter](image, rng)
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 4))
    contrast = rng.uniform(0.25, 1.0)
    middle = rng.uniform(60, 190)
    image = (image.astype(np.float32) - image.mean()) * contrast + middle
    return _bytes(image)


def _bytes(values: Any) -> NDArray[np.uint8]:
    return np.asarray(np.clip(values, 0, 255), np.uint8)


def _background(rng: Rng) -> Grey:
    kind = rng.random()
    if kind < 0.6:
        return _noise(rng, rng.uniform(0.6, 2.2))
    if kind < 0.8:
        return _gradient(rng)
    if kind < 0.9:
        return _grating(rng)
    return np.full((CANVAS, CANVAS), rng.integers(20, 235), np.uint8)


def _noise(rng: Rng, slope: float) -> Grey:
    """1/f^slope noise, the spectrum of natural images."""
    fy = np.fft.fftfreq(CANVAS)[:, None]
    fx = np.fft.rfftfreq(CANVAS)[None]
    amplitude = (fy**2 + fx**2 + 1 / CANVAS**2) ** (-slope / 2)
    phase = rng.standard_normal((2, *amplitude.shape), dtype=np.float32)
    field_ = np.fft.irfft2((phase[0] + 1j * phase[1]) * amplitude, s=(CANVAS, CANVAS))
    field_ = (field_ - field_.mean()) / field_.std()
    return _bytes(127 + field_ * rng.uniform(25, 70))


def _gradient(rng: Rng) -> Grey:
    y, x = np.mgrid[0:CANVAS, 0:CANVAS].astype(np.float32) / CANVAS
    angle = rng.uniform(0, 2 * math.pi)
    ramp = np.sin(2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) * rng.integers(1, 4))
    return _bytes(127 + ramp * rng.uniform(30, 110))


def _grating(rng: Rng) -> Grey:
    """Regular patterns: bricks, tiles, fences."""
    image = np.full((CANVAS, CANVAS), rng.integers(0, 255), np.uint8)
    pitch_x, pitch_y = (int(CANVAS // n) for n in rng.integers(6, 28, 2))
    width = int(rng.integers(1, 8))
    colour = int(rng.integers(0, 255))
    for x in range(0, CANVAS, pitch_x):
        image[:, x : x + width] = colour
    if rng.random() < 0.7:
        for y in range(0, CANVAS, pitch_y):
            image[y : y + width] = colour
    return _bytes(cv2.addWeighted(image, 0.7, _noise(rng, 1.5), 0.3, 0))


def _leaves(image: Grey, rng: Rng) -> None:
    """The dead leaves model of natural images: discs of all sizes that occlude each other."""
    for radius in np.sort(rng.pareto(2.0, rng.integers(100, 700)) * 8 + 3)[::-1]:
        centre = tuple(int(v) for v in rng.integers(0, CANVAS, 2))
        axes = (int(min(radius, 120)), max(1, int(min(radius, 120) * rng.uniform(0.4, 1))))
        colour = int(rng.integers(0, 255))
        cv2.ellipse(image, centre, axes, rng.uniform(0, 180), 0, 360, colour, -1, cv2.LINE_AA)


def _shapes(image: Grey, rng: Rng) -> None:
    for _ in range(rng.integers(5, 60)):
        centre = rng.uniform(0, CANVAS, 2)
        corners = rng.integers(3, 7)
        angles = np.sort(rng.uniform(0, 2 * math.pi, corners))
        radius = rng.uniform(8, 110)
        points = centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
        thickness = -1 if rng.random() < 0.7 else int(rng.integers(1, 6))
        _polygon(image, points, int(rng.integers(0, 255)), thickness)


def _polygon(image: NDArray[np.uint8], points: NDArray[Any], colour: Any, thickness: int) -> None:
    corners = [points.round().astype(np.int32)]
    if thickness < 0:
        cv2.fillPoly(image, corners, colour, cv2.LINE_AA)
    else:
        cv2.polylines(image, corners, True, colour, thickness, cv2.LINE_AA)


def _text(image: Grey, rng: Rng) -> None:
    letters = np.array(list("ABCDEFGHIKLMNOPRSTUVWXYZabcdefghiklmnoprstuvwxyz0123456789 .,:-"))
    for _ in range(rng.integers(3, 40)):
        words = "".join(rng.choice(letters, rng.integers(3, 30)))
        place = tuple(int(v) for v in rng.integers(0, CANVAS, 2))
        scale, thickness = rng.uniform(0.4, 3), int(rng.integers(1, 5))
        font = cv2.FONT_HERSHEY_SIMPLEX
        colour = int(rng.integers(0, 255))
        cv2.putText(image, words, place, font, scale, colour, thickness, cv2.LINE_AA)


def _lines(image: Grey, rng: Rng) -> None:
    for _ in range(rng.integers(5, 50)):
        a, b = (tuple(int(v) for v in rng.integers(-100, CANVAS + 100, 2)) for _ in range(2))
        colour = int(rng.integers(0, 255))
        cv2.line(image, a, b, colour, int(rng.integers(1, 8)), cv2.LINE_AA)


@dataclass(frozen=True)
class Pose:
    """Camera pose: centre in scene pixels, log of the height in scene pixels, and roll."""

    x: float
    y: float
    log_height: float
    angle: float
    """Radians, clockwise."""

    def moved(self, label: int, amount: float, aspect: float) -> Pose:
        """Apply a motion: a share of the image size or scale, or radians for a roll."""
        name = LABELS[label]
        height = math.exp(self.log_height)
        right = {"pan_right": amount, "pan_left": -amount}.get(name, 0.0) * height * aspect
        down = {"tilt_down": amount, "tilt_up": -amount}.get(name, 0.0) * height
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return Pose(
            self.x + right * cos - down * sin,
            self.y + right * sin + down * cos,
            self.log_height + {"zoom_out": amount, "zoom_in": -amount}.get(name, 0.0),
            self.angle + {"roll_cw": amount, "roll_ccw": -amount}.get(name, 0.0),
        )


def view(scene: Grey, pose: Pose, aspect: float, size: tuple[int, int] = RENDER) -> Grey:
    """Render the view of a camera, (H, W) uint8. `aspect` is width over height."""
    rows, columns = size
    height = math.exp(pose.log_height)
    across, down = height * aspect / columns, height / rows
    cos, sin = math.cos(pose.angle), math.sin(pose.angle)
    matrix = np.array([[cos * across, -sin * down, 0.0], [sin * across, cos * down, 0.0]])
    centre = np.array([(columns - 1) / 2, (rows - 1) / 2])
    matrix[:, 2] = np.array([pose.x, pose.y]) - matrix[:, :2] @ centre
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    seen = cv2.warpAffine(scene, matrix, (columns, rows), flags=flags, borderMode=cv2.BORDER_WRAP)
    return np.asarray(seen, np.uint8)


def colours(rng: Rng) -> NDArray[np.uint8]:
    """Make a colour map for grey levels, (256, 1, 3), that keeps their brightness."""
    stops = np.linspace(0, 255, 3)
    hue = rng.normal(0, rng.choice([0.0, 15.0, 45.0]), (3, 3))
    grey = np.arange(256)
    table = np.stack([grey + np.interp(grey, stops, hue[:, c]) for c in range(3)], 1)
    return _bytes(table)[:, None]


Blob = tuple[NDArray[np.float64], NDArray[np.float64], float, float]
"""Offset, half axes, amplitude and phase of oscillation; in image heights."""


@dataclass
class MovingObject:
    """An object that moves in front of the scene: a few ellipses, each oscillating."""

    texture: Image
    """(CANVAS, CANVAS, 3)."""
    place: NDArray[np.float64]
    velocity: NDArray[np.float64]
    blobs: list[Blob]
    rate: float
    start: float = 0.0
    stop: float = math.inf
    """It moves between these times, in frames."""
    growth: float = 0.0
    """Change of the log of its size per frame, as of an approaching object."""

    def draw(self, image: Image, time: float) -> None:
        """Draw the object at a time, in frames."""
        rows, columns = image.shape[:2]
        place = self.place + self.velocity * (min(max(time, self.start), self.stop) - self.start)
        scale = math.exp(self.growth * time)
        mask = np.zeros((rows, columns), np.uint8)
        for offset, axes, swing, phase in self.blobs:
            turn = swing * math.sin(self.rate * time + phase)
            centre = (place + scale * (offset + np.array([turn, 0.3 * turn]))) * rows
            whole = tuple(round(v) for v in centre)
            radii = tuple(max(1, round(v * scale * rows)) for v in axes)
            cv2.ellipse(mask, whole, radii, math.degrees(turn), 0, 360, 255, -1)
        if not mask.any():
            return
        x, y = (-(place * rows).round().astype(int)) % (CANVAS - max(rows, columns))
        cv2.copyTo(self.texture[y : y + rows, x : x + columns], mask, image)


def draw_moving_object(rng: Rng, texture: Grey, aspect: float) -> MovingObject:
    """Make an object with random position, velocity and parts."""
    size = rng.uniform(0.05, 0.25)
    speed = rng.choice([0.0, 1.0]) * rng.uniform(0, 0.08)
    angle = rng.uniform(0, 2 * math.pi)
    blobs = []
    for _ in range(rng.integers(1, 6)):
        axes = np.array([rng.uniform(0.2, 0.7), rng.uniform(0.3, 1.2)]) * size
        blobs.append(
            (rng.normal(0, 0.6, 2) * size, axes, rng.uniform(0, 0.8) * size, rng.uniform(0, 6))
        )
    velocity = speed * np.array([math.cos(angle), 0.3 * math.sin(angle)])
    place = np.array([rng.uniform(0, aspect), rng.uniform(0.1, 1.0)])
    return MovingObject(_coloured(rng, texture), place, velocity, blobs, rng.uniform(0.2, 1.5))


def _coloured(rng: Rng, texture: Grey) -> Image:
    return _bytes(cv2.LUT(cv2.merge([texture] * 3), colours(rng).reshape(1, 256, 3)))


def draw_people(rng: Rng, texture: Grey, aspect: float, frames: int) -> list[MovingObject]:
    """
    Make two people who walk towards each other or apart, or approach; none of it is a zoom.

    Args:
        rng: random generator.
        texture: of their clothes, often with low contrast.
        aspect: width of the image over its height.
        frames: of the shot; they may start to walk late, and stop early.
    """
    height, ground = rng.uniform(0.35, 0.9), rng.uniform(0.4, 0.65)
    middle = aspect / 2 + rng.normal(0, 0.1) * aspect
    near, speed = rng.uniform(0.1, 0.3), math.exp(rng.uniform(math.log(0.004), math.log(0.05)))
    apart = rng.random() < 0.5
    start, stop = np.sort(rng.uniform(-0.5 * frames, 1.5 * frames, 2))
    way = speed * (stop - start)
    people = []
    for side in (-1, 1):
        walk = rng.uniform(0.7, 1.3) if rng.random() < 0.8 else 0.0
        first, velocity = (near, speed) if apart else (near + way * walk, -speed)
        contrast = rng.choice([0.1, 0.3, 1.0])
        clothes = _bytes((texture - texture.mean()) * contrast + rng.uniform(20, 235))
        people.append(
            MovingObject(
                _coloured(rng, clothes),
                np.array([middle + side * first, ground + rng.normal(0, 0.03)]),
                np.array([side * velocity * walk, 0.0]),
                _body(rng, height * rng.uniform(0.85, 1.15)),
                rng.uniform(0.5, 1.6),
                start,
                stop,
                rng.normal(0, 0.012) if rng.random() < 0.3 else 0.0,
            )
        )
    return people


def _body(rng: Rng, height: float) -> list[Blob]:
    """Give the ellipses of a standing person: head, trunk, arms and legs."""
    broad, swing = rng.uniform(1.0, 1.7), rng.uniform(0, 0.15)
    parts = [
        (0.0, -0.42, 0.06, 0.075, 0.0),
        (0.0, -0.16, 0.1, 0.21, 0.0),
        (-0.11, -0.15, 0.035, 0.19, swing),
        (0.11, -0.15, 0.035, 0.19, swing),
        (-0.045, 0.24, 0.05, 0.26, swing),
        (0.045, 0.24, 0.05, 0.26, swing),
    ]
    return [
        (
            np.array([x * broad, y]) * height,
            np.array([wide * broad, high]) * height,
            turn * height,
            rng.uniform(0, 2 * math.pi),
        )
        for x, y, wide, high, turn in parts
    ]


@dataclass
class Degradation:
    """Degradations by lens, sensor and codec, for the images of one shot."""

    rng: Rng
    gain: float = 1.0
    drift: float = 0.0
    flicker: float = 0.0
    flash: int = -1
    blur: float = 0.0
    noise: float = 0.0
    bars: tuple[int, int] = (0, 0)
    overlay: Image | None = field(default=None, repr=False)

    @classmethod
    def draw(cls, rng: Rng, frames: int) -> Degradation:
        """Choose degradations at random."""
        maybe = rng.random
        degradation = cls(
            rng,
            drift=rng.normal(0, 0.02) if maybe() < 0.3 else 0.0,
            flicker=rng.uniform(0, 0.06) if maybe() < 0.2 else 0.0,
            flash=int(rng.integers(0, frames)) if maybe() < 0.06 else -1,
            blur=rng.uniform(0.3, 2.2) if maybe() < 0.35 else 0.0,
            noise=rng.uniform(1, 14) if maybe() < 0.5 else 0.0,
        )
        if maybe() < 0.15:
            bar = int(rng.integers(4, RENDER[0] // 6))
            degradation.bars = (
                (bar, 0) if maybe() < 0.7 else (0, int(rng.integers(4, RENDER[1] // 6)))
            )
        if maybe() < 0.2:
            degradation.overlay = _overlay(rng)
        return degradation

    def apply(self, image: Image, time: int) -> Image:
        """Degrade one image, (H, W, 3)."""
        if self.blur:
            image = cv2.GaussianBlur(image, (0, 0), self.blur)
        gain = 1 + self.drift * time + self.flicker * self.rng.standard_normal()
        shift = 90.0 if time == self.flash else 0.0
        if gain != 1 or shift:
            image = cv2.convertScaleAbs(image, alpha=max(0.05, gain), beta=shift)
        if self.noise:
            grain = self.rng.standard_normal(image.shape[:2], dtype=np.float32) * self.noise
            noisy = image.astype(np.float32) + grain[..., None]
            image = _bytes(noisy)
        if self.overlay is not None:
            shown = self.overlay.any(2)
            image[shown] = self.overlay[shown]
        high, wide = self.bars
        if high:
            image[:high] = image[-high:] = 0
        if wide:
            image[:, :wide] = image[:, -wide:] = 0
        return np.asarray(image, np.uint8)


def _overlay(rng: Rng) -> Image:
    """Draw overlays that do not move, such as a logo or a clock."""
    layer = np.zeros((*RENDER, 3), np.uint8)
    for _ in range(rng.integers(1, 4)):
        x, y = int(rng.integers(0, RENDER[1] - 60)), int(rng.choice([14, RENDER[0] - 8]))
        words = "".join(rng.choice(list("ABC0123456789:- "), rng.integers(3, 9)))
        colour = tuple(int(v) for v in rng.integers(1, 255, 3))
        scale = rng.uniform(0.3, 0.7)
        cv2.putText(layer, words, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1)
    return layer


def compress(images: list[Image], rng: Rng) -> list[Image]:
    """Encode images as H.264 with a random quality, and decode them."""
    target = io.BytesIO()
    rows, columns = images[0].shape[:2]
    with av.open(target, "w", format="mp4") as container:
        options = {"crf": str(rng.integers(20, 41)), "preset": "ultrafast"}
        stream = container.add_stream("libx264", rate=8, options=options)
        stream.width, stream.height, stream.pix_fmt = columns, rows, "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    target.seek(0)
    with av.open(target, "r") as made:
        return [_bytes(frame.to_ndarray(format="rgb24")) for frame in made.decode(video=0)]
