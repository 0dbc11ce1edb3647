"""Checkpoints: saved, loaded, ignored if damaged or of another training."""

from __future__ import annotations

import pytest
import torch

from pipeline.temporal.checkpoint import (
    Checkpoint,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)


@pytest.fixture
def checkpoint():
    return Checkpoint(
        "key",
        {"history": [{"loss": 0.5}]},
        {
            "model": {"a.weight": torch.arange(6.0).view(2, 3)},
            "optimizer": {"0/step": torch.ones(())},
        },
    )


def test_a_saved_checkpoint_is_loaded(checkpoint, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "new" / "c.safetensors")

    read = load_checkpoint(tmp_path / "new" / "c.safetensors", "key")

    assert read.progress == checkpoint.progress
    assert torch.equal(read.tensors["model"]["a.weight"], torch.arange(6.0).view(2, 3))
    assert read.tensors["optimizer"]["0/step"].shape == ()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["c.safetensors"]


def test_a_missing_file_gives_none(tmp_path):
    assert load_checkpoint(tmp_path / "c.safetensors", "key") is None


def test_a_checkpoint_with_another_key_is_ignored(checkpoint, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "c.safetensors")

    assert load_checkpoint(tmp_path / "c.safetensors", "another") is None


@pytest.mark.parametrize(
    "damage", [lambda data: data[:20], lambda data: b"", lambda data: b"x" * 99]
)
def test_a_damaged_checkpoint_is_ignored_with_a_warning(checkpoint, tmp_path, damage, caplog):
    path = tmp_path / "c.safetensors"
    save_checkpoint(checkpoint, path)
    path.write_bytes(damage(path.read_bytes()))

    assert load_checkpoint(path, "key") is None
    assert "training restarts" in caplog.text


def test_an_optimizer_continues_with_the_restored_state():
    def make():
        weight = torch.nn.Parameter(torch.ones(3))
        return weight, torch.optim.AdamW([weight], lr=0.1)

    def step(weight, optimizer):
        weight.grad = torch.tensor([1.0, -2.0, 3.0]) * weight.detach()
        optimizer.step()
        return weight.detach().clone()

    weight, optimizer = make()
    other, fresh = make()
    other.data.copy_(step(weight, optimizer))
    tensors = optimizer_tensors(optimizer)
    restore_optimizer(fresh, {name: value.clone() for name, value in tensors.items()})

    assert sorted(tensors) == ["0/exp_avg", "0/exp_avg_sq", "0/step"]
    assert torch.equal(step(other, fresh), step(weight, optimizer))
