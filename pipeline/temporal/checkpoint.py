"""
Where a training was when it was interrupted: one file, whole or not there, without pickle.

Weights, the best weights so far, and the moments of the optimizer are tensors; everything else is
JSON in the header of the same file, so that the two cannot come from different epochs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

logger = logging.getLogger(__name__)

HEADER = "training"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The end of an epoch."""

    key: str
    """Fingerprint of the options and examples: another training does not go on from here."""
    progress: dict[str, Any]
    """Plain values."""
    tensors: dict[str, dict[str, Tensor]]
    """By group (`model`, `best`, `optimizer`) and name."""


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint in the place of the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = {
        f"{group}/{name}": tensor.detach().cpu().contiguous().clone()
        for group, tensors in checkpoint.tensors.items()
        for name, tensor in tensors.items()
    }
    said = json.dumps({"key": checkpoint.key, "progress": checkpoint.progress})
    fresh = path.with_name(f".{path.name}.new")
    save_file(flat, fresh, metadata={HEADER: said})
    fresh.replace(path)


def load_checkpoint(path: Path, key: str) -> Checkpoint | None:
    """Read a checkpoint; None where there is none of this very training."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            said = json.loads(file.metadata()[HEADER])
            if said["key"] != key:
                return None
            tensors: dict[str, dict[str, Tensor]] = {}
            for name in file.keys():  # noqa: SIM118 (the file is no mapping)
                group, _, rest = name.partition("/")
                tensors.setdefault(group, {})[rest] = file.get_tensor(name)
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        logger.warning("%s cannot be read, training starts anew: %r", path, error)
        return None
    return Checkpoint(key, said["progress"], tensors)


def moments_of(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Give what an optimizer remembers of the steps so far, by parameter and name."""
    return {
        f"{number}/{name}": value
        for number, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def restore_moments(optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor]) -> None:
    """Let an optimizer remember what `moments_of` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for path, tensor in moments.items():
        number, _, name = path.partition("/")
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
