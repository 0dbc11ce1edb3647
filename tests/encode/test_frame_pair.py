"""The network that encodes a frame together with the previous one."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from pipeline.config import Geometry
from pipeline.encode.frame_pair import (
    GEOMETRY,
    FramePairNetwork,
    frame_pair_backbone,
    load_frame_pair,
)
from pipeline.errors import RecognizerError


def pairs(count=2):
    return torch.rand(count, 6, 72, 96)


@torch.inference_mode()
def run(backbone, images):
    return backbone.module(images)


@pytest.fixture
def backbone():
    return frame_pair_backbone(FramePairNetwork(size=16))


def test_input_is_whole_frames_with_the_previous_frame(backbone):
    assert backbone.geometry == GEOMETRY == Geometry(72, 96, "squash", 1.0, reducing_gap=1)
    assert backbone.previous_frames == 1
    assert (backbone.mean, backbone.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_output_is_motion_and_the_logit_of_a_cut(backbone):
    features = run(backbone, pairs())

    assert backbone.feature_size == 17
    assert features.shape == (2, 17)
    assert features[:, :-1].min() >= 0  # motion features pass a ReLU, the logit does not


def test_the_order_of_the_frames_matters(backbone):
    given = pairs()
    swapped = torch.cat([given[:, 3:], given[:, :3]], dim=1)

    assert (run(backbone, given) - run(backbone, swapped)).abs().max() > 1e-3


def test_motion_does_not_depend_on_exposure(backbone):
    given = pairs() * 0.5 + 0.1
    brighter = given.clone()
    brighter[:, 3:] += 0.25
    change = run(backbone, brighter) - run(backbone, given)

    assert change[:, :-1].abs().max() < 1e-4
    assert change[:, -1].abs().max() > 1e-4


def test_rows_do_not_depend_on_the_batch(backbone):
    given = pairs(5)
    alone = torch.cat([run(backbone, one[None]) for one in given])

    assert torch.allclose(run(backbone, given), alone, atol=1e-5)


def test_saved_weights_are_loaded(tmp_path):
    network = FramePairNetwork()
    save_file(network.state_dict(), tmp_path / "backbone.safetensors")
    made, read = frame_pair_backbone(network), load_frame_pair(tmp_path / "backbone.safetensors")
    given = pairs()

    assert read.identity == made.identity
    assert read.weights_hash == made.weights_hash
    assert torch.equal(run(read, given), run(made, given))


def test_identity_changes_with_the_weights():
    assert (
        frame_pair_backbone(FramePairNetwork()).identity
        != frame_pair_backbone(FramePairNetwork()).identity
    )


def test_weights_of_another_network_fail(tmp_path):
    path = tmp_path / "backbone.safetensors"
    save_file({"weight": torch.zeros(3)}, path)

    with pytest.raises(
        RecognizerError, match=r"backbone\.safetensors has no weights of a frame-pair net"
    ):
        load_frame_pair(path)


def test_missing_weights_fail(tmp_path):
    with pytest.raises(
        RecognizerError, match="has no weights of a frame-pair network: No such file"
    ):
        load_frame_pair(tmp_path / "backbone.safetensors")


def test_a_pickle_is_not_loaded(tmp_path):
    path = tmp_path / "backbone.safetensors"
    torch.save(FramePairNetwork().state_dict(), path)

    with pytest.raises(RecognizerError, match="has no weights of a frame-pair network"):
        load_frame_pair(path)
