"""
The saved recognizer: a folder that holds everything needed to label videos, and nothing executable.

    recognizer.json        labels, sampling, clips, backbone and its weights, architecture
    temporal.safetensors   weights of the temporal model
    backbone.safetensors   weights of the backbone, where it is the recognizer's own
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pipeline.config import ClipWindows, Sampling, fingerprint
from pipeline.errors import OptionError, RecognizerError
from pipeline.storage import write_json
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import TemporalOptions

FORMAT = 1
DESCRIPTION = "recognizer.json"
TEMPORAL_WEIGHTS = "temporal.safetensors"
BACKBONE_WEIGHTS = "backbone.safetensors"
BUNDLED = Path(__file__).resolve().parents[1] / "recognizers"


@dataclass(frozen=True, slots=True)
class BackboneSpec:
    """Which backbone a recognizer was made with."""

    name: str
    """A name for `load_backbone`; `pairs` is the recognizer's own pair network."""
    weights_hash: str
    feature_size: int
    tap: str | None = None
    grid: int | None = None
    context: int = 0
    precision: str = "auto"


@dataclass(frozen=True, slots=True)
class CutSpec:
    """Which feature is the logit of a shot cut, and from where on it is one."""

    feature: int
    threshold: float = 0.0


@dataclass(frozen=True)
class Recognizer:
    """Labels, how videos are sampled and cut, the backbone, and the temporal model."""

    name: str
    labels: tuple[str, ...]
    sampling: Sampling
    clips: ClipWindows
    backbone: BackboneSpec
    temporal: TemporalOptions
    model: TemporalModel
    cut: CutSpec | None = None
    switch_penalty: float = 3.0
    """What a change of label from frame to frame costs in `segments`, in nats."""
    temperature: float = 1.0
    """Divides logits, so that scores are frequencies."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Licence, training data, metrics: what a person may want to know."""
    network: dict[str, Any] | None = None
    """How the recognizer's own backbone is built, as plain JSON; its weights lie in the folder.
    None where the backbone is found by its name."""
    folder: Path | None = None

    def __post_init__(self) -> None:
        if len(set(self.labels)) != len(self.labels) or not self.labels:
            raise RecognizerError(f"labels must be different and at least one, got {self.labels}")
        if self.model.num_labels != len(self.labels):
            raise RecognizerError(
                f"{len(self.labels)} labels, but the model gives {self.model.num_labels}"
            )
        if self.cut is not None and not 0 <= self.cut.feature < self.backbone.feature_size:
            raise RecognizerError(
                f"cut.feature must be one of {self.backbone.feature_size}, got {self.cut.feature}"
            )
        if not self.temperature > 0:
            raise RecognizerError(f"temperature must be above 0, got {self.temperature}")

    @property
    def identity(self) -> str:
        """Hash of everything that changes what it says, its weights included."""
        weights = hashlib.blake2b(digest_size=16)
        for name, tensor in sorted(self.model.state_dict().items()):
            weights.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return fingerprint(
            list(self.labels),
            self.backbone,
            self.temporal,
            self.cut,
            self.switch_penalty,
            self.temperature,
            weights.hexdigest(),
        )


def require_labels(recognizer: Recognizer, labels: Collection[str], advice: str) -> None:
    """
    Require that a recognizer has all of these labels.

    Raises:
        OptionError: it lacks one; the message ends with the advice.
    """
    unknown = sorted(set(labels) - set(recognizer.labels))
    if unknown:
        raise OptionError(
            f"{recognizer.name} does not have the label{'s' * (len(unknown) != 1)} "
            f"{', '.join(unknown)}; it has {', '.join(recognizer.labels)}: {advice}"
        )


def find_recognizer(name: str | Path) -> Path:
    """
    Find a recognizer by the name of a bundled one, or by its folder.

    Raises:
        RecognizerError: there is none.
    """
    if str(name).replace("_", "-") in bundled_recognizers():
        return BUNDLED / str(name).replace("-", "_")
    folder = Path(name).expanduser()
    if (folder / DESCRIPTION).exists():
        return folder
    raise RecognizerError(
        f"no recognizer {name}: neither a folder with {DESCRIPTION} nor bundled "
        f"({', '.join(bundled_recognizers())})"
    )


def bundled_recognizers() -> list[str]:
    """Name the recognizers that ship with Clipline."""
    return sorted(p.parent.name.replace("_", "-") for p in BUNDLED.glob(f"*/{DESCRIPTION}"))


def hash_file(path: Path) -> str:
    """Hash the bytes of a file into 32 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def save_recognizer(
    recognizer: Recognizer, folder: Path, backbone: dict[str, Any] | None = None
) -> None:
    """
    Write a recognizer.

    Args:
        recognizer: what to write.
        folder: made if it is not there.
        backbone: weights of the backbone, where it is the recognizer's own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in recognizer.model.state_dict().items()}
    files = {TEMPORAL_WEIGHTS: state} | ({BACKBONE_WEIGHTS: backbone} if backbone else {})
    for name, tensors in files.items():
        fresh = folder / f".{name}.new"
        save_file(tensors, fresh)
        fresh.replace(folder / name)
    description = {
        "format": FORMAT,
        "name": recognizer.name,
        "labels": list(recognizer.labels),
        "sampling": dataclasses.asdict(recognizer.sampling),
        "clips": dataclasses.asdict(recognizer.clips),
        "backbone": dataclasses.asdict(recognizer.backbone),
        "temporal": dataclasses.asdict(recognizer.temporal),
        "cut": dataclasses.asdict(recognizer.cut) if recognizer.cut else None,
        "switch_penalty": recognizer.switch_penalty,
        "temperature": recognizer.temperature,
        "network": recognizer.network,
        "weights": {name: hash_file(folder / name) for name in files},
        "notes": recognizer.notes,
    }
    write_json(description, folder / DESCRIPTION)  # last: with it the folder is a recognizer


def load_recognizer(name: str | Path) -> Recognizer:
    """
    Load a recognizer by name or folder, without a network.

    Raises:
        RecognizerError: there is none, it is incomplete, or its weights are not those it was
            saved with.
    """
    folder = find_recognizer(name)
    try:
        said = json.loads((folder / DESCRIPTION).read_text())
        if said["format"] != FORMAT:
            raise RecognizerError(
                f"{folder} has format {said['format']}, this Clipline reads {FORMAT}: update it"
            )
        _check_files(folder, said["weights"])
        options = TemporalOptions(**said["temporal"])
        backbone = BackboneSpec(**said["backbone"])
        model = TemporalModel(backbone.feature_size, len(said["labels"]), options)
        model.load_state_dict(load_file(folder / TEMPORAL_WEIGHTS))
        return Recognizer(
            name=said["name"],
            labels=tuple(said["labels"]),
            sampling=Sampling(**said["sampling"]),
            clips=ClipWindows(**said["clips"]),
            backbone=backbone,
            temporal=options,
            model=model.eval(),
            cut=CutSpec(**said["cut"]) if said["cut"] else None,
            switch_penalty=said["switch_penalty"],
            temperature=said["temperature"],
            notes=said["notes"],
            network=said.get("network"),  # older ones have none
            folder=folder,
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:  # also of the options
        raise RecognizerError(f"{folder / DESCRIPTION} is damaged: {error!r}") from error
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RecognizerError(f"{folder} cannot be loaded: {error}") from error


def _check_files(folder: Path, weights: dict[str, str]) -> None:
    if TEMPORAL_WEIGHTS not in weights:
        raise RecognizerError(f"{folder / DESCRIPTION} names no hash of {TEMPORAL_WEIGHTS}")
    for name, expected in weights.items():
        path = folder / name
        if Path(name).name != name or not path.exists():
            raise RecognizerError(f"{folder} is incomplete: {name} is missing")
        found = hash_file(path)
        if found != expected:
            raise RecognizerError(
                f"{path} is not the file it was saved with: expected {expected}, found {found}"
            )
