"""Checkpoints: whole, of one training, and never the end of it."""

from __future__ import annotations

import pytest
import torch

from pipeline.temporal.checkpoint import (
    Checkpoint,
    load_checkpoint,
    moments_of,
    restore_moments,
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


def test_what_is_saved_is_read(checkpoint, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "new" / "c.safetensors")

    read = load_checkpoint(tmp_path / "new" / "c.safetensors", "key")

    assert read.progress == checkpoint.progress
    assert torch.equal(read.tensors["model"]["a.weight"], torch.arange(6.0).view(2, 3))
    assert read.tensors["optimizer"]["0/step"].shape == ()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["c.safetensors"]


def test_there_is_none_at_first(tmp_path):
    assert load_checkpoint(tmp_path / "c.safetensors", "key") is None


def test_that_of_another_training_is_left(checkpoint, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "c.safetensors")

    assert load_checkpoint(tmp_path / "c.safetensors", "another") is None


@pytest.mark.parametrize(
    "damage", [lambda data: data[:20], lambda data: b"", lambda data: b"x" * 99]
)
def test_a_damaged_one_is_told_and_left(checkpoint, tmp_path, damage, caplog):
    path = tmp_path / "c.safetensors"
    save_checkpoint(checkpoint, path)
    path.write_bytes(damage(path.read_bytes()))

    assert load_checkpoint(path, "key") is None
    assert "training starts anew" in caplog.text


def test_an_optimizer_goes_on_with_the_moments_of_another():
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
    moments = moments_of(optimizer)
    restore_moments(fresh, {name: value.clone() for name, value in moments.items()})

    assert sorted(moments) == ["0/exp_avg", "0/exp_avg_sq", "0/step"]
    assert torch.equal(step(other, fresh), step(weight, optimizer))
