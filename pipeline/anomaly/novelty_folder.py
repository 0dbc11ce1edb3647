"""
The saved novelty model: a folder with nothing executable.

    novelty.json           which features it was fitted to, and to how many
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
    """Write a novelty model; the folder is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {f"forecaster.{k}": v for k, v in model.forecaster.state_dict().items()}
    tensors = {**model.statistics.tensors(), **weights}
    fresh = folder / f".{STATISTICS}.new"
    save_file({name: value.contiguous() for name, value in tensors.items()}, fresh)
    fresh.replace(folder / STATISTICS)
    description = {
        "format": FORMAT,
        "features": dataclasses.asdict(model.features),
        "cut": dataclasses.asdict(model.cut) if model.cut else None,
        "weights": {STATISTICS: hash_file(folder / STATISTICS)},
        "notes": model.notes,
    }
    write_json(description, folder / DESCRIPTION)  # last: with it the folder is a novelty model


def load_novelty(folder: Path) -> NoveltyModel:
    """
    Load a novelty model.

    Raises:
        RecognizerError: there is none, it is incomplete, or it is not what was saved.
    """
    path = folder / DESCRIPTION
    if not path.exists():
        raise RecognizerError(
            f"no novelty model {folder}: no {DESCRIPTION} there; clipline novelty fit makes one"
        )
    try:
        return _read(folder, json.loads(path.read_text()))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RecognizerError(f"{path} is damaged: {error!r}") from error
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RecognizerError(f"{folder} cannot be loaded: {error}") from error


def _read(folder: Path, said: dict[str, Any]) -> NoveltyModel:
    if said["format"] != FORMAT:
        raise RecognizerError(
            f"{folder} has format {said['format']}, this Clipline reads {FORMAT}: update it"
        )
    expected, found = said["weights"][STATISTICS], hash_file(folder / STATISTICS)
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
    sampling = Sampling(**said["features"]["sampling"])
    return NoveltyModel(
        features=FeatureSpec(**{**said["features"], "sampling": sampling}),
        statistics=statistics,
        forecaster=forecaster.eval().requires_grad_(False),
        cut=CutSpec(**said["cut"]) if said["cut"] else None,
        notes=said["notes"],
        folder=folder,
    )
