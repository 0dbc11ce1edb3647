"""Blocks of backbones, and freezing."""

from __future__ import annotations

import pytest
import torch

from pipeline.encode.backbone import load_backbone
from pipeline.encode.frame_pair import FramePairNetwork, frame_pair_backbone
from pipeline.errors import OptionError
from pipeline.training.finetune.blocks import blocks_of, last_blocks, unfreeze_last

CNN = "random:test_efficientnet"
RESNET = "random:test_resnet"


def names(blocks):
    return [block.name for block in blocks]


@pytest.mark.parametrize(
    ("name", "last"),
    [
        (RESNET, ["layer3.0", "layer4.0"]),
        (CNN, ["blocks.3.0", "blocks.4.0"]),
        ("random:test_vit", ["blocks.4", "blocks.5"]),
        ("random:test_convnext", ["stages.3", "stages.3.blocks.1"]),
    ],
)
def test_blocks_are_in_forward_order(name, last):
    assert names(last_blocks(load_backbone(name), 2)) == last


def test_blocks_after_the_tap_are_ignored():
    assert names(blocks_of(load_backbone(RESNET, layer="layer2"))) == ["layer1.0", "layer2.0"]


def test_parameters_of_no_group_belong_to_the_block_before():
    last = blocks_of(load_backbone(CNN))[-1]

    assert "conv_head.weight" in last.parameters
    assert "conv_stem.weight" not in {
        name for block in blocks_of(load_backbone(CNN)) for name in block.parameters
    }


@pytest.mark.parametrize("count", [1, 2, 3])
def test_only_the_last_blocks_have_gradients(count):
    backbone = load_backbone(RESNET, layer="layer3", pool_size=2)
    blocks = unfreeze_last(backbone, count)

    backbone.module(torch.rand(2, 3, 64, 64)).sum().backward()

    found = {n for n, p in backbone.network.named_parameters() if p.grad is not None}
    assert names(blocks) == ["layer1.0", "layer2.0", "layer3.0"][-count:]
    assert found == {name for block in blocks for name in block.parameters}
    assert {name.split(".")[0] for name in found} == {b.name.split(".")[0] for b in blocks}


def test_more_blocks_can_be_unfrozen_afterwards():
    backbone = load_backbone(RESNET)
    unfreeze_last(backbone, 1)

    assert names(unfreeze_last(backbone, 2)) == ["layer3.0", "layer4.0"]


@pytest.mark.parametrize("count", [0, 3])
def test_more_blocks_than_there_are_fail(count):
    with pytest.raises(
        OptionError,
        match=rf"^{count} blocks of random:test_resnet .* depend on 2: layer1.0, layer2.0$",
    ):
        unfreeze_last(load_backbone(RESNET, layer="layer2"), count)


def test_a_tap_before_all_blocks_fails():
    with pytest.raises(OptionError, match="the features of random:test_resnet depend on no block"):
        blocks_of(load_backbone(RESNET, layer="maxpool"))


def test_a_backbone_that_is_not_of_timm_fails():
    with pytest.raises(
        OptionError, match=r"backbone pairs has no blocks .* use a backbone of timm"
    ):
        blocks_of(frame_pair_backbone(FramePairNetwork()))
