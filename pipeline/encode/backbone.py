"""
Backbones: the CNN (or ViT) that computes features of images, and the images that it expects.

A backbone is named by its timm name (`resnet50.a1_in1k`), by a folder in timm's layout (`local-
dir:PATH`), or with random weights (`random:resnet50`). `layer` reads an inner layer instead of the
last one; `pool_size` keeps a spatial grid of features, which global pooling would average.
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
LOCAL_DIR = "local-dir"
"""Source prefix of backbones in a local folder, before the colon; timm ignores its case."""
HUB_PREFIXES = ("hf-hub", "hf_hub")
HUB_WEIGHTS = "model.safetensors"
MIDDLE_REDUCTION = 16
"""Image size over the size of the feature maps of the middle layer."""


@dataclass(frozen=True)
class Backbone:
    """A network that maps normalized images (B, 3 · (1 + previous_frames), H, W) to (B, D)."""

    name: str
    module: nn.Module
    weights_hash: str
    geometry: Geometry
    interpolation: str
    """Antialiased filter of the resize: `bilinear` or `bicubic`."""
    mean: tuple[float, float, float]
    """Of RGB in [0, 1]."""
    std: tuple[float, float, float]
    feature_size: int
    previous_frames: int = 0
    """Number of frames before a frame that are encoded together with it."""
    options: str = ""
    """Architecture, layer and pool size, as part of `identity`."""
    licence: str | None = None

    @property
    def identity(self) -> str:
        """Hash of all that determines a feature, except its frame and the precision."""
        return fingerprint(
            self.weights_hash,
            self.geometry,
            self.interpolation,
            list(self.mean),
            list(self.std),
            self.previous_frames,
            self.options,
        )

    @property
    def network(self) -> Any:
        """The network without the code that reads a layer and pools it: it holds the weights."""
        return getattr(self.module, "network", self.module)


def hash_weights(module: nn.Module) -> str:
    """Return a hash, 32 hex digits, of names, shapes and values of all parameters and buffers."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name}{tuple(values.shape)}{values.dtype}".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def local_folder(name: str) -> Path | None:
    """Return the folder of a backbone that is named `local-dir:PATH`; None for other names."""
    source, colon, path = name.partition(":")
    return Path(path).expanduser() if colon and source.lower() == LOCAL_DIR else None


def load_backbone(
    name: str,
    *,
    weights: Path | None = None,
    layer: str | None = None,
    pool_size: int | None = None,
) -> Backbone:
    """
    Load a backbone by name.

    Args:
        name: timm name, `local-dir:PATH`, or `random:NAME` for random weights.
        weights: safetensors file to load instead of the pretrained weights of the name.
        layer: name of the module to read (`blocks.4`); None reads the output of the network.
        pool_size: rows and columns of the spatial grid to which feature maps are average-pooled;
            D becomes channels · pool_size². None pools as the network does.

    Raises:
        OptionError: the model or layer does not exist, its weights cannot be loaded or belong to
            another network, or the pool size is not possible.
    """
    network = create_network(name, pretrained=not name.startswith(RANDOM) and weights is None)
    if weights is not None:
        _load_weights(network, name, weights)
    return wrap_network(network, name, layer=layer, pool_size=pool_size)


def wrap_network(network: Any, name: str, *, layer: str | None, pool_size: int | None) -> Backbone:
    """Make a timm network a backbone; arguments and errors are those of `load_backbone`."""
    config = _data_config(network)
    architecture = network.pretrained_cfg["architecture"]
    extractor = _FeatureExtractor(network, layer, pool_size).eval()
    geometry = _geometry(config)
    with torch.inference_mode():
        features = _run_once(extractor, geometry, name)
    return Backbone(
        name=name,
        module=extractor,
        weights_hash=hash_weights(network),
        geometry=geometry,
        interpolation=_interpolation(config),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        feature_size=features.shape[1],
        # architectures with equal weights may differ in activations or padding; the text is part
        # of stored ids
        options=f"{architecture} tap={layer or ''} grid={pool_size or ''}",
        licence=network.pretrained_cfg.get("license"),
    )


def middle_layer(name: str) -> str | None:
    """
    Return the name of the layer of a network whose features show motion best.

    It is the last one whose feature maps have 1/16 of the image size: later layers encode what is
    visible, but hardly where. None if timm does not describe the stages of the network.

    Raises:
        OptionError: no such model.
    """
    network = create_network(name, pretrained=False)
    stages = getattr(network, "feature_info", [])
    modules = dict(network.named_modules())
    names = [stage["module"] for stage in stages if stage["reduction"] == MIDDLE_REDUCTION]
    return next((name for name in reversed(names) if name in modules), None)


def create_network(name: str, *, pretrained: bool, options: Mapping[str, Any] | None = None) -> Any:
    """
    Create a timm network without its classifier.

    Args:
        name: as for `load_backbone`.
        pretrained: load weights; otherwise they are random, from a fixed seed.
        options: arguments for timm, in addition to those of a local folder.

    Raises:
        OptionError: timm cannot create the network or load its weights.
    """
    import timm

    try:
        arguments = {"num_classes": 0, **(options or {})}
        if pretrained:
            arguments["pretrained_cfg_overlay"] = _weights_source(name)
        with torch.random.fork_rng(devices=[]):  # keep the state of the caller's random generator
            torch.manual_seed(RANDOM_SEED)
            network = timm.create_model(
                name.removeprefix(RANDOM), pretrained=pretrained, **arguments
            )
    except Exception as error:  # timm raises any error of its loaders: names, files, network
        raise OptionError(
            f"backbone {name} could not be loaded: {error}. Use a timm name, "
            "local-dir:PATH, or random:NAME for random weights"
        ) from error
    network.pretrained_cfg.pop("state_dict", None)  # else the weights stay in memory twice
    return network.eval()


def _weights_source(name: str) -> dict[str, Any]:
    """
    Return the entries of timm's configuration that allow only safetensors files as weights.

    Other files are pickles, which can execute code. timm loads the weights of its own names.
    """
    folder = local_folder(name)
    if folder is not None and folder.is_dir():
        return {
            "source": "",
            "file": None,
            "state_dict": _read_folder(folder),
            "custom_load": False,
        }
    if name.partition(":")[0].lower() in HUB_PREFIXES:
        return {"hf_hub_filename": HUB_WEIGHTS, "custom_load": False}
    return {}


def _read_folder(folder: Path) -> dict[str, Tensor]:
    from timm.models import load_state_dict

    files = sorted(folder.glob("*.safetensors"), key=lambda path: (path.name != HUB_WEIGHTS, path))
    if not files:
        raise OptionError(
            f"{folder} has no weights in safetensors format; other formats are refused because "
            "loading them can execute code (convert them with safetensors.torch.save_file)"
        )
    state: dict[str, Tensor] = load_state_dict(str(files[0]))
    return state


def _load_weights(network: nn.Module, name: str, weights: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise OptionError(f"weights {weights} cannot be read as safetensors: {error}") from error
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except RuntimeError as error:  # equal names, other shapes
        message = " ".join(str(error).split())
        raise OptionError(f"weights {weights} do not match {name}: {message}") from error
    classifier = {key for key in unexpected if key.split(".")[0] in ("classifier", "fc", "head")}
    wrong = [*missing, *(set(unexpected) - classifier)]
    if wrong:
        keys = ", ".join(sorted(wrong)[:5])
        raise OptionError(f"weights {weights} do not match {name}: {keys} …")


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


def _run_once(extractor: _FeatureExtractor, geometry: Geometry, name: str) -> Tensor:
    """Compute features of a black image, to check their shape."""
    try:
        features: Tensor = extractor(torch.zeros(1, 3, geometry.height, geometry.width))
    except OptionError:
        raise
    except Exception as error:  # any error of any network
        raise OptionError(f"backbone {name} cannot be run: {error}") from error
    if features.ndim != 2:
        raise OptionError(f"backbone {name} returns features of shape {tuple(features.shape)}")
    return features


class _StopForward(Exception):
    """Ends a forward pass at a layer: the following layers are not needed."""


class _FeatureExtractor(nn.Module):
    """Runs a network up to a layer and pools its output to (B, D)."""

    def __init__(self, network: Any, layer: str | None, pool_size: int | None) -> None:
        super().__init__()
        self.network = network
        self.layer = layer
        self.pool_size = pool_size
        self._outputs: list[Tensor] = []
        if pool_size is not None and pool_size < 1:
            raise OptionError(f"grid must be 1 or more, got {pool_size}")
        if layer is not None:
            self._register_hook(layer)

    def _register_hook(self, layer: str) -> None:
        modules = dict(self.network.named_modules())
        if layer not in modules:
            outer = [name for name in modules if name and name.count(".") < 2]
            raise OptionError(f"no layer {layer!r} to tap; there are: {', '.join(outer)}")
        modules[layer].register_forward_hook(self._keep_output)

    def _keep_output(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        if not torch.compiler.is_exporting():
            self._outputs.append(output)
            raise _StopForward
        # torch.export traces the whole network and removes unused layers later; a copy, since the
        # following layer may work in place
        self._outputs.append(output.clone())

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, D) of images (B, C, H, W)."""
        if self.layer is None and self.pool_size is None:
            return self.network(images)  # type: ignore[no-any-return]
        if self.layer is None:
            return self._pool(self.network.forward_features(images))
        self._outputs.clear()
        with contextlib.suppress(_StopForward):
            self.network(images)
        if not self._outputs:
            raise OptionError(f"the forward pass does not use the layer {self.layer!r}")
        output = self._outputs[0]
        self._outputs.clear()
        return self._pool(output)

    def _pool(self, output: Tensor) -> Tensor:
        if output.ndim == 3:  # (B, tokens, C) of a ViT
            output = self._tokens_to_map(output)
        elif output.ndim == 4 and getattr(self.network, "output_fmt", None) == "NHWC":
            output = output.permute(0, 3, 1, 2)
        if output.ndim != 4:
            raise OptionError(
                f"layer {self.layer!r} returns shape {tuple(output.shape)}, expected (B, C, H, W)"
            )
        # (B, C · pool_size²)
        return functional.adaptive_avg_pool2d(output, self.pool_size or 1).flatten(1)

    def _tokens_to_map(self, tokens: Tensor) -> Tensor:
        prefix = getattr(self.network, "num_prefix_tokens", 0)
        tokens = tokens[:, prefix:]
        side = round(tokens.shape[1] ** 0.5)
        if side * side != tokens.shape[1]:
            raise OptionError(f"{tokens.shape[1]} tokens do not form a square map to pool")
        # not len(tokens): torch.export would make the batch size a constant
        return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, side, side)


def require_same_weights(expected: str, found: str, what: str) -> None:
    """
    Check that a backbone has the expected weights.

    Raises:
        RecognizerError: the hashes differ; the message has both.
    """
    if expected != found:
        raise RecognizerError(f"{what}: made with weights {expected}, found weights {found}")
