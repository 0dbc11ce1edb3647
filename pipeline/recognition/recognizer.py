"""
Saved recognizers: folders with everything needed to label videos, and nothing executable.

    recognizer.json        labels, sampling, clips, backbone and its weights, architecture
    temporal.safetensors   weights of the temporal model
    backbone.safetensors   weights of the backbone, if it is stored with the recognizer
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pipeline.config import ClipWindows, Sampling, fingerprint, require_one_of
from pipeline.errors import OptionError, RecognizerError
from pipeline.recognition.segment_model import SegmentModel
from pipeline.storage import write_json
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import TemporalOptions

FORMAT = 1
"""Of folders that older versions read: their recognizers label clips."""
FRAMES_FORMAT = 2
"""Of folders whose recognizers use fields that older versions do not know."""
DESCRIPTION = "recognizer.json"
TEMPORAL_WEIGHTS = "temporal.safetensors"
BACKBONE_WEIGHTS = "backbone.safetensors"
EXTERNAL_FEATURES = "features-from"
"""Name of the backbone of recognizers that were trained on features made elsewhere."""
BUNDLED = Path(__file__).resolve().parents[1] / "recognizers"

Task = Literal["clips", "frames"]
"""What a recognizer was trained to label: clips, or the sampled frames of whole videos."""


@dataclass(frozen=True, slots=True)
class BackboneSpec:
    """The backbone that a recognizer needs."""

    name: str
    """A name for `load_backbone`; `pairs` is a frame pair network stored with the recognizer;
    `features-from`: features made elsewhere."""
    weights_hash: str
    feature_size: int
    tap: str | None = None
    """Layer whose output is the feature map; None is the default of the backbone."""
    grid: int | None = None
    """Side of the grid that the feature map is pooled to, in cells; None pools globally."""
    context: int = 0
    """Previous frames that are encoded together with each frame."""
    precision: str = "auto"


@dataclass(frozen=True, slots=True)
class CutSpec:
    """The feature that is the logit of a shot cut, and the threshold above which it is a cut."""

    feature: int
    threshold: float = 0.0


@dataclass(frozen=True)
class Recognizer:
    """A temporal model with its labels, its backbone, and how videos are sampled and cut."""

    name: str
    labels: tuple[str, ...]
    sampling: Sampling
    clips: ClipWindows
    backbone: BackboneSpec
    temporal: TemporalOptions
    model: TemporalModel
    cut: CutSpec | None = None
    switch_penalty: float = 3.0
    """Cost of a change of label between frames in `segments`, in nats."""
    temperature: float = 1.0
    """Divides logits, so that scores are calibrated."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Licence, training data, metrics: JSON values."""
    network: dict[str, Any] | None = None
    """JSON description of the backbone whose weights are in the folder; None if the backbone is
    loaded by its name."""
    folder: Path | None = None
    task: Task = "clips"
    """Whether the model was trained on one label a clip, or on one label a sampled frame."""
    multi_label: bool = False
    """Whether labels are independent of each other (sigmoid): a clip or frame may have several."""
    thresholds: tuple[float, ...] | None = None
    """Score from which a label is predicted, (K,), with multi_label; 0.5 each if None."""
    background: str | None = None
    """The label of frames without a labelled action, if there is one."""
    segments: SegmentModel | None = None
    """Durations and transitions of labels, from which `segments` are decoded; None: segments are
    decoded with `switch_penalty`."""

    def __post_init__(self) -> None:
        require_one_of(Task, task=self.task)
        self._check_labels()
        if self.cut is not None and not 0 <= self.cut.feature < self.backbone.feature_size:
            raise RecognizerError(
                f"cut.feature must be in [0, {self.backbone.feature_size}), got {self.cut.feature}"
            )
        if not self.temperature > 0:
            raise RecognizerError(f"temperature must be above 0, got {self.temperature}")

    def _check_labels(self) -> None:
        if len(set(self.labels)) != len(self.labels) or not self.labels:
            raise RecognizerError(f"labels must be unique and at least one, got {self.labels}")
        if self.model.num_labels != len(self.labels):
            raise RecognizerError(
                f"{len(self.labels)} labels, but {self.model.num_labels} outputs of the model"
            )
        if self.thresholds is not None and len(self.thresholds) != len(self.labels):
            raise RecognizerError(f"{len(self.labels)} labels, but {self.thresholds=}")
        if self.background is not None and self.background not in self.labels:
            raise RecognizerError(f"background must be a label, got {self.background!r}")
        if self.segments is not None and (
            self.segments.num_labels != len(self.labels)
            or self.segments.multi_label != self.multi_label
        ):
            raise RecognizerError(
                f"{len(self.labels)} labels with multi_label {self.multi_label}, but segments are "
                f"of {self.segments.num_labels} labels with multi_label {self.segments.multi_label}"
            )

    @property
    def frame_fields(self) -> dict[str, Any]:
        """Fields of recognizers that older versions do not know, as JSON; without defaults."""
        found = {
            "task": self.task if self.task != "clips" else None,
            "multi_label": self.multi_label or None,
            "thresholds": list(self.thresholds) if self.thresholds else None,
            "background": self.background,
            "segments": self.segments.to_json() if self.segments else None,
        }
        return {name: value for name, value in found.items() if value is not None}

    @property
    def identity(self) -> str:
        """Hash of everything that changes predictions, weights included."""
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
            *([self.frame_fields] if self.frame_fields else []),
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
        RecognizerError: it does not exist.
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
    """Give the names of the recognizers that are part of Clipline."""
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
        recognizer: the recognizer.
        folder: created if it does not exist.
        backbone: weights of the backbone, if they are to be stored with the recognizer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in recognizer.model.state_dict().items()}
    files = {TEMPORAL_WEIGHTS: state} | ({BACKBONE_WEIGHTS: backbone} if backbone else {})
    for name, tensors in files.items():
        temporary = folder / f".{name}.new"
        save_file(tensors, temporary)
        temporary.replace(folder / name)
    description = {
        "format": FRAMES_FORMAT if recognizer.frame_fields else FORMAT,
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
        **recognizer.frame_fields,
    }
    write_json(description, folder / DESCRIPTION)  # last: it marks the folder as complete


def load_recognizer(name: str | Path) -> Recognizer:
    """
    Load a recognizer by name or folder. Nothing is downloaded.

    Raises:
        RecognizerError: it does not exist, is incomplete, or its weights do not have the hash
            they were saved with.
    """
    folder = find_recognizer(name)
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
        if description["format"] not in (FORMAT, FRAMES_FORMAT):
            raise RecognizerError(
                f"{folder} has format {description['format']}, this Clipline reads {FORMAT} and "
                f"{FRAMES_FORMAT}: update it"
            )
        _check_files(folder, description["weights"])
        options = TemporalOptions(**description["temporal"])
        backbone = BackboneSpec(**description["backbone"])
        model = TemporalModel(backbone.feature_size, len(description["labels"]), options)
        model.load_state_dict(load_file(folder / TEMPORAL_WEIGHTS))
        return Recognizer(
            name=description["name"],
            labels=tuple(description["labels"]),
            sampling=Sampling(**description["sampling"]),
            clips=ClipWindows(**description["clips"]),
            backbone=backbone,
            temporal=options,
            model=model.eval(),
            cut=CutSpec(**description["cut"]) if description["cut"] else None,
            switch_penalty=description["switch_penalty"],
            temperature=description["temperature"],
            notes=description["notes"],
            network=description.get("network"),  # missing in older files
            folder=folder,
            **_frame_fields(description),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:  # also from the options
        raise RecognizerError(f"{folder / DESCRIPTION} is damaged: {error!r}") from error
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RecognizerError(f"{folder} cannot be loaded: {error}") from error


def _frame_fields(description: dict[str, Any]) -> dict[str, Any]:
    """Read what `Recognizer.frame_fields` gave; what is missing has its default."""
    names = ("task", "multi_label", "thresholds", "background", "segments")
    found = {name: description[name] for name in names if name in description}
    if "thresholds" in found:
        found["thresholds"] = tuple(found["thresholds"])
    if "segments" in found:
        found["segments"] = SegmentModel.from_json(found["segments"])
    return found


def _check_files(folder: Path, weights: dict[str, str]) -> None:
    if TEMPORAL_WEIGHTS not in weights:
        raise RecognizerError(f"{folder / DESCRIPTION} has no hash of {TEMPORAL_WEIGHTS}")
    for name, expected in weights.items():
        path = folder / name
        if Path(name).name != name or not path.exists():
            raise RecognizerError(f"{folder} is incomplete: {name} is missing")
        found = hash_file(path)
        if found != expected:
            raise RecognizerError(
                f"{path} is not the file it was saved with: expected {expected}, found {found}"
            )
