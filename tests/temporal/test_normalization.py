"""Normalization of the inputs of a model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.errors import OptionError
from pipeline.temporal.batching import valid_frames
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.normalization import fit_normalization
from pipeline.temporal.options import TemporalOptions
from tests.temporal.synthetic_clips import make_example

RECTIFIED = TemporalOptions(cell="mean", differences=True, rectified=True, signed_root=True)
IS_FIRST = torch.ones(1, dtype=torch.bool)


def make_model(options, examples) -> TemporalModel:
    model = TemporalModel(examples[0].features.shape[1], 2, options)
    fit_normalization(model, valid_frames(examples))
    return model


def with_differences(model, x) -> torch.Tensor:
    """Standardized features of whole clips (1, L, D) with their differences, (1, L, P)."""
    standardized = model.inputs.standardize(x)
    return model.inputs.with_differences(standardized, standardized[:, 0], IS_FIRST)


def scaled_inputs(model, example) -> torch.Tensor:
    """The scaled inputs of a clip, (L, P)."""
    x = torch.from_numpy(example.features)
    inputs = with_differences(model, x.unsqueeze(0))[0]
    return (inputs - model.inputs.centre) * model.inputs.weight


@pytest.fixture
def clips():
    """Clips with a feature that differs between clips only, and one that differs within clips."""
    rng = np.random.default_rng(0)
    clips = []
    for _ in range(40):
        still = np.full(30, rng.normal(5, 3))
        moving = rng.normal(size=30) * rng.uniform(0.5, 1.5)
        clips.append(make_example(0, np.stack([still, moving], axis=1)))
    return clips


def test_features_get_mean_0_and_deviation_1(clips):
    model = make_model(TemporalOptions(), clips)

    x = torch.from_numpy(np.concatenate([clip.features for clip in clips]))
    standardized = with_differences(model, x.unsqueeze(0))
    assert standardized.mean((0, 1)).tolist() == pytest.approx([0, 0], abs=1e-5)
    assert standardized.std((0, 1), correction=0).tolist() == pytest.approx([1, 1], abs=1e-4)


def test_masked_frames_are_ignored():
    example = make_example(0, [[1], [3], [999]], mask=[True, True, False])

    model = make_model(TemporalOptions(), [example])

    assert model.inputs.mean.tolist() == [2]
    assert model.inputs.scale.tolist() == [1]


def test_with_signed_root_the_statistics_are_those_of_the_roots():
    model = make_model(TemporalOptions(signed_root=True), [make_example(0, [[9], [-25]])])

    assert model.inputs.mean.tolist() == [-1]
    assert model.inputs.scale.tolist() == [0.25]


def test_a_constant_feature_is_multiplied_by_0():
    clips = [make_example(0, [[1000.3, 50.3, 0]] * 9), make_example(1, [[1000.3, 50.3, 4]] * 9)]
    model = make_model(TemporalOptions(), clips)
    later = torch.tensor([[[900.0, 51.0, 1.0]]])

    inputs = with_differences(model, later)

    assert inputs.tolist() == [[[0.0, 0.0, -0.5]]]


def test_the_gradient_of_the_signed_root_is_finite_at_0():
    inputs = TemporalModel(4, 2, TemporalOptions(signed_root=True)).inputs
    x = torch.tensor([0.0, -0.0, 4.0, -16.0], requires_grad=True)

    roots = inputs.signed_sqrt(x)
    roots.sum().backward()

    assert roots.tolist() == [0, 0, 2, -4]
    assert x.grad.tolist() == [0, 0, 0.25, 0.125]


def test_what_changes_in_all_cells_alike_is_subtracted_from_differences():
    options = replace(RECTIFIED, motion_grid=2, signed_root=False)
    model = TemporalModel(8, 2, options)  # two channels of 2 × 2 cells
    x = torch.zeros(1, 3, 8)
    x[0, 1:] = 5.0  # in all cells
    x[0, 2, 6] += 4.0  # in one cell of the second channel

    still, rises, falls = with_differences(model, x)[0].split(8, dim=1)

    assert torch.equal(still, x[0])
    assert rises.tolist() == [[0] * 8, [0] * 8, [0] * 6 + [3, 0]]
    assert falls.tolist() == [[0] * 8, [0] * 8, [0] * 4 + [1, 1, 0, 1]]


def test_motion_of_features_without_the_grid_cannot_be_compensated():
    with pytest.raises(OptionError, match="size 9 are not a grid of 2 × 2 cells"):
        TemporalModel(9, 2, replace(RECTIFIED, motion_grid=2))
    with pytest.raises(OptionError, match="motion_grid needs differences"):
        TemporalOptions(motion_grid=2)


def test_differences_are_split_by_sign():
    model = make_model(RECTIFIED, [make_example(0, [[0], [4], [1]])])
    x = torch.tensor([[[0.0], [4.0], [1.0]]])

    _, rises, falls = with_differences(model, x)[0].T

    std = torch.tensor([0.0, 2.0, 1.0]).std(correction=0)
    torch.testing.assert_close(rises * std, torch.tensor([0.0, 2.0, 0.0]))
    torch.testing.assert_close(falls * std, torch.tensor([0.0, 0.0, 1.0]))


def test_motion_and_background_have_the_same_scale_between_clips(clips):
    model = make_model(RECTIFIED, clips)

    means = torch.stack([scaled_inputs(model, clip).mean(0) for clip in clips])
    between = means.std(0, correction=0)
    assert (between[0] / between[3]).item() == pytest.approx(1, abs=1e-3)
    assert (between[3] / between[5]).item() == pytest.approx(1, abs=1e-3)
    assert between[2] == between[4] == 0  # the still feature neither rises nor falls


def test_the_rms_of_all_inputs_is_1(clips):
    model = make_model(RECTIFIED, clips)

    inputs = torch.cat([scaled_inputs(model, clip) for clip in clips])

    assert inputs.square().mean().sqrt().item() == pytest.approx(1, abs=1e-3)
    assert inputs.mean(0).abs().max().item() < 1e-4


def test_a_single_clip_is_enough():
    model = make_model(RECTIFIED, [make_example(0, [[0, 1], [4, 1], [1, 1]])])

    assert bool(torch.isfinite(model.inputs.weight).all())
    assert model.inputs.weight.count_nonzero() == 3  # constant inputs have weight 0


def test_empty_clips_are_ignored(clips):
    empty = make_example(0, np.zeros((0, 2)))

    model = make_model(RECTIFIED, [*clips, empty])

    assert torch.equal(model.inputs.weight, make_model(RECTIFIED, clips).inputs.weight)
