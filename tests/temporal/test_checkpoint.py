"""Checkpoints: whole, of one training, and never the end of it."""

from __future__ import annotations

import pytest
import torch

from pipeline.temporal.checkpoint import Checkpoint, load_checkpoint, save_checkpoint


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
