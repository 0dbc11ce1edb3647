"""Compose synthetic videos: shots of a moving camera, joined by cuts, with a label per frame."""

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
    Degradation,
    Grey,
    Image,
    Pose,
    Rng,
    colours,
    compress,
    draw_moving_object,
    draw_people,
    view,
)

STATIC = 0
MIN_SPEED = {"pan": 0.005, "tilt": 0.006, "zoom": 0.007, "roll": 0.007}
MAX_SPEED = {"pan": 0.13, "tilt": 0.13, "zoom": 0.09, "roll": 0.09}
"""Motion per frame at 8 frames/s: share of the image size or scale, or radians."""
STATIC_SHARE = 0.4
"""Below this share of the minimum speed the label is `static`; between both it is IGNORED."""

TEST_MOVEMENT = 0.05
"""Motion with which `is_visible` tests a scene."""
MIN_CHANGE = 2.0
"""RMS difference, in grey levels, between a visible motion and all others."""
MIN_CHANGE_SHARE = 0.1
"""The same, as a share of the standard deviation of the image."""


@dataclass(frozen=True)
class Sequence:
    """Frames and their labels."""

    images: NDArray[np.uint8]
    """(T, H, W, 3)."""
    labels: NDArray[np.int64]
    """Motion from the frame before to this one, (T,); IGNORED if ambiguous."""
    shot: NDArray[np.int64]
    """Index of the shot of each frame, (T,)."""
    dissolve: bool = False
    """Whether shots dissolve into each other; cuts are not evaluated then."""


def draw_sequence(
    rng: Rng,
    scenes: list[Grey],
    frames: int,
    size: tuple[int, int],
    *,
    only_visible: bool = False,
    people: bool = True,
) -> Sequence:
    """
    Draw a video sampled at 8 frames/s.

    Args:
        rng: random generator.
        scenes: to choose from.
        frames: T.
        size: height and width.
        only_visible: label motions that are not visible as IGNORED: see `is_visible`.
        people: whether pairs of people may walk towards each other or apart.
    """
    lengths = _shot_lengths(rng, frames)
    aspect = float(np.exp(rng.uniform(math.log(0.5), math.log(2.0))) if rng.random() < 0.5 else 1.5)
    images: list[Image] = []
    labels: list[int] = []
    shots: list[int] = []
    last: tuple[Grey, Pose] | None = None
    for number, length in enumerate(lengths):
        scene = scenes[rng.integers(len(scenes))]
        pose = _first_pose(rng)
        if last is not None and rng.random() < 0.25:  # a jump cut: the same scene from another pose
            scene, pose = last[0], _jump(rng, last[1])
        drawn, truth, poses = _draw_shot(rng, scenes, scene, pose, aspect, length, people=people)
        if only_visible:
            truth = [
                label if label == IGNORED or is_visible(scene, pose, label, aspect) else IGNORED
                for label, pose in zip(truth, poses, strict=True)
            ]
        last = (scene, poses[-1])
        images += drawn
        labels += truth
        shots += [number] * length
    dissolve = len(lengths) > 1 and rng.random() < 0.1
    if dissolve:
        _dissolve(rng, images, lengths)
    if rng.random() < 0.4:
        images = compress(images, rng)
    rows, columns = size
    small = [cv2.resize(p, (columns, rows), interpolation=cv2.INTER_AREA) for p in images]
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
) -> tuple[list[Image], list[int], list[Pose]]:
    table = colours(rng).reshape(1, 256, 3)
    moving_objects = []
    if rng.random() < 0.5:
        count = rng.integers(1, 5)
        moving_objects = [
            draw_moving_object(rng, scenes[rng.integers(len(scenes))], aspect) for _ in range(count)
        ]
    if people and rng.random() < 0.3:
        moving_objects += draw_people(rng, scenes[rng.integers(len(scenes))], aspect, length)
    degradation = Degradation.draw(rng, length)
    truth, poses = _camera(rng, pose, aspect, length)
    smear = rng.random() < 0.4
    images = []
    shaken = _shake(rng, poses, aspect)
    for time, (pose, before) in enumerate(zip(shaken, [shaken[0], *shaken], strict=False)):
        grey = view(scene, pose, aspect)
        if smear and time:  # an open shutter
            grey = cv2.addWeighted(grey, 0.6, view(scene, _between(before, pose), aspect), 0.4, 0)
        image = cv2.LUT(cv2.merge([grey] * 3), table)
        image = cv2.resize(image, RENDER[::-1]) if image.shape[:2] != RENDER else image
        for moving_object in moving_objects:
            moving_object.draw(image, time)
        images.append(degradation.apply(image, time))
    return images, truth, poses


def is_visible(scene: Grey, pose: Pose, label: int, aspect: float) -> bool:
    """
    Decide whether a motion is visible: not in front of a blank wall, or along a single edge.

    It is visible if no other motion, nor a static camera, gives almost the same image.
    """
    if label == STATIC:
        return True
    seen = _thumbnail(scene, pose.moved(label, TEST_MOVEMENT, aspect), aspect)
    others = [_thumbnail(scene, pose, aspect)] + [
        _thumbnail(scene, pose.moved(other, share * TEST_MOVEMENT, aspect), aspect)
        for other in range(1, len(LABELS))
        if other != label
        for share in (0.5, 1.0, 2.0)
    ]
    least = min(float(np.sqrt(np.square(seen - other).mean())) for other in others)
    return least >= max(MIN_CHANGE, MIN_CHANGE_SHARE * float(seen.std()))


def _thumbnail(scene: Grey, pose: Pose, aspect: float) -> NDArray[np.float32]:
    return view(scene, pose, aspect, (36, 48)).astype(np.float32)


def _between(a: Pose, b: Pose) -> Pose:
    """Interpolate a quarter of the way from b to a: the middle of an exposure of half a frame."""
    w = 0.25
    return Pose(
        b.x + w * (a.x - b.x),
        b.y + w * (a.y - b.y),
        b.log_height + w * (a.log_height - b.log_height),
        b.angle + w * (a.angle - b.angle),
    )


def _camera(rng: Rng, pose: Pose, aspect: float, length: int) -> tuple[list[int], list[Pose]]:
    """Move a camera at constant or varying speed. Gives labels and poses."""
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
        if not seen:  # a camera with less than 8 frames/s repeats a frame
            poses.append(poses[-1])
            truth.append(IGNORED)
            continue
        pose = poses[-1].moved(label, waiting, aspect)
        pose = pose.moved(side[0], waiting * side[1], aspect)
        poses.append(pose)
        truth.append(_true_label(label, waiting))
        waiting = 0.0
    return truth, poses


def _true_label(label: int, amount: float) -> int:
    if label == STATIC:
        return STATIC
    share = amount / MIN_SPEED[_kind(label)]
    if share < STATIC_SHARE:
        return STATIC
    return label if share >= 1 else IGNORED


def _kind(label: int) -> str:
    return LABELS[label].split("_")[0]


def _movements(rng: Rng, length: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Choose the motion of every frame, and its amount."""
    amounts, labels = np.zeros(length), np.zeros(length, np.int64)
    start = 0
    while start < length:
        stop = length if rng.random() < 0.65 else min(length, start + int(rng.integers(5, 14)))
        label = int(rng.integers(len(LABELS)))
        speed = 0.0
        if label != STATIC:
            kind = _kind(label)
            speed = math.exp(rng.uniform(math.log(MIN_SPEED[kind]), math.log(MAX_SPEED[kind])))
        time = np.linspace(0, 1, stop - start)
        ease = np.sin(math.pi * np.clip(time, 0.02, 0.98)) ** 0.7 if rng.random() < 0.25 else 1.0
        amounts[start:stop] = speed * ease
        labels[start:stop] = label
        start = stop
    return amounts, labels


def _shake(rng: Rng, poses: list[Pose], aspect: float) -> list[Pose]:
    """Add the shake of a hand-held camera, without drift."""
    if rng.random() < 0.45:
        return poses
    strength = math.exp(rng.uniform(math.log(0.0004), math.log(0.005)))
    # smoothed noise with zero mean, so that a static camera does not drift
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


def _dissolve(rng: Rng, images: list[Image], lengths: list[int]) -> None:
    edge = lengths[0]
    reach = min(int(rng.integers(2, 5)), edge - 1, lengths[1] - 1)
    before, after = images[edge - 1].copy(), images[edge].copy()
    for step in range(-reach, reach):
        share = (step + reach + 0.5) / (2 * reach)
        mixed = images[edge + step]
        other = after if step < 0 else before
        weight = 1 - share if step < 0 else share
        images[edge + step] = cv2.addWeighted(mixed, weight, other, 1 - weight, 0)
