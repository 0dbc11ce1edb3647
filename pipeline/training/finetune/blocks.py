"""Blocks of a backbone in forward order, as timm groups parameters; freezing of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch

from pipeline.encode.backbone import Backbone
from pipeline.errors import OptionError

MATCH_PREVIOUS_GROUP = (99999,)
"""In group matchers of timm: the parameter belongs to the previous group."""


@dataclass(frozen=True, slots=True)
class Block:
    """Layers that belong together, such as a residual block."""

    name: str
    """Name of the module, such as `blocks.4.2`."""
    parameters: tuple[str, ...]
    """Names of the parameters that the features depend on."""


def unfreeze_last(backbone: Backbone, count: int) -> list[Block]:
    """
    Freeze a backbone except its last blocks before the tap or the end.

    Returns:
        The blocks that are not frozen, in forward order.

    Raises:
        OptionError: there are fewer blocks.
    """
    chosen = last_blocks(backbone, count)
    trainable = {name for block in chosen for name in block.parameters}
    for name, parameter in backbone.network.named_parameters():
        parameter.requires_grad_(name in trainable)
    return chosen


def last_blocks(backbone: Backbone, count: int) -> list[Block]:
    """
    Give the last blocks before the tap or the end, in forward order.

    Raises:
        OptionError: there are fewer blocks.
    """
    blocks = blocks_of(backbone)
    if not 1 <= count <= len(blocks):
        raise OptionError(
            f"{count} blocks of {backbone.name} cannot be fine-tuned, as its features depend on "
            f"{len(blocks)}: {', '.join(block.name for block in blocks)}"
        )
    return blocks[-count:]


def blocks_of(backbone: Backbone) -> list[Block]:
    """
    Give the blocks that the features depend on, in forward order, without the stem.

    Raises:
        OptionError: the backbone has no blocks.
    """
    _, *groups = _groups(backbone)
    used = _used(backbone)
    names_by_group = [tuple(name for name in group if name in used) for group in groups]
    blocks = [Block(_module_name(names), names) for names in names_by_group if names]
    if not blocks:
        raise OptionError(f"the features of {backbone.name} depend on no block: tap a later module")
    return blocks


def _groups(backbone: Backbone) -> list[list[str]]:
    """Give the parameter names of the stem, then of each block."""
    from timm.models import group_parameters

    network = backbone.network
    if backbone.previous_frames or not hasattr(network, "group_matcher"):
        raise OptionError(
            f"backbone {backbone.name} has no blocks to fine-run_finetune: use a backbone of timm"
        )
    # parameters that match no group, such as a last norm, belong to the block before them
    matcher = {**network.group_matcher(coarse=False), "rest": [(r".", MATCH_PREVIOUS_GROUP)]}
    groups = group_parameters(network, matcher, return_values=False)
    return [groups[number] for number in sorted(groups)]


def _used(backbone: Backbone) -> set[str]:
    """Give the names of the parameters that the features depend on: none after the tap."""
    names, parameters = zip(*backbone.network.named_parameters(), strict=True)
    trainable = [parameter.requires_grad for parameter in parameters]
    frame = torch.zeros(1, 3, backbone.geometry.height, backbone.geometry.width)
    for parameter in parameters:
        parameter.requires_grad_(True)
    features = backbone.module(frame.to(parameters[0].device))
    gradients = torch.autograd.grad(features.sum(), parameters, allow_unused=True)
    for parameter, value in zip(parameters, trainable, strict=True):
        parameter.requires_grad_(value)
    return {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}


def _module_name(names: Sequence[str]) -> str:
    """Give the innermost module with all parameters that share the first part of the first name."""
    paths = [name.split(".") for name in names]
    same_root = [path for path in paths if path[0] == paths[0][0]]
    levels = takewhile(lambda level: len(set(level)) == 1, zip(*same_root, strict=False))
    return ".".join(level[0] for level in levels)
