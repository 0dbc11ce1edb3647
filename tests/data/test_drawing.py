"""The drawn footage says of itself what is true."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from data.camera_motion.drawing import (
    IGNORED,
    LABELS,
    Pose,
    Spoil,
    colours,
    compress,
    draw_mover,
    draw_people,
    draw_scene,
    view,
)
from data.camera_motion.shots import SLOWEST, STATIC, draw_sequence, shows
from data.camera_motion.train import MIRRORED

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
    """Movement of the scene from one picture to the next at five places, (y, x) pixels."""
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


def test_movements_mirror_each_other(scenes):
    """What MIRRORED says of labels is what a mirror does to pictures."""
    pose = Pose(100, 200, math.log(150), 0.0)
    for label in range(1, len(LABELS)):
        after = view(scenes[0], pose.moved(label, 0.05, ASPECT), ASPECT, SIZE)
        mirror = Pose(768 - 1 - pose.x, pose.y, pose.log_height, 0.0)
        seen = view(
            np.ascontiguousarray(scenes[0][:, ::-1]),
            mirror.moved(int(MIRRORED[label]), 0.05, ASPECT),
            ASPECT,
            SIZE,
        )
        assert np.abs(seen[:, ::-1].astype(int) - after).mean() < 2, LABELS[label]


def test_scenes_are_never_empty(scenes):
    assert min(scene.std() for scene in scenes) > 2


def test_the_same_seed_draws_the_same(scenes):
    first = draw_sequence(np.random.default_rng(5), scenes, 12, SIZE)
    again = draw_sequence(np.random.default_rng(5), scenes, 12, SIZE)

    assert np.array_equal(first.pictures, again.pictures)
    assert np.array_equal(first.labels, again.labels)


def test_sequences_tell_labels_and_shots(scenes):
    rng = np.random.default_rng(3)
    drawn = [draw_sequence(rng, scenes, 16, SIZE) for _ in range(40)]

    for sequence in drawn:
        assert sequence.pictures.shape == (16, *SIZE, 3)
        assert sequence.pictures.dtype == np.uint8
        starts = np.flatnonzero(np.diff(sequence.shot, prepend=-1))
        assert (sequence.labels[starts] == IGNORED).all()
    found = set(np.concatenate([sequence.labels for sequence in drawn]).tolist())
    assert found == {IGNORED, *range(len(LABELS))}
    assert {int(sequence.shot.max()) for sequence in drawn} == {0, 1, 2}


def test_slow_movement_is_neither_static_nor_certain(scenes):
    """Between standing still and the slowest movement nothing is claimed."""
    from data.camera_motion.shots import _truth

    pan = LABELS.index("pan_left")
    assert _truth(pan, SLOWEST["pan"]) == pan
    assert _truth(pan, 0.7 * SLOWEST["pan"]) == IGNORED
    assert _truth(pan, 0.1 * SLOWEST["pan"]) == STATIC


def test_compression_keeps_what_is_seen(scenes):
    rng = np.random.default_rng(0)
    pictures = [cv2.merge([view(scenes[1], Pose(i * 9, 0, 5.0, 0), ASPECT)] * 3) for i in range(5)]

    after = compress(pictures, rng)

    assert len(after) == 5
    assert max(np.abs(a.astype(int) - b).mean() for a, b in zip(pictures, after, strict=True)) < 25


def test_things_move_before_the_scene(scenes):
    rng = np.random.default_rng(2)
    mover = draw_mover(rng, scenes[0], ASPECT)
    mover.velocity[:] = (0.05, 0.0)
    mover.place[:] = (0.3, 0.5)
    blank = np.full((144, 192, 3), 128, np.uint8)
    first, later = blank.copy(), blank.copy()
    mover.draw(first, 0)
    mover.draw(later, 6)

    def centre(picture):
        return np.argwhere((picture != 128).any(2)).mean(0)[1]

    assert centre(later) - centre(first) == pytest.approx(0.05 * 6 * 144, rel=0.5)


def across(person, time):
    """Give where someone stands at a time, and how high they are, both in picture heights."""
    blank = np.full((144, 192, 3), 128, np.uint8)
    picture = blank.copy()
    person.draw(picture, time)
    rows, columns = np.nonzero((picture != blank).any(2))
    return columns.mean() / 144, (rows.max() - rows.min() + 1) / 144


def test_people_walk_the_way_their_velocity_says_and_stand_before_and_after(scenes):
    person = draw_people(np.random.default_rng(1), scenes[0], ASPECT, 16)[0]
    person.place[0], person.velocity[:] = 0.5, (0.03, 0.0)
    person.start, person.stop, person.growth, person.rate = 4.0, 12.0, 0.0, 0.0
    places = {time: across(person, time)[0] for time in (0, 4, 8, 12, 15)}

    assert places[0] == places[4] == pytest.approx(0.5, abs=0.05)
    assert places[8] - places[4] == pytest.approx(0.12, abs=0.01)
    assert places[12] - places[4] == pytest.approx(0.24, abs=0.01)
    assert places[15] == places[12]


def test_people_who_come_nearer_grow(scenes):
    person = draw_people(np.random.default_rng(1), scenes[0], ASPECT, 16)[0]
    person.velocity[:], person.growth, person.rate = 0.0, -0.05, 0.0
    person.place[:] = (0.7, 0.5)

    assert across(person, 10)[1] / across(person, 0)[1] == pytest.approx(math.exp(-0.5), rel=0.1)


def test_pairs_of_people_move_against_each_other_or_not_at_all(scenes):
    for seed in range(20):
        left, right = draw_people(np.random.default_rng(seed), scenes[0], ASPECT, 16)
        assert left.velocity[0] * right.velocity[0] <= 0


def test_people_can_be_left_out(scenes):
    def draw(seed, people):
        return draw_sequence(np.random.default_rng(seed), scenes, 12, SIZE, people=people).pictures

    assert not all(np.array_equal(draw(seed, True), draw(seed, False)) for seed in range(12))


def test_bars_and_overlays_stay_where_they_are():
    spoil = Spoil(np.random.default_rng(0), bars=(10, 0))
    for time in range(3):
        picture = spoil.apply(np.full((144, 192, 3), 200, np.uint8), time)
        assert not picture[:10].any()
        assert not picture[-10:].any()
        assert (picture[10:-10] == 200).all()


def test_colours_keep_brightness():
    table = colours(np.random.default_rng(1))[:, 0].astype(int)

    assert table.shape == (256, 3)
    assert (np.diff(table.mean(1)) >= -1).all()


class TestShows:
    """What a scene does not show is not asked of a recognizer."""

    pose = Pose(384, 384, math.log(200), 0.0)

    def shown(self, scene):
        return {name for label, name in enumerate(LABELS) if shows(scene, self.pose, label, 1.5)}

    def test_a_blank_wall_shows_nothing_but_rest(self):
        assert self.shown(np.full((768, 768), 90, np.uint8)) == {"static"}

    def test_an_edge_shows_no_movement_along_itself(self):
        scene = np.zeros((768, 768), np.uint8)
        scene[:, 384:] = 200

        assert not self.shown(scene) & {"tilt_up", "tilt_down"}

    def test_texture_shows_every_movement(self):
        rng = np.random.default_rng(0)
        scene = np.kron(rng.integers(0, 255, (48, 48), np.uint8), np.ones((16, 16), np.uint8))

        assert self.shown(scene) == set(LABELS)

    def test_what_is_not_shown_is_unclear(self):
        blank = [np.full((768, 768), 90, np.uint8)]
        rng = np.random.default_rng
        asked = [draw_sequence(rng(s), blank, 16, (72, 96), only_shown=True) for s in range(6)]

        assert {int(v) for sequence in asked for v in sequence.labels} == {IGNORED, STATIC}
