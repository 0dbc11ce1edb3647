"""The blocks of a backbone in the order in which a picture passes them, as timm groups them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch

from pipeline.encode.backbone import Backbone
from pipeline.errors import OptionError

PREVIOUS = (99999,)
"""What timm's matchers call the group before."""


@dataclass(frozen=True, slots=True)
class Block:
    """Layers that belong together, such as those around one residual connection."""

    name: str
    """Of the module, such as `blocks.4.2`."""
    parameters: tuple[str, ...]
    """Names of those that features depend on."""


def free_last(backbone: Backbone, count: int) -> list[Block]:
    """
    Let the last blocks before the tap, or before the end, learn, and freeze everything else.

    Returns:
        Those that learn, the last one last.

    Raises:
        OptionError: there are fewer blocks.
    """
    chosen = last_blocks(backbone, count)
    free = {name for block in chosen for name in block.parameters}
    for name, parameter in backbone.network.named_parameters():
        parameter.requires_grad_(name in free)
    return chosen


def last_blocks(backbone: Backbone, count: int) -> list[Block]:
    """
    Give the last blocks before the tap, or before the end.

    Raises:
        OptionError: there are fewer blocks.
    """
    blocks = blocks_of(backbone)
    if not 1 <= count <= len(blocks):
        raise OptionError(
            f"{count} blocks of {backbone.name} are to be fine-tuned; those that its features "
            f"come from are {len(blocks)}: {', '.join(block.name for block in blocks)}"
        )
    return blocks[-count:]


def blocks_of(backbone: Backbone) -> list[Block]:
    """
    Give the blocks that features depend on, the first one first; the stem is none.

    Raises:
        OptionError: the backbone has no blocks.
    """
    _, *groups = _groups(backbone)
    used = _used(backbone)
    found = [tuple(name for name in group if name in used) for group in groups]
    blocks = [Block(_common(names), names) for names in found if names]
    if not blocks:
        raise OptionError(f"no features of {backbone.name} come from a block: tap a later module")
    return blocks


def _groups(backbone: Backbone) -> list[list[str]]:
    """Give the names of the parameters of the stem, then of each block."""
    from timm.models import group_parameters

    network = backbone.network
    if backbone.previous_frames or not hasattr(network, "group_matcher"):
        raise OptionError(
            f"backbone {backbone.name} has no blocks that could be fine-tuned: take one of timm"
        )
    # what no group claims, such as a last norm, belongs to the block before it
    matcher = {**network.group_matcher(coarse=False), "rest": [(r".", PREVIOUS)]}
    groups = group_parameters(network, matcher, return_values=False)
    return [groups[number] for number in sorted(groups)]


def _used(backbone: Backbone) -> set[str]:
    """Name the parameters that features depend on: none behind the tap."""
    names, parameters = zip(*backbone.network.named_parameters(), strict=True)
    before = [parameter.requires_grad for parameter in parameters]
    picture = torch.zeros(1, 3, backbone.geometry.height, backbone.geometry.width)
    for parameter in parameters:
        parameter.requires_grad_(True)
    features = backbone.module(picture.to(parameters[0].device))
    found = torch.autograd.grad(features.sum(), parameters, allow_unused=True)
    for parameter, wanted in zip(parameters, before, strict=True):
        parameter.requires_grad_(wanted)
    return {name for name, gradient in zip(names, found, strict=True) if gradient is not None}


def _common(names: Sequence[str]) -> str:
    """Name the module that parameters belong to, or most of them: the first tells which."""
    paths = [name.split(".") for name in names]
    alike = [path for path in paths if path[0] == paths[0][0]]
    levels = takewhile(lambda level: len(set(level)) == 1, zip(*alike, strict=False))
    return ".".join(level[0] for level in levels)
