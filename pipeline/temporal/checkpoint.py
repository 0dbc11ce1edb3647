"""
Training checkpoints: one safetensors file, replaced atomically, without pickle.

Weights, the best weights so far and the optimizer state are tensors. Everything else is JSON in the
header of the same file, so that both always belong to the same epoch.
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

METADATA_KEY = "training"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """State of a training at the end of an epoch."""

    key: str
    """Fingerprint of options and examples: only the same training may be resumed."""
    progress: dict[str, Any]
    """JSON values."""
    tensors: dict[str, dict[str, Tensor]]
    """By group (`model`, `best`, `optimizer`) and name."""


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint; the previous one is replaced atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = {
        f"{group}/{name}": tensor.detach().cpu().contiguous().clone()
        for group, tensors in checkpoint.tensors.items()
        for name, tensor in tensors.items()
    }
    metadata = json.dumps({"key": checkpoint.key, "progress": checkpoint.progress})
    temporary = path.with_name(f".{path.name}.new")
    save_file(flat, temporary, metadata={METADATA_KEY: metadata})
    temporary.replace(path)


def load_checkpoint(path: Path, key: str) -> Checkpoint | None:
    """Read a checkpoint; None if there is none, it is damaged, or its key is another."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads(file.metadata()[METADATA_KEY])
            if metadata["key"] != key:
                return None
            tensors: dict[str, dict[str, Tensor]] = {}
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                group, _, rest = name.partition("/")
                tensors.setdefault(group, {})[rest] = file.get_tensor(name)
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        logger.warning("cannot read checkpoint %s, training restarts: %r", path, error)
        return None
    return Checkpoint(key, metadata["progress"], tensors)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Give the state of an optimizer by parameter number and name."""
    return {
        f"{number}/{name}": value
        for number, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore the state that `optimizer_tensors` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        number, _, name = path.partition("/")
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
