"""The labels of synthetic videos are true."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from data.camera_motion.drawing import (
    IGNORED,
    LABELS,
    Degradation,
    Pose,
    colours,
    compress,
    draw_moving_object,
    draw_people,
    draw_scene,
    view,
)
from data.camera_motion.shots import MIN_SPEED, STATIC, draw_sequence, is_visible
from data.camera_motion.train import FLIPPED_HORIZONTALLY

SIZE = (72, 96)
ASPECT = 4 / 3


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    return [draw_scene(rng) for _ in range(6)]


@pytest.fixture(scope="module")
def leaves():
    """A scene with structure at every place and scale."""
    rng = np.random.default_rng(1)
    noise = cv2.GaussianBlur(rng.integers(0, 255, (768, 768), np.uint8), (0, 0), 3)
    return cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX)


def flow(leaves, label, amount):
    """Optical flow from one image to the next at five positions, (y, x) in pixels."""
    pose = Pose(384, 384, math.log(220), 0.3)
    a = view(leaves, pose, ASPECT, (240, 320)).astype(np.float32)
    b = view(leaves, pose.moved(label, amount, ASPECT), ASPECT, (240, 320)).astype(np.float32)
    moved = cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 4, 31, 5, 7, 1.5, 0)
    middle, top, left, bottom, right = (120, 160), (60, 160), (120, 80), (180, 160), (120, 240)
    return {
        name: moved[place][::-1]
        for name, place in zip(
            ("middle", "top", "left", "bottom", "right"),
            (middle, top, left, bottom, right),
            strict=True,
        )
    }


@pytest.mark.parametrize(
    ("name", "place", "axis", "sign"),
    [
        ("pan_right", "middle", 1, -1),
        ("pan_left", "middle", 1, 1),
        ("tilt_down", "middle", 0, -1),
        ("tilt_up", "middle", 0, 1),
        ("zoom_in", "right", 1, 1),
        ("zoom_in", "top", 0, -1),
        ("zoom_out", "left", 1, 1),
        ("zoom_out", "bottom", 0, -1),
        ("roll_cw", "top", 1, -1),
        ("roll_cw", "right", 0, -1),
        ("roll_ccw", "top", 1, 1),
        ("roll_ccw", "left", 0, -1),
    ],
)
def test_the_scene_moves_against_the_camera(leaves, name, place, axis, sign):
    moved = flow(leaves, LABELS.index(name), 0.03)[place]

    assert sign * moved[axis] > 1
    assert abs(moved[1 - axis]) < 0.35 * abs(moved[axis])


def test_a_pan_moves_by_a_share_of_the_picture(leaves):
    moved = flow(leaves, LABELS.index("pan_right"), 0.025)["middle"]

    assert moved[1] == pytest.approx(-0.025 * 320, abs=0.5)


def test_a_static_camera_moves_nothing(leaves):
    assert np.abs(flow(leaves, STATIC, 0.05)["middle"]).max() < 0.1


def test_labels_after_a_horizontal_flip(scenes):
    pose = Pose(100, 200, math.log(150), 0.0)
    for label in range(1, len(LABELS)):
        after = view(scenes[0], pose.moved(label, 0.05, ASPECT), ASPECT, SIZE)
        mirror = Pose(768 - 1 - pose.x, pose.y, pose.log_height, 0.0)
        seen = view(
            np.ascontiguousarray(scenes[0][:, ::-1]),
            mirror.moved(int(FLIPPED_HORIZONTALLY[label]), 0.05, ASPECT),
            ASPECT,
            SIZE,
        )
        assert np.abs(seen[:, ::-1].astype(int) - after).mean() < 2, LABELS[label]


def test_scenes_are_never_empty(scenes):
    assert min(scene.std() for scene in scenes) > 2


def test_the_same_seed_gives_the_same_frames(scenes):
    first = draw_sequence(np.random.default_rng(5), scenes, 12, SIZE)
    again = draw_sequence(np.random.default_rng(5), scenes, 12, SIZE)

    assert np.array_equal(first.images, again.images)
    assert np.array_equal(first.labels, again.labels)


def test_sequences_have_labels_and_shots(scenes):
    rng = np.random.default_rng(3)
    drawn = [draw_sequence(rng, scenes, 16, SIZE) for _ in range(40)]

    for sequence in drawn:
        assert sequence.images.shape == (16, *SIZE, 3)
        assert sequence.images.dtype == np.uint8
        starts = np.flatnonzero(np.diff(sequence.shot, prepend=-1))
        assert (sequence.labels[starts] == IGNORED).all()
    found = set(np.concatenate([sequence.labels for sequence in drawn]).tolist())
    assert found == {IGNORED, *range(len(LABELS))}
    assert {int(sequence.shot.max()) for sequence in drawn} == {0, 1, 2}


def test_slow_motion_is_ignored(scenes):
    from data.camera_motion.shots import _true_label

    pan = LABELS.index("pan_left")
    assert _true_label(pan, MIN_SPEED["pan"]) == pan
    assert _true_label(pan, 0.7 * MIN_SPEED["pan"]) == IGNORED
    assert _true_label(pan, 0.1 * MIN_SPEED["pan"]) == STATIC


def test_compression_changes_images_little(scenes):
    rng = np.random.default_rng(0)
    images = [cv2.merge([view(scenes[1], Pose(i * 9, 0, 5.0, 0), ASPECT)] * 3) for i in range(5)]

    after = compress(images, rng)

    assert len(after) == 5
    assert max(np.abs(a.astype(int) - b).mean() for a, b in zip(images, after, strict=True)) < 25


def test_objects_move_in_front_of_the_scene(scenes):
    rng = np.random.default_rng(2)
    moving_object = draw_moving_object(rng, scenes[0], ASPECT)
    moving_object.velocity[:] = (0.05, 0.0)
    moving_object.place[:] = (0.3, 0.5)
    blank = np.full((144, 192, 3), 128, np.uint8)
    first, later = blank.copy(), blank.copy()
    moving_object.draw(first, 0)
    moving_object.draw(later, 6)

    def centre(image):
        return np.argwhere((image != 128).any(2)).mean(0)[1]

    assert centre(later) - centre(first) == pytest.approx(0.05 * 6 * 144, rel=0.5)


def position_and_height(person, time):
    """Give the horizontal position and the height of a person, in image heights."""
    blank = np.full((144, 192, 3), 128, np.uint8)
    image = blank.copy()
    person.draw(image, time)
    rows, columns = np.nonzero((image != blank).any(2))
    return columns.mean() / 144, (rows.max() - rows.min() + 1) / 144


def test_people_walk_between_start_and_stop(scenes):
    person = draw_people(np.random.default_rng(1), scenes[0], ASPECT, 16)[0]
    person.place[0], person.velocity[:] = 0.5, (0.03, 0.0)
    person.start, person.stop, person.growth, person.rate = 4.0, 12.0, 0.0, 0.0
    places = {time: position_and_height(person, time)[0] for time in (0, 4, 8, 12, 15)}

    assert places[0] == places[4] == pytest.approx(0.5, abs=0.05)
    assert places[8] - places[4] == pytest.approx(0.12, abs=0.01)
    assert places[12] - places[4] == pytest.approx(0.24, abs=0.01)
    assert places[15] == places[12]


def test_approaching_people_grow(scenes):
    person = draw_people(np.random.default_rng(1), scenes[0], ASPECT, 16)[0]
    person.velocity[:], person.growth, person.rate = 0.0, -0.05, 0.0
    person.place[:] = (0.7, 0.5)

    assert position_and_height(person, 10)[1] / position_and_height(person, 0)[1] == pytest.approx(
        math.exp(-0.5), rel=0.1
    )


def test_pairs_of_people_move_in_opposite_directions_or_not_at_all(scenes):
    for seed in range(20):
        left, right = draw_people(np.random.default_rng(seed), scenes[0], ASPECT, 16)
        assert left.velocity[0] * right.velocity[0] <= 0


def test_people_can_be_disabled(scenes):
    def draw(seed, people):
        return draw_sequence(np.random.default_rng(seed), scenes, 12, SIZE, people=people).images

    assert not all(np.array_equal(draw(seed, True), draw(seed, False)) for seed in range(12))


def test_bars_do_not_move():
    degradation = Degradation(np.random.default_rng(0), bars=(10, 0))
    for time in range(3):
        image = degradation.apply(np.full((144, 192, 3), 200, np.uint8), time)
        assert not image[:10].any()
        assert not image[-10:].any()
        assert (image[10:-10] == 200).all()


def test_colours_keep_brightness():
    table = colours(np.random.default_rng(1))[:, 0].astype(int)

    assert table.shape == (256, 3)
    assert (np.diff(table.mean(1)) >= -1).all()


class TestIsVisible:
    pose = Pose(384, 384, math.log(200), 0.0)

    def visible(self, scene):
        return {
            name for label, name in enumerate(LABELS) if is_visible(scene, self.pose, label, 1.5)
        }

    def test_only_static_is_visible_on_a_blank_wall(self):
        assert self.visible(np.full((768, 768), 90, np.uint8)) == {"static"}

    def test_motion_along_an_edge_is_not_visible(self):
        scene = np.zeros((768, 768), np.uint8)
        scene[:, 384:] = 200

        assert not self.visible(scene) & {"tilt_up", "tilt_down"}

    def test_every_motion_is_visible_on_texture(self):
        rng = np.random.default_rng(0)
        scene = np.kron(rng.integers(0, 255, (48, 48), np.uint8), np.ones((16, 16), np.uint8))

        assert self.visible(scene) == set(LABELS)

    def test_motions_that_are_not_visible_are_ignored(self):
        blank = [np.full((768, 768), 90, np.uint8)]
        rng = np.random.default_rng
        sequences = [
            draw_sequence(rng(s), blank, 16, (72, 96), only_visible=True) for s in range(6)
        ]

        assert {int(v) for sequence in sequences for v in sequence.labels} == {IGNORED, STATIC}
