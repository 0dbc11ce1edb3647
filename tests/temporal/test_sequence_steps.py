"""Steps of sequences: blocks of frames and their targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import TemporalOptions
from pipeline.temporal.sequence_steps import PreparedSteps, collate_steps, make_steps
from pipeline.temporal.sequences import IGNORED
from tests.temporal.synthetic_sequences import make_sequence

D, K = 3, 3
TARGETS = [0, 1, 1, 2, 2, IGNORED, IGNORED, 1]


def make_model(**changes):
    torch.manual_seed(0)
    options = {"layers": 2, "size": 8, "refine": 1, "refine_layers": 2, **changes}
    return TemporalModel(D, K, TemporalOptions(cell="tcn", **options)).eval()


def make_noise(targets, mask=None):
    features = np.random.default_rng(0).normal(size=(len(targets), D))
    return make_sequence(targets, features, mask=mask)


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_model_gives_steps_the_logits_that_it_gives_their_frames(bidirectional, stride):
    model = make_model(bidirectional=bidirectional, stride=stride, differences=True)
    mask = np.arange(30) % 7 != 3
    sequence = make_noise(np.arange(30) % K, mask)
    batch = collate_steps([make_steps(model, sequence)])
    stages, _ = model.stages(batch.x, batch.lengths, model.initial_state(1))
    frames = model(
        torch.from_numpy(sequence.features[None]), torch.from_numpy(sequence.mask[None])
    ).frames[0, torch.from_numpy(sequence.mask)]
    blocks = frames.unique_consecutive(dim=0)

    assert blocks.shape == stages[-1][0].shape
    assert (blocks - stages[-1][0]).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, TARGETS),
        ({"stride": 2, "bidirectional": True}, [0, 1, 2, IGNORED, 1]),
        ({"stride": 2}, [0, 1, 2, 1]),  # of the frames that a step is held for
        ({"stride": 8}, [1]),
    ],
)
def test_the_target_of_a_step_is_that_of_most_of_its_frames(changes, expected):
    _, targets = make_steps(make_model(**changes), make_noise(TARGETS))

    assert targets.tolist() == expected


def test_several_labels_have_the_share_of_the_frames():
    sets = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]])
    model = make_model(stride=2, bidirectional=True, multi_label=True)
    _, targets = make_steps(model, make_noise(sets))

    assert targets.tolist() == [[1, 0, 0], [0.5, 1, 0]]


@pytest.mark.parametrize("stride", [1, 2])
def test_sequences_without_frames_have_no_steps(stride):
    inputs, targets = make_steps(make_model(stride=stride), make_noise([1, 2], [False, False]))

    assert inputs.shape == (0, D)
    assert targets.shape == (0,)


def test_batches_are_padded_without_targets():
    model = make_model()
    batch = collate_steps([make_steps(model, make_noise(t)) for t in ([0, 1, 1], [1])])

    assert batch.x.shape == (2, 3, D)
    assert batch.lengths.tolist() == [3, 1]
    assert batch.targets.tolist() == [[0, 1, 1], [1, IGNORED, IGNORED]]
    assert batch.has_target.tolist() == [[True] * 3, [True, False, False]]


def test_steps_are_prepared_once():
    steps, sequence = PreparedSteps(make_model(), mirror_grid=1), make_noise([0, 1])

    assert steps(sequence) is steps(sequence)
    assert steps(sequence, flipped=True) is not steps(sequence)
