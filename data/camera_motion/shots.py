"""Compose drawn footage: shots of a moving camera, joined by cuts, and the truth about frames."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from data.camera_motion.drawing import (
    IGNORED,
    LABELS,
    RENDER,
    Grey,
    Picture,
    Pose,
    Rng,
    Spoil,
    colours,
    compress,
    draw_mover,
    draw_people,
    view,
)

STATIC = 0
SLOWEST = {"pan": 0.005, "tilt": 0.006, "zoom": 0.007, "roll": 0.007}
FASTEST = {"pan": 0.13, "tilt": 0.13, "zoom": 0.09, "roll": 0.09}
"""Movement a frame at 8 frames a second: share of the picture, of its scale, or radians."""
STILL = 0.4
"""Below this share of the slowest movement a camera stands still; between, nobody could tell."""

GLANCE = 0.05
"""Movement by which `shows` looks at a scene."""
LEAST_CHANGE = 2.0
"""Grey levels, root mean square, by which a movement must differ from all others to be seen."""
LEAST_SHARE = 0.1
"""The same, as a share of the contrast of the picture."""


@dataclass(frozen=True)
class Sequence:
    """Drawn frames and the truth about them."""

    pictures: NDArray[np.uint8]
    """(T, H, W, 3)."""
    labels: NDArray[np.int64]
    """What the camera did from the frame before to this one, (T,); IGNORED where it is unclear."""
    shot: NDArray[np.int64]
    """Number of the shot that a frame belongs to, (T,)."""
    dissolve: bool = False
    """Shots fade into each other, which is neither a cut nor none."""


def draw_sequence(
    rng: Rng,
    scenes: list[Grey],
    frames: int,
    size: tuple[int, int],
    *,
    only_shown: bool = False,
    people: bool = True,
) -> Sequence:
    """
    Draw frames as a pipeline would sample them at 8 frames a second.

    Args:
        rng: source of all chance.
        scenes: to choose from.
        frames: T.
        size: height and width.
        only_shown: leave unclear, IGNORED, what the scene does not show: see `shows`.
        people: let some walk towards each other or apart.
    """
    lengths = _shot_lengths(rng, frames)
    aspect = float(np.exp(rng.uniform(math.log(0.5), math.log(2.0))) if rng.random() < 0.5 else 1.5)
    pictures: list[Picture] = []
    labels: list[int] = []
    shots: list[int] = []
    last: tuple[Grey, Pose] | None = None
    for number, length in enumerate(lengths):
        scene = scenes[rng.integers(len(scenes))]
        pose = _first_pose(rng)
        if last is not None and rng.random() < 0.25:  # a jump cut: the same place, seen otherwise
            scene, pose = last[0], _jump(rng, last[1])
        drawn, truth, poses = _draw_shot(rng, scenes, scene, pose, aspect, length, people=people)
        if only_shown:
            truth = [
                label if label == IGNORED or shows(scene, pose, label, aspect) else IGNORED
                for label, pose in zip(truth, poses, strict=True)
            ]
        last = (scene, poses[-1])
        pictures += drawn
        labels += truth
        shots += [number] * length
    dissolve = len(lengths) > 1 and rng.random() < 0.1
    if dissolve:
        _dissolve(rng, pictures, lengths)
    if rng.random() < 0.4:
        pictures = compress(pictures, rng)
    rows, columns = size
    small = [cv2.resize(p, (columns, rows), interpolation=cv2.INTER_AREA) for p in pictures]
    return Sequence(np.stack(small), np.array(labels), np.array(shots), dissolve)


def _shot_lengths(rng: Rng, frames: int) -> list[int]:
    cuts = int(rng.choice([0, 1, 2], p=[0.6, 0.3, 0.1]))
    places = np.sort(rng.choice(np.arange(2, frames - 2), cuts, replace=False))
    return [int(n) for n in np.diff([0, *places, frames])]


def _first_pose(rng: Rng) -> Pose:
    height = math.log(rng.uniform(90, 420))
    angle = 0.0 if rng.random() < 0.6 else rng.uniform(-math.pi, math.pi)
    return Pose(rng.uniform(0, 768), rng.uniform(0, 768), height, angle)


def _jump(rng: Rng, pose: Pose) -> Pose:
    height = math.exp(pose.log_height)
    x, y = rng.uniform(-1, 1, 2) * height
    return Pose(
        pose.x + x + math.copysign(0.25 * height, x),
        pose.y + y,
        pose.log_height + rng.normal(0, 0.3),
        pose.angle + rng.normal(0, 0.05),
    )


def _draw_shot(
    rng: Rng,
    scenes: list[Grey],
    scene: Grey,
    pose: Pose,
    aspect: float,
    length: int,
    *,
    people: bool,
) -> tuple[list[Picture], list[int], list[Pose]]:
    table = colours(rng).reshape(1, 256, 3)
    movers = []
    if rng.random() < 0.5:
        count = rng.integers(1, 5)
        movers = [draw_mover(rng, scenes[rng.integers(len(scenes))], aspect) for _ in range(count)]
    if people and rng.random() < 0.3:
        movers += draw_people(rng, scenes[rng.integers(len(scenes))], aspect, length)
    spoil = Spoil.draw(rng, length)
    truth, poses = _camera(rng, pose, aspect, length)
    smear = rng.random() < 0.4
    pictures = []
    shaken = _shake(rng, poses, aspect)
    for time, (pose, before) in enumerate(zip(shaken, [shaken[0], *shaken], strict=False)):
        grey = view(scene, pose, aspect)
        if smear and time:  # an open shutter
            grey = cv2.addWeighted(grey, 0.6, view(scene, _between(before, pose), aspect), 0.4, 0)
        picture = cv2.LUT(cv2.merge([grey] * 3), table)
        picture = cv2.resize(picture, RENDER[::-1]) if picture.shape[:2] != RENDER else picture
        for mover in movers:
            mover.draw(picture, time)
        pictures.append(spoil.apply(picture, time))
    return pictures, truth, poses


def shows(scene: Grey, pose: Pose, label: int, aspect: float) -> bool:
    """
    Tell whether a scene shows a movement: a blank wall shows none, an edge none along itself.

    It does where no other movement, nor standing still, leads to nearly the same picture.
    """
    if label == STATIC:
        return True
    seen = _glance(scene, pose.moved(label, GLANCE, aspect), aspect)
    others = [_glance(scene, pose, aspect)] + [
        _glance(scene, pose.moved(other, share * GLANCE, aspect), aspect)
        for other in range(1, len(LABELS))
        if other != label
        for share in (0.5, 1.0, 2.0)
    ]
    least = min(float(np.sqrt(np.square(seen - other).mean())) for other in others)
    return least >= max(LEAST_CHANGE, LEAST_SHARE * float(seen.std()))


def _glance(scene: Grey, pose: Pose, aspect: float) -> NDArray[np.float32]:
    return view(scene, pose, aspect, (36, 48)).astype(np.float32)


def _between(a: Pose, b: Pose) -> Pose:
    """Give the pose a quarter of the way back from b to a: half of an exposure of half a frame."""
    w = 0.25
    return Pose(
        b.x + w * (a.x - b.x),
        b.y + w * (a.y - b.y),
        b.log_height + w * (a.log_height - b.log_height),
        b.angle + w * (a.angle - b.angle),
    )


def _camera(rng: Rng, pose: Pose, aspect: float, length: int) -> tuple[list[int], list[Pose]]:
    """Move a camera: one movement or several, eased or not, at a steady or an uneven rate."""
    amounts, labels = _movements(rng, length)
    uneven = rng.uniform(0.05, 0.35) if rng.random() < 0.2 else 0.0
    low_rate = rng.uniform(0.5, 0.95) if rng.random() < 0.12 else 1.0
    side = int(rng.integers(1, len(LABELS))), rng.uniform(0, 0.2) * (rng.random() < 0.3)
    poses, truth = [pose], [IGNORED]
    waiting = 0.0
    for step in range(1, length):
        label, amount = int(labels[step]), float(amounts[step])
        amount *= max(0.1, 1 + uneven * rng.standard_normal())
        seen = low_rate == 1.0 or rng.random() < low_rate
        waiting += amount
        if not seen:  # a camera slower than 8 frames a second shows the same frame again
            poses.append(poses[-1])
            truth.append(IGNORED)
            continue
        pose = poses[-1].moved(label, waiting, aspect)
        pose = pose.moved(side[0], waiting * side[1], aspect)
        poses.append(pose)
        truth.append(_truth(label, waiting))
        waiting = 0.0
    return truth, poses


def _truth(label: int, amount: float) -> int:
    if label == STATIC:
        return STATIC
    share = amount / SLOWEST[_kind(label)]
    if share < STILL:
        return STATIC
    return label if share >= 1 else IGNORED


def _kind(label: int) -> str:
    return LABELS[label].split("_")[0]


def _movements(rng: Rng, length: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Choose a movement for every frame, and how far it goes."""
    amounts, labels = np.zeros(length), np.zeros(length, np.int64)
    start = 0
    while start < length:
        stop = length if rng.random() < 0.65 else min(length, start + int(rng.integers(5, 14)))
        label = int(rng.integers(len(LABELS)))
        speed = 0.0
        if label != STATIC:
            kind = _kind(label)
            speed = math.exp(rng.uniform(math.log(SLOWEST[kind]), math.log(FASTEST[kind])))
        time = np.linspace(0, 1, stop - start)
        ease = np.sin(math.pi * np.clip(time, 0.02, 0.98)) ** 0.7 if rng.random() < 0.25 else 1.0
        amounts[start:stop] = speed * ease
        labels[start:stop] = label
        start = stop
    return amounts, labels


def _shake(rng: Rng, poses: list[Pose], aspect: float) -> list[Pose]:
    """Let a hand hold the camera: it sways about its way, but does not drift off."""
    if rng.random() < 0.45:
        return poses
    strength = math.exp(rng.uniform(math.log(0.0004), math.log(0.005)))
    # smoothed noise about zero, so that a still camera stays where it is
    sway = rng.standard_normal((len(poses) + 4, 4))
    sway = np.stack([np.convolve(s, [0.25, 0.5, 0.25], "same") for s in sway.T], 1)[2:-2] * strength
    shaken = []
    for pose, (x, y, scale, angle) in zip(poses, sway, strict=True):
        height = math.exp(pose.log_height)
        shaken.append(
            Pose(
                pose.x + x * height * aspect,
                pose.y + y * height,
                pose.log_height + scale * 0.3,
                pose.angle + angle * 0.5,
            )
        )
    return shaken


def _dissolve(rng: Rng, pictures: list[Picture], lengths: list[int]) -> None:
    edge = lengths[0]
    reach = min(int(rng.integers(2, 5)), edge - 1, lengths[1] - 1)
    before, after = pictures[edge - 1].copy(), pictures[edge].copy()
    for step in range(-reach, reach):
        share = (step + reach + 0.5) / (2 * reach)
        mixed = pictures[edge + step]
        other = after if step < 0 else before
        weight = 1 - share if step < 0 else share
        pictures[edge + step] = cv2.addWeighted(mixed, weight, other, 1 - weight, 0)
