"""
Fine-tuned backbones in a recognizer folder: a description of the network and its own weights.

Loading one needs neither the original weights nor the name under which they were found.
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

from pipeline.encode.backbone import Backbone, create_network, local_folder, wrap_network
from pipeline.errors import OptionError, RecognizerError

CONFIG_KEYS = (
    *("input_size", "fixed_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std"),
    *("pool_size", "first_conv", "classifier", "license"),
)
"""Entries of timm's configuration that decide how images are preprocessed, and the licence."""
TOLERANCE = 1e-4
"""Largest difference between equal features, relative to the largest feature."""


def describe_network(backbone: Backbone) -> dict[str, Any]:
    """
    Describe how to create the network of a backbone, as plain JSON values.

    Raises:
        OptionError: the description is incomplete: a network created from it has other features.
    """
    config = backbone.network.pretrained_cfg
    values = {
        "architecture": config["architecture"],
        "options": _model_args(backbone.name),
        "config": {name: config[name] for name in CONFIG_KEYS if config.get(name) is not None},
    }
    description: dict[str, Any] = json.loads(json.dumps(values))  # as it will be read
    _check_same_features(backbone, description)
    return description


def _model_args(name: str) -> dict[str, Any]:
    """Return the arguments of a network that timm's layout stores in the folder of its weights."""
    folder = local_folder(name)
    if folder is None:
        return {}
    arguments: dict[str, Any] = json.loads((folder / "config.json").read_text()).get("model_args")
    return arguments or {}


def _check_same_features(backbone: Backbone, description: Mapping[str, Any]) -> None:
    extractor: Any = backbone.module
    rebuilt = _build(description, copy_weights(backbone), extractor.layer, extractor.pool_size)
    rng = torch.Generator().manual_seed(0)
    size = backbone.geometry.height, backbone.geometry.width
    image = torch.rand(1, 3, *size, generator=rng)
    with torch.inference_mode():
        expected, found = extractor(image), rebuilt.module(image)
    # rounding depends on the memory layout of tensors
    atol = TOLERANCE * float(expected.abs().max())
    same = torch.allclose(expected, found, rtol=0, atol=atol)
    if not same or rebuilt.geometry != backbone.geometry:
        raise OptionError(
            f"backbone {backbone.name} cannot be fine-tuned: created again from its description, "
            "it gives other features. Save it in timm's layout (local-dir:PATH) with its model_args"
        )


def copy_weights(backbone: Backbone) -> dict[str, Tensor]:
    """Copy the weights of a backbone to the CPU, to save them as safetensors."""
    state = backbone.network.state_dict()
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


def load_custom_backbone(
    weights: Path, description: Mapping[str, Any], *, layer: str | None, pool_size: int | None
) -> Backbone:
    """
    Load the fine-tuned backbone of a recognizer.

    Args:
        weights: safetensors file.
        description: result of `describe_network`.
        layer: as for `load_backbone`.
        pool_size: as for `load_backbone`.

    Raises:
        RecognizerError: weights or description cannot be read, or do not match each other.
    """
    try:
        return _build(description, load_file(weights), layer, pool_size)
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, OptionError) as error:
        raise RecognizerError(f"{weights} cannot be loaded as a backbone: {error}") from error


def _build(
    description: Mapping[str, Any],
    state: Mapping[str, Tensor],
    layer: str | None,
    pool_size: int | None,
) -> Backbone:
    name, options = description["architecture"], description["options"]
    _check_description(name, options)
    stored = description["config"]
    config = {key: stored[key] for key in CONFIG_KEYS if key in stored}
    network = create_network(name, pretrained=False, options={**options, "pretrained_cfg": config})
    network.load_state_dict(state)
    # timm leaves the architecture empty in a configuration that it does not know
    network.pretrained_cfg["architecture"] = name
    return wrap_network(network, name, layer=layer, pool_size=pool_size)


def _check_description(name: str, options: Mapping[str, Any]) -> None:
    """Check that a description has only options of the architecture, and none that load files."""
    import timm

    loading = {"kwargs", *inspect.signature(timm.create_model).parameters} & set(options)
    if not timm.is_model(name) or loading:
        raise OptionError(
            "the description must name an architecture of timm and only options of its shape; "
            f"got {name} with {', '.join(sorted(loading)) or 'none'}"
        )
