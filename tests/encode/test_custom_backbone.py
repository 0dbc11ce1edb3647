"""Networks that are built from their description, with weights of their own."""

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


def in_folder(folder, **options):
    """Write a network in timm's layout, whose options matter, and give its name."""
    folder.mkdir()
    torch.manual_seed(3)
    network = timm.create_model("test_efficientnet", num_classes=0, **options)
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    picture = {"input_size": [3, 64, 64], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.4, 0.3]}
    config = {**picture, "interpolation": "bilinear", "crop_pct": 0.5, "license": "mit"}
    said = {"architecture": "test_efficientnet", "model_args": options, "pretrained_cfg": config}
    (folder / "config.json").write_text(json.dumps(said))
    return f"local-dir:{folder}"


def changed(backbone):
    """Change weights, as training does."""
    with torch.no_grad():
        for parameter in backbone.network.parameters():
            parameter.add_(0.01)
    return backbone


def kept(backbone, path):
    save_file(copy_weights(backbone), path)
    return path


@pytest.mark.parametrize("name", ["random:test_resnet", "random:test_vit", "folder"])
def test_it_gives_the_same_features_without_the_first_weights(name, tmp_path):
    given = in_folder(tmp_path / "net", pad_type="same") if name == "folder" else name
    backbone = changed(load_backbone(given, layer=None, pool_size=2))
    said = json.loads(json.dumps(describe_network(backbone)))
    weights = kept(backbone, tmp_path / "own.safetensors")
    shutil.rmtree(tmp_path / "net", ignore_errors=True)

    again = load_custom_backbone(weights, said, layer=None, pool_size=2)

    pictures = torch.rand(2, 3, backbone.geometry.height, backbone.geometry.width)
    with torch.inference_mode():
        assert torch.equal(again.module(pictures), backbone.module(pictures))
    for fact in ("geometry", "mean", "std", "interpolation", "feature_size", "licence"):
        assert getattr(again, fact) == getattr(backbone, fact), fact


def test_its_hash_is_that_of_the_changed_weights(tmp_path):
    before = load_backbone("random:test_resnet")
    backbone = changed(load_backbone("random:test_resnet"))
    weights = kept(backbone, tmp_path / "own.safetensors")

    again = load_custom_backbone(weights, describe_network(backbone), layer=None, pool_size=None)

    assert again.weights_hash == hash_weights(backbone.network)
    assert again.weights_hash != before.weights_hash


def test_options_that_are_not_known_any_more_fail(tmp_path, monkeypatch):
    """Weights with the same names and shapes belong to several networks."""
    backbone = load_backbone(in_folder(tmp_path / "net", pad_type="same"))
    monkeypatch.setattr(custom_backbone, "_model_args", lambda name: {})

    with pytest.raises(OptionError, match=r"cannot be fine-tuned: .* gives other features"):
        describe_network(backbone)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ({"architecture": "hf-hub:someone/something"}, "got hf-hub:someone/something with none"),
        ({"architecture": "local-dir:/etc"}, "got local-dir:/etc with none"),
        ({"options": {"checkpoint_path": "x.pth"}}, "test_resnet with checkpoint_path"),
        ({"options": {"pretrained": True}}, "test_resnet with pretrained"),
    ],
)
def test_a_description_that_would_load_something_else_fails(harm, said, tmp_path):
    backbone = load_backbone("random:test_resnet")
    weights = kept(backbone, tmp_path / "own.safetensors")

    with pytest.raises(RecognizerError, match=said):
        load_custom_backbone(
            weights, {**describe_network(backbone), **harm}, layer=None, pool_size=None
        )


@pytest.mark.parametrize("wrong", ["missing", "other", "text"])
def test_weights_that_do_not_fit_fail(wrong, tmp_path):
    said = describe_network(load_backbone("random:test_resnet"))
    path = tmp_path / "own.safetensors"
    if wrong == "other":
        kept(load_backbone("random:test_efficientnet"), path)
    elif wrong == "text":
        path.write_text("no weights")

    with pytest.raises(RecognizerError, match=r"own.safetensors cannot be loaded as a backbone"):
        load_custom_backbone(path, said, layer=None, pool_size=None)
