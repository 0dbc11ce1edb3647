"""
Networks that belong to a recognizer: built from what it says of them, with weights of its own.

Neither the network nor the place that the first weights came from is needed for that.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.encode.backbone import Backbone, create_network, network_of, read_network
from pipeline.errors import OptionError, RecognizerError

LOCAL = "local-dir:"
KEPT = (
    *("input_size", "fixed_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std"),
    *("pool_size", "first_conv", "classifier", "license"),
)
"""What of timm's configuration decides how pictures are made and read, and the licence."""
TOLERANCE = 1e-4
"""Largest difference of features that are the same, as a share of the largest feature."""


def describe_network(backbone: Backbone) -> dict[str, Any]:
    """
    Say how the network of a backbone is built anew: plain JSON.

    Raises:
        OptionError: what can be said is not enough, as the network built so gives other features.
    """
    config = network_of(backbone).pretrained_cfg
    given = {
        "architecture": config["architecture"],
        "options": _options_of(backbone.name),
        "config": {name: config[name] for name in KEPT if config.get(name) is not None},
    }
    said: dict[str, Any] = json.loads(json.dumps(given))  # as it will be read
    _require_same_features(backbone, said)
    return said


def _options_of(name: str) -> dict[str, Any]:
    """Give the options of a network that stand beside its weights, in timm's layout."""
    if not name.startswith(LOCAL):
        return {}
    path = Path(name.removeprefix(LOCAL)).expanduser() / "config.json"
    options: dict[str, Any] = json.loads(path.read_text()).get("model_args") or {}
    return options


def _require_same_features(backbone: Backbone, said: Mapping[str, Any]) -> None:
    reader: Any = backbone.module
    again = _build(said, own_weights(backbone), reader.tap, reader.grid)
    chance = torch.Generator().manual_seed(0)
    size = backbone.geometry.height, backbone.geometry.width
    picture = torch.rand(1, 3, *size, generator=chance)
    with torch.inference_mode():
        wanted, found = reader(picture), again.module(picture)
    # the last digits depend on how tensors lie in memory
    same = torch.allclose(wanted, found, rtol=0, atol=TOLERANCE * float(wanted.abs().max()))
    if not same or again.geometry != backbone.geometry:
        raise OptionError(
            f"backbone {backbone.name} cannot be fine-tuned: built anew from its description, it "
            "gives other features. Save it in timm's layout (local-dir:PATH) with its model_args"
        )


def own_weights(backbone: Backbone) -> dict[str, Tensor]:
    """Give the weights of a backbone, to be saved as safetensors."""
    state = network_of(backbone).state_dict()
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


def load_own(
    weights: Path, said: Mapping[str, Any], *, tap: str | None, grid: int | None
) -> Backbone:
    """
    Load the backbone of a recognizer.

    Args:
        weights: safetensors file.
        said: what `describe_network` gave.
        tap: as for `load_backbone`.
        grid: the same.

    Raises:
        RecognizerError: weights or description are not there, or do not fit each other.
    """
    try:
        return _build(said, load_file(weights), tap, grid)
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, OptionError) as error:
        raise RecognizerError(f"{weights} cannot be loaded as a backbone: {error}") from error


def _build(
    said: Mapping[str, Any], state: Mapping[str, Tensor], tap: str | None, grid: int | None
) -> Backbone:
    name, options = said["architecture"], said["options"]
    _require_harmless(name, options)
    config = {fact: said["config"][fact] for fact in KEPT if fact in said["config"]}
    given = {**options, "pretrained_cfg": config}
    network = create_network(name, pretrained=False, options=given)
    network.load_state_dict(state)
    # timm knows nothing of an architecture that is described from outside, its name included
    network.pretrained_cfg["architecture"] = name
    return read_network(network, name, tap=tap, grid=grid)


def _require_harmless(name: str, options: Mapping[str, Any]) -> None:
    """Let a description only shape a network: never name files or places that timm would load."""
    import timm

    loading = {"kwargs", *inspect.signature(timm.create_model).parameters} & set(options)
    if not timm.is_model(name) or loading:
        raise OptionError(
            f"an architecture of timm is wanted, and options of its shape alone; got {name} with "
            f"{', '.join(sorted(loading)) or 'none'}"
        )
