from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pipeline.browse.candidates import Candidates, project, standardize
from pipeline.browse.label_queue import MIN_PROBE_LABELS, WAITING, LabelQueue, cross_validated
from pipeline.browse.media import ClipPart
from pipeline.records import Video

CLASSES = 4


def make_candidates(videos=20, clips=4, margins=None, noise=1.0, seed=0):
    """Clusters: the label of a clip is the number of its cluster."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(CLASSES, 32)) * 3
    labels = rng.integers(CLASSES, size=videos * clips)
    vectors = centres[labels] + noise * rng.normal(size=(len(labels), 32))
    sources = [Video(f"{n}.mp4", f"/v/{n}.mp4", "file", str(n), 1) for n in range(videos)]
    parts = [ClipPart(v, 2.0 * c, 2.0 * c + 2) for v in range(videos) for c in range(clips)]
    spread = standardize(vectors.astype(np.float32))
    durations = [2.0 * clips] * videos
    return Candidates(sources, parts, spread, margins, durations), labels


def ask(queue, labels, count):
    """Answer the clips that the queue gives."""
    rows = []
    for _ in range(count):
        row = queue.next(0.0)
        queue.label(row, f"label {labels[row]}")
        rows.append(row)
    return rows


def test_without_a_recognizer_the_first_clips_differ():
    candidates, labels = make_candidates(noise=0.3)
    queue = LabelQueue(candidates)

    rows = ask(queue, labels, CLASSES)

    assert {labels[row] for row in rows} == set(range(CLASSES))


def test_with_a_recognizer_the_least_clear_clips_come_first():
    margins = np.linspace(1, 0, 80, dtype=np.float32)
    candidates, labels = make_candidates(clips=1, videos=80, margins=margins)

    assert ask(LabelQueue(candidates), labels, 5) == [79, 78, 77, 76, 75]


def test_answers_are_spread_over_the_videos():
    candidates, labels = make_candidates(videos=10, clips=10)
    queue = LabelQueue(candidates)

    rows = ask(queue, labels, 30)

    assert set(Counter(row // 10 for row in rows).values()) == {3}


def test_a_probe_is_fitted_after_enough_answers():
    candidates, labels = make_candidates(noise=0.5)
    queue = LabelQueue(candidates)

    ask(queue, labels, MIN_PROBE_LABELS - 1)
    assert queue.accuracy is None
    ask(queue, labels, 1)
    assert queue.accuracy > 0.9


def test_the_accuracy_of_the_probe_is_that_on_other_videos():
    rng = np.random.default_rng(0)
    vectors, targets = rng.normal(size=(60, 40)), rng.integers(2, size=60)

    accuracy = cross_validated(vectors, targets, np.arange(60) // 3, 2)

    assert 0.3 < accuracy < 0.7
    assert cross_validated(vectors, targets, np.zeros(60, int), 2) is None


def test_the_probe_prefers_clips_between_two_labels():
    candidates, labels = make_candidates(videos=200, clips=1)
    between = candidates.vectors[labels == 0][0] + candidates.vectors[labels == 1][0]
    candidates.vectors[-1] = between / 2
    queue = LabelQueue(candidates)
    queue._open[-1] = False  # not before there is a probe
    ask(queue, labels, MIN_PROBE_LABELS)
    queue._open[-1] = True

    assert 199 in ask(queue, labels, 4)


def test_two_browsers_get_different_clips_until_one_gives_up():
    candidates, _ = make_candidates(videos=2, clips=1)
    queue = LabelQueue(candidates)

    first, second = queue.next(0.0), queue.next(1.0)

    assert {first, second} == {0, 1}
    assert queue.next(2.0) in {0, 1}  # better the same clip than none
    assert queue.next(WAITING + 0.5) == first


def test_skipped_and_labelled_clips_are_not_offered_again_until_undone():
    candidates, labels = make_candidates(videos=3, clips=1)
    queue = LabelQueue(candidates)
    row = queue.next(0.0)
    queue.skip(row)
    others = ask(queue, labels, 2)

    assert queue.next(0.0) is None
    assert row not in others
    queue.reopen(others[0])
    assert queue.next(0.0) == others[0]
    assert sum(queue.counts().values()) == 1


def test_projection_keeps_angles():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 20_000)).astype(np.float32)
    b += a

    def cosine(x, y):
        return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))

    assert cosine(project(a), project(b)) == pytest.approx(cosine(a, b), abs=0.1)
