"""Inputs of a model are brought to sizes that can be compared."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.temporal.models import TemporalModel
from pipeline.temporal.normalization import standardize
from pipeline.temporal.options import TemporalOptions
from tests.temporal.lessons import make_example

RECTIFIED = TemporalOptions(cell="mean", differences=True, rectified=True, signed_root=True)


def made(options, examples) -> TemporalModel:
    model = TemporalModel(examples[0].features.shape[1], 2, options)
    standardize(model, examples)
    return model


def seen(model, example) -> torch.Tensor:
    """What is projected of a clip, (L, P)."""
    x = torch.from_numpy(example.features)
    joined = model.inputs.joined(x.unsqueeze(0), x[:1], torch.ones(1, dtype=torch.bool))[0]
    return (joined - model.inputs.centre) * model.inputs.weight


@pytest.fixture
def clips():
    """Clips of one feature that differs between clips only, and one that moves only."""
    chance = np.random.default_rng(0)
    clips = []
    for _ in range(40):
        still = np.full(30, chance.normal(5, 3))
        moving = chance.normal(size=30) * chance.uniform(0.5, 1.5)
        clips.append(make_example(0, np.stack([still, moving], axis=1)))
    return clips


def test_features_get_mean_0_and_deviation_1(clips):
    model = made(TemporalOptions(), clips)

    x = torch.from_numpy(np.concatenate([clip.features for clip in clips]))
    standardized = model.inputs.joined(x.unsqueeze(0), x[:1], torch.ones(1, dtype=torch.bool))
    assert standardized.mean((0, 1)).tolist() == pytest.approx([0, 0], abs=1e-5)
    assert standardized.std((0, 1), correction=0).tolist() == pytest.approx([1, 1], abs=1e-4)


def test_frames_that_do_not_count_are_not_measured():
    example = make_example(0, [[1], [3], [999]], counts=[True, True, False])

    model = made(TemporalOptions(), [example])

    assert model.inputs.mean.tolist() == [2]
    assert model.inputs.scale.tolist() == [1]


def test_of_signed_roots_the_roots_are_measured():
    model = made(TemporalOptions(signed_root=True), [make_example(0, [[9], [-25]])])

    assert model.inputs.mean.tolist() == [-1]
    assert model.inputs.scale.tolist() == [0.25]


def test_a_feature_that_never_changed_is_not_looked_at():
    """Whatever it does later was not learned from."""
    clips = [make_example(0, [[1000.3, 50.3, 0]] * 9), make_example(1, [[1000.3, 50.3, 4]] * 9)]
    model = made(TemporalOptions(), clips)
    later = torch.tensor([[[900.0, 51.0, 1.0]]])

    joined = model.inputs.joined(later, later[:, 0], torch.ones(1, dtype=torch.bool))

    assert joined.tolist() == [[[0.0, 0.0, -0.5]]]


def test_the_gradient_of_signed_roots_is_a_number_at_0():
    inputs = TemporalModel(4, 2, TemporalOptions(signed_root=True)).inputs
    x = torch.tensor([0.0, -0.0, 4.0, -16.0], requires_grad=True)

    roots = inputs.evened(x)
    roots.sum().backward()

    assert roots.tolist() == [0, 0, 2, -4]
    assert x.grad.tolist() == [0, 0, 0.25, 0.125]


def test_rises_and_falls_are_told_apart():
    model = made(RECTIFIED, [make_example(0, [[0], [4], [1]])])
    x = torch.tensor([[[0.0], [4.0], [1.0]]])

    _, rises, falls = model.inputs.joined(x, x[:, 0], torch.ones(1, dtype=torch.bool))[0].T

    std = torch.tensor([0.0, 2.0, 1.0]).std(correction=0)
    torch.testing.assert_close(rises * std, torch.tensor([0.0, 2.0, 0.0]))
    torch.testing.assert_close(falls * std, torch.tensor([0.0, 0.0, 1.0]))


def test_movement_weighs_as_much_as_the_background(clips):
    """Between clips, all that differs at all differs as much; between frames, movement by far."""
    model = made(RECTIFIED, clips)

    means = torch.stack([seen(model, clip).mean(0) for clip in clips])
    between = means.std(0, correction=0)
    assert (between[0] / between[3]).item() == pytest.approx(1, abs=1e-3)
    assert (between[3] / between[5]).item() == pytest.approx(1, abs=1e-3)
    assert between[2] == between[4] == 0  # the still feature neither rises nor falls


def test_all_inputs_together_have_size_1(clips):
    model = made(RECTIFIED, clips)

    every = torch.cat([seen(model, clip) for clip in clips])

    assert every.square().mean().sqrt().item() == pytest.approx(1, abs=1e-3)
    assert every.mean(0).abs().max().item() < 1e-4


def test_a_single_clip_is_enough():
    model = made(RECTIFIED, [make_example(0, [[0, 1], [4, 1], [1, 1]])])

    assert bool(torch.isfinite(model.inputs.weight).all())
    assert model.inputs.weight.count_nonzero() == 3  # of what changes at all


def test_empty_clips_are_passed_over(clips):
    empty = make_example(0, np.zeros((0, 2)))

    model = made(RECTIFIED, [*clips, empty])

    assert torch.equal(model.inputs.weight, made(RECTIFIED, clips).inputs.weight)
