"""
Saved novelty models: folders with nothing executable.

    novelty.json           the features that it was fitted to, and how many
    novelty.safetensors    statistics, and weights of the forecaster
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pipeline.anomaly.model import FORECASTER, FeatureSpec, NoveltyModel, Statistics
from pipeline.config import Sampling
from pipeline.errors import RecognizerError
from pipeline.recognition.recognizer import CutSpec, hash_file
from pipeline.storage import write_json
from pipeline.temporal.models import TemporalModel

FORMAT = 1
DESCRIPTION = "novelty.json"
STATISTICS = "novelty.safetensors"


def save_novelty(model: NoveltyModel, folder: Path) -> None:
    """Write a novelty model; the folder is created if it does not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {f"forecaster.{k}": v for k, v in model.forecaster.state_dict().items()}
    tensors = {**model.statistics.tensors(), **weights}
    temporary = folder / f".{STATISTICS}.new"
    save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)
    temporary.replace(folder / STATISTICS)
    description = {
        "format": FORMAT,
        "features": dataclasses.asdict(model.features),
        "cut": dataclasses.asdict(model.cut) if model.cut else None,
        "weights": {STATISTICS: hash_file(folder / STATISTICS)},
        "notes": model.notes,
    }
    write_json(description, folder / DESCRIPTION)  # last: it marks the folder as complete


def load_novelty(folder: Path) -> NoveltyModel:
    """
    Load a novelty model.

    Raises:
        RecognizerError: it does not exist, is incomplete, or does not have the hash it was saved
            with.
    """
    path = folder / DESCRIPTION
    if not path.exists():
        raise RecognizerError(
            f"no novelty model {folder}: it has no {DESCRIPTION}; clipline novelty fit creates one"
        )
    try:
        return _read(folder, json.loads(path.read_text()))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RecognizerError(f"{path} is damaged: {error!r}") from error
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RecognizerError(f"{folder} cannot be loaded: {error}") from error


def _read(folder: Path, description: dict[str, Any]) -> NoveltyModel:
    if description["format"] != FORMAT:
        raise RecognizerError(
            f"{folder} has format {description['format']}, this Clipline reads {FORMAT}: update it"
        )
    expected, found = description["weights"][STATISTICS], hash_file(folder / STATISTICS)
    if found != expected:
        raise RecognizerError(
            f"{folder / STATISTICS} is not the file it was saved with: expected {expected}, "
            f"found {found}"
        )
    tensors = load_file(folder / STATISTICS)
    names = [part.name for part in dataclasses.fields(Statistics)]
    statistics = Statistics(**{name: tensors.pop(name) for name in names})
    size = len(statistics.axes)
    forecaster = TemporalModel(size, size, FORECASTER)
    forecaster.load_state_dict({k.removeprefix("forecaster."): v for k, v in tensors.items()})
    sampling = Sampling(**description["features"]["sampling"])
    return NoveltyModel(
        features=FeatureSpec(**{**description["features"], "sampling": sampling}),
        statistics=statistics,
        forecaster=forecaster.eval().requires_grad_(False),
        cut=CutSpec(**description["cut"]) if description["cut"] else None,
        notes=description["notes"],
        folder=folder,
    )
