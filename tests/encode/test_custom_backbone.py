"""Fine-tuned backbones: description and weights."""

from __future__ import annotations

import json
import shutil

import pytest
import timm
import torch
from safetensors.torch import save_file

from pipeline.encode import custom_backbone
from pipeline.encode.backbone import hash_weights, load_backbone
from pipeline.encode.custom_backbone import copy_weights, describe_network, load_custom_backbone
from pipeline.errors import OptionError, RecognizerError


def local_dir(folder, **options):
    """Write a network with options in timm's layout and return its name."""
    folder.mkdir()
    torch.manual_seed(3)
    network = timm.create_model("test_efficientnet", num_classes=0, **options)
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    preprocessing = {"input_size": [3, 64, 64], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.4, 0.3]}
    config = {**preprocessing, "interpolation": "bilinear", "crop_pct": 0.5, "license": "mit"}
    description = {
        "architecture": "test_efficientnet",
        "model_args": options,
        "pretrained_cfg": config,
    }
    (folder / "config.json").write_text(json.dumps(description))
    return f"local-dir:{folder}"


def change_weights(backbone):
    """Change all weights, as training does."""
    with torch.no_grad():
        for parameter in backbone.network.parameters():
            parameter.add_(0.01)
    return backbone


def save(backbone, path):
    save_file(copy_weights(backbone), path)
    return path


@pytest.mark.parametrize("name", ["random:test_resnet", "random:test_vit", "folder"])
def test_features_are_the_same_without_the_original_weights(name, tmp_path):
    source = local_dir(tmp_path / "net", pad_type="same") if name == "folder" else name
    backbone = change_weights(load_backbone(source, layer=None, pool_size=2))
    description = json.loads(json.dumps(describe_network(backbone)))
    weights = save(backbone, tmp_path / "custom.safetensors")
    shutil.rmtree(tmp_path / "net", ignore_errors=True)

    again = load_custom_backbone(weights, description, layer=None, pool_size=2)

    images = torch.rand(2, 3, backbone.geometry.height, backbone.geometry.width)
    with torch.inference_mode():
        assert torch.equal(again.module(images), backbone.module(images))
    for field in ("geometry", "mean", "std", "interpolation", "feature_size", "licence"):
        assert getattr(again, field) == getattr(backbone, field), field


def test_weights_hash_is_that_of_the_trained_weights(tmp_path):
    before = load_backbone("random:test_resnet")
    backbone = change_weights(load_backbone("random:test_resnet"))
    weights = save(backbone, tmp_path / "custom.safetensors")

    again = load_custom_backbone(weights, describe_network(backbone), layer=None, pool_size=None)

    assert again.weights_hash == hash_weights(backbone.network)
    assert again.weights_hash != before.weights_hash


def test_a_description_without_the_options_fails(tmp_path, monkeypatch):
    """Networks with equal weights may differ in their options."""
    backbone = load_backbone(local_dir(tmp_path / "net", pad_type="same"))
    monkeypatch.setattr(custom_backbone, "_model_args", lambda name: {})

    with pytest.raises(OptionError, match=r"cannot be fine-tuned: .* gives other features"):
        describe_network(backbone)


@pytest.mark.parametrize(
    ("harmful", "message"),
    [
        ({"architecture": "hf-hub:someone/something"}, "got hf-hub:someone/something with none"),
        ({"architecture": "local-dir:/etc"}, "got local-dir:/etc with none"),
        ({"options": {"checkpoint_path": "x.pth"}}, "test_resnet with checkpoint_path"),
        ({"options": {"pretrained": True}}, "test_resnet with pretrained"),
    ],
)
def test_a_description_that_would_load_files_fails(harmful, message, tmp_path):
    backbone = load_backbone("random:test_resnet")
    weights = save(backbone, tmp_path / "custom.safetensors")

    with pytest.raises(RecognizerError, match=message):
        load_custom_backbone(
            weights, {**describe_network(backbone), **harmful}, layer=None, pool_size=None
        )


@pytest.mark.parametrize("wrong", ["missing", "other", "text"])
def test_weights_of_another_network_fail(wrong, tmp_path):
    description = describe_network(load_backbone("random:test_resnet"))
    path = tmp_path / "custom.safetensors"
    if wrong == "other":
        save(load_backbone("random:test_efficientnet"), path)
    elif wrong == "text":
        path.write_text("no weights")

    with pytest.raises(RecognizerError, match=r"custom.safetensors cannot be loaded as a backbone"):
        load_custom_backbone(path, description, layer=None, pool_size=None)
