"""
Backbones: the CNN (or ViT) that turns a picture into features, and the pictures it wants.

A backbone is named by what timm knows (`resnet50.a1_in1k`), by a folder in timm's layout (`local-
dir:PATH`), or as untrained on purpose (`random:resnet50`). `tap` reads an inner block instead of
the last one; `grid` keeps where in the picture a feature was, which global pooling throws away.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.config import Fit, Geometry, fingerprint
from pipeline.errors import OptionError, RecognizerError

RANDOM = "random:"
RANDOM_SEED = 0
MIDDLE_REDUCTION = 16


@dataclass(frozen=True)
class Backbone:
    """A network that gives (B, D) features of (B, 3 · (1 + context), H, W) normalized pictures."""

    name: str
    module: nn.Module
    weights_hash: str
    geometry: Geometry
    interpolation: str
    """Filter of the last resize: `bilinear` or `bicubic`, antialiased."""
    mean: tuple[float, float, float]
    """Of RGB in [0, 1]."""
    std: tuple[float, float, float]
    feature_size: int
    context: int = 0
    """Frames before a frame that are given to the network with it."""
    options: str = ""
    """Architecture, tap and grid, as part of what the features are."""
    licence: str | None = None

    @property
    def identity(self) -> str:
        """Hash of everything that a feature depends on, but its frame and the arithmetic."""
        return fingerprint(
            self.weights_hash,
            self.geometry,
            self.interpolation,
            list(self.mean),
            list(self.std),
            self.context,
            self.options,
        )


def hash_weights(module: nn.Module) -> str:
    """Hash names, shapes and values of all parameters and buffers into 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name}{tuple(values.shape)}{values.dtype}".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_backbone(
    name: str, *, weights: Path | None = None, tap: str | None = None, grid: int | None = None
) -> Backbone:
    """
    Load a backbone by name.

    Args:
        name: a timm name, `local-dir:PATH`, or `random:NAME` for untrained weights.
        weights: safetensors file to load instead of the pretrained weights of a timm name.
        tap: name of the module to read (`blocks.4`); None reads the end of the network.
        grid: pool space to grid × grid cells instead of one; D becomes channels · grid².

    Raises:
        OptionError: no such model, tap or grid, or weights that do not fit.
    """
    network = create_network(name, pretrained=not name.startswith(RANDOM) and weights is None)
    if weights is not None:
        _load_weights(network, name, weights)
    return read_network(network, name, tap=tap, grid=grid)


def read_network(network: Any, name: str, *, tap: str | None, grid: int | None) -> Backbone:
    """Make a network of timm a backbone; raises as `load_backbone` does."""
    config = _data_config(network)
    reader = _Reader(network, tap, grid).eval()
    geometry = _geometry(config)
    with torch.inference_mode():
        features = _probe(reader, geometry, name)
    return Backbone(
        name=name,
        module=reader,
        weights_hash=hash_weights(network),
        geometry=geometry,
        interpolation=_interpolation(config),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        feature_size=features.shape[1],
        # the same weights may belong to networks that differ in activations or padding
        options=f"{network.pretrained_cfg['architecture']} tap={tap or ''} grid={grid or ''}",
        licence=network.pretrained_cfg.get("license"),
    )


def network_of(backbone: Backbone) -> Any:
    """Give the network whose weights a backbone has."""
    return getattr(backbone.module, "network", backbone.module)


def middle_tap(name: str) -> str | None:
    """
    Name the module of a network that movement is best read from.

    It is the last one whose maps are a 16th of the picture: later ones say what is seen, and hardly
    where. None where the network does not tell.

    Raises:
        OptionError: no such model.
    """
    network = create_network(name, pretrained=False)
    stages = getattr(network, "feature_info", [])
    modules = dict(network.named_modules())
    named = [stage["module"] for stage in stages if stage["reduction"] == MIDDLE_REDUCTION]
    return next((module for module in reversed(named) if module in modules), None)


def create_network(name: str, *, pretrained: bool, options: Mapping[str, Any] | None = None) -> Any:
    """
    Create a network of timm without its classifier.

    Args:
        name: as for `load_backbone`.
        pretrained: whether weights are loaded; otherwise they are the same random ones each time.
        options: for timm, beside those that belong to the name.

    Raises:
        OptionError: timm cannot.
    """
    import timm

    given = {"num_classes": 0, **(options or {})}
    try:
        with torch.random.fork_rng(devices=[]):  # the caller's chance stays as it was
            torch.manual_seed(RANDOM_SEED)
            network = timm.create_model(name.removeprefix(RANDOM), pretrained=pretrained, **given)
    except Exception as error:  # timm raises whatever its loaders do: names, files, network
        raise OptionError(
            f"backbone {name} could not be loaded: {error}. Give a name that timm knows, "
            "local-dir:PATH, or random:NAME for untrained weights"
        ) from error
    return network.eval()


def _load_weights(network: nn.Module, name: str, weights: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise OptionError(f"weights {weights} cannot be read as safetensors: {error}") from error
    try:
        missing, surplus = network.load_state_dict(state, strict=False)
    except RuntimeError as error:  # right names, wrong shapes
        said = " ".join(str(error).split())
        raise OptionError(f"weights {weights} do not fit {name}: {said}") from error
    classifier = {key for key in surplus if key.split(".")[0] in ("classifier", "fc", "head")}
    wrong = [*missing, *(set(surplus) - classifier)]
    if wrong:
        raise OptionError(f"weights {weights} do not fit {name}: {', '.join(sorted(wrong)[:5])} …")


def _data_config(network: Any) -> dict[str, Any]:
    from timm.data import resolve_model_data_config

    config: dict[str, Any] = resolve_model_data_config(network)
    return config


def _geometry(config: dict[str, Any]) -> Geometry:
    _, height, width = config["input_size"]
    mode = config.get("crop_mode", "center")
    if mode == "border":
        raise OptionError("backbones with the crop mode `border` are not supported")
    fit: Fit = "squash" if mode == "squash" or height != width else "short"
    return Geometry(height, width, fit, config["crop_pct"])


def _interpolation(config: dict[str, Any]) -> str:
    name: str = config["interpolation"]
    if name not in ("bilinear", "bicubic"):
        raise OptionError(f"backbones with the interpolation `{name}` are not supported")
    return name


def _probe(reader: _Reader, geometry: Geometry, name: str) -> Tensor:
    try:
        features: Tensor = reader(torch.zeros(1, 3, geometry.height, geometry.width))
    except OptionError:
        raise
    except Exception as error:  # networks differ in what they cannot do; the name must be told
        raise OptionError(f"backbone {name} does not run: {error}") from error
    if features.ndim != 2:
        raise OptionError(f"backbone {name} gives features of shape {tuple(features.shape)}")
    return features


class _Stop(Exception):
    """Ends a forward pass at the tapped module: what follows is not needed."""


class _Reader(nn.Module):
    """Runs a network up to its tap and pools what comes out to (B, D)."""

    def __init__(self, network: Any, tap: str | None, grid: int | None) -> None:
        super().__init__()
        self.network = network
        self.tap = tap
        self.grid = grid
        self._tapped: list[Tensor] = []
        if grid is not None and grid < 1:
            raise OptionError(f"grid must be 1 or more, got {grid}")
        if tap is not None:
            self._hook(tap)

    def _hook(self, tap: str) -> None:
        modules = dict(self.network.named_modules())
        if tap not in modules:
            outer = [name for name in modules if name and name.count(".") < 2]
            raise OptionError(f"no module {tap!r} to tap; there are: {', '.join(outer)}")
        modules[tap].register_forward_hook(self._stop)

    def _stop(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        if not torch.compiler.is_exporting():
            self._tapped.append(output)
            raise _Stop
        # an exported graph goes on, and drops what is not used: what follows may work in place
        self._tapped.append(output.clone())

    def forward(self, pictures: Tensor) -> Tensor:
        if self.tap is None and self.grid is None:
            return self.network(pictures)  # type: ignore[no-any-return]
        if self.tap is None:
            return self._pool(self.network.forward_features(pictures))
        self._tapped.clear()
        with contextlib.suppress(_Stop):
            self.network(pictures)
        if not self._tapped:
            raise OptionError(f"no picture passes through the tapped module {self.tap!r}")
        output = self._tapped[0]
        self._tapped.clear()
        return self._pool(output)

    def _pool(self, output: Tensor) -> Tensor:
        grid = self.grid or 1
        if output.ndim == 3:  # (B, tokens, C) of a ViT
            output = self._tokens_to_map(output)
        elif output.ndim == 4 and getattr(self.network, "output_fmt", None) == "NHWC":
            output = output.permute(0, 3, 1, 2)
        if output.ndim != 4:
            raise OptionError(
                f"tap {self.tap!r} gives shape {tuple(output.shape)}, wanted (B, C, H, W)"
            )
        return functional.adaptive_avg_pool2d(output, grid).flatten(1)  # (B, C · grid²)

    def _tokens_to_map(self, tokens: Tensor) -> Tensor:
        prefix = getattr(self.network, "num_prefix_tokens", 0)
        tokens = tokens[:, prefix:]
        side = round(tokens.shape[1] ** 0.5)
        if side * side != tokens.shape[1]:
            raise OptionError(f"{tokens.shape[1]} tokens do not make a square map to pool")
        # not len(tokens): that would fix the size of the batch in an exported graph
        return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, side, side)


def require_same(expected: str, found: str, what: str) -> None:
    """
    Refuse weights other than those that something was made with.

    Raises:
        RecognizerError: naming both hashes.
    """
    if expected != found:
        raise RecognizerError(f"{what}: made with weights {expected}, found weights {found}")
