"""Names, layers, pool sizes and weights of backbones, with the tiny test networks of timm."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from pipeline.config import Geometry
from pipeline.encode.backbone import hash_weights, load_backbone, middle_layer, require_same_weights
from pipeline.errors import OptionError, RecognizerError

CNN = "random:test_efficientnet"
RESNET = "random:test_resnet"
VIT = "random:test_vit"
CHANNELS_LAST = "random:test_mambaout"


def other_network(architecture="test_resnet", **options):
    torch.manual_seed(7)
    return timm.create_model(architecture, pretrained=False, **options)


def save_weights(network, path, **more):
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file({**state, **more}, path)
    return path


def local_dir(folder, architecture="test_resnet", **config):
    """Write a folder in timm's layout and return its name as a backbone."""
    folder.mkdir()
    network = other_network(architecture, num_classes=0)
    save_weights(network, folder / "model.safetensors")
    config = {
        "input_size": [3, 64, 64],
        "interpolation": "bilinear",
        "crop_pct": 0.5,
        "mean": [0.5, 0.25, 0.125],
        "std": [0.5, 0.5, 0.25],
        "num_classes": 0,
        "license": "mit",
        **config,
    }
    description = {"architecture": architecture, "num_classes": 0, "pretrained_cfg": config}
    (folder / "config.json").write_text(json.dumps(description))
    return f"local-dir:{folder}"


@torch.inference_mode()
def run(backbone, images):
    return backbone.module(images)


def images(backbone, count=2):
    return torch.randn(count, 3, backbone.geometry.height, backbone.geometry.width)


class TestNames:
    def test_random_weights_are_the_same_each_time(self):
        first = load_backbone(RESNET)
        torch.manual_seed(123)
        again = load_backbone(RESNET)

        assert first.weights_hash == again.weights_hash
        assert first.identity == again.identity
        assert load_backbone(CNN).weights_hash != first.weights_hash

    def test_random_weights_keep_the_random_state_of_the_caller(self):
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        load_backbone(RESNET)

        assert torch.equal(torch.rand(3), expected)

    def test_a_name_determines_the_preprocessing(self):
        backbone = load_backbone(RESNET)

        assert backbone.geometry == Geometry(160, 160, "short", 0.95)
        assert backbone.interpolation == "bilinear"
        assert backbone.feature_size == 96
        assert backbone.previous_frames == 0
        assert not backbone.module.training

    def test_a_folder_in_timms_layout_has_preprocessing_and_weights(self, tmp_path):
        backbone = load_backbone(local_dir(tmp_path / "mine"))

        assert backbone.geometry == Geometry(64, 64, "short", 0.5)
        assert (backbone.mean, backbone.std) == ((0.5, 0.25, 0.125), (0.5, 0.5, 0.25))
        assert backbone.licence == "mit"
        assert backbone.weights_hash == hash_weights(other_network(num_classes=0))

    def test_crop_mode_squash(self, tmp_path):
        name = local_dir(tmp_path / "mine", crop_mode="squash", crop_pct=1.0)

        assert load_backbone(name).geometry == Geometry(64, 64, "squash", 1.0)

    def test_trained_weights(self, shared):
        folder = shared / "weights" / "mobilenetv2_100_imagenet"
        backbone = load_backbone(f"local-dir:{folder}")
        expected = load_file(folder / "model.safetensors")
        found = dict(backbone.module.network.named_parameters())

        assert backbone.geometry == Geometry(224, 224, "short", 0.875)
        assert backbone.mean == backbone.std == (0.5, 0.5, 0.5)
        assert backbone.feature_size == 1280
        assert backbone.licence == "apache-2.0"
        assert all(torch.equal(found[name], expected[name]) for name in found)
        bare = load_backbone("mobilenetv2_100", weights=folder / "model.safetensors")
        assert bare.weights_hash == backbone.weights_hash

    def test_unknown_name_fails(self):
        with pytest.raises(OptionError, match=r"no_such_network could not be loaded.*random:NAME"):
            load_backbone("no_such_network")

    def test_missing_folder_fails(self, tmp_path):
        with pytest.raises(OptionError, match="could not be loaded"):
            load_backbone(f"local-dir:{tmp_path / 'nowhere'}")

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"crop_mode": "border"}, "crop mode `border` are not supported"),
            ({"interpolation": "nearest"}, "interpolation `nearest` are not supported"),
        ],
    )
    def test_unsupported_preprocessing_fails(self, tmp_path, config, message):
        with pytest.raises(OptionError, match=message):
            load_backbone(local_dir(tmp_path / "mine", **config))


class TestWeights:
    @pytest.mark.parametrize("name", ["test_resnet", RESNET])
    def test_a_file_replaces_the_weights_of_the_name(self, tmp_path, name):
        network = other_network(num_classes=0)
        path = save_weights(network, tmp_path / "mine.safetensors")

        assert load_backbone(name, weights=path).weights_hash == hash_weights(network)

    def test_a_classifier_in_the_file_is_ignored(self, tmp_path):
        network = other_network(num_classes=5)
        path = save_weights(network, tmp_path / "mine.safetensors")
        network.reset_classifier(0)
        expected = hash_weights(network)

        assert "fc.weight" in load_file(path)
        assert load_backbone(RESNET, weights=path).weights_hash == expected

    def test_a_file_replaces_the_weights_of_a_folder(self, tmp_path):
        network = timm.create_model("test_resnet", pretrained=False, num_classes=0)
        path = save_weights(network, tmp_path / "mine.safetensors")
        name = local_dir(tmp_path / "mine")

        assert load_backbone(name, weights=path).weights_hash == hash_weights(network)

    def test_weights_of_another_network_fail(self, tmp_path):
        path = save_weights(other_network("test_efficientnet"), tmp_path / "mine.safetensors")

        with pytest.raises(
            OptionError, match=r"mine.safetensors do not match random:test_resnet: "
        ):
            load_backbone(RESNET, weights=path)

    def test_unexpected_weights_fail(self, tmp_path):
        path = save_weights(other_network(), tmp_path / "mine.safetensors", surprise=torch.zeros(1))

        with pytest.raises(OptionError, match="do not match random:test_resnet: surprise"):
            load_backbone(RESNET, weights=path)

    def test_weights_of_another_shape_fail(self, tmp_path):
        wrong = {"conv1.0.weight": torch.zeros(1, 3, 3, 3)}
        path = save_weights(other_network(), tmp_path / "mine.safetensors", **wrong)

        with pytest.raises(OptionError, match=r"do not match random:test_resnet: .*size mismatch"):
            load_backbone(RESNET, weights=path)

    def test_a_file_of_another_format_fails(self, tmp_path):
        path = tmp_path / "mine.pt"
        torch.save(other_network().state_dict(), path)

        with pytest.raises(OptionError, match=r"mine.pt cannot be read as safetensors"):
            load_backbone(RESNET, weights=path)

    def test_a_missing_file_fails(self, tmp_path):
        with pytest.raises(OptionError, match=r"none.safetensors cannot be read as safetensors"):
            load_backbone(RESNET, weights=tmp_path / "none.safetensors")

    def test_the_hash_depends_on_values_names_shapes_and_types(self):
        def hashed(**tensors):
            module = torch.nn.Module()
            for name, tensor in tensors.items():
                module.register_buffer(name, tensor)
            return hash_weights(module)

        found = {
            hashed(a=torch.zeros(4)),
            hashed(b=torch.zeros(4)),
            hashed(a=torch.zeros(2, 2)),
            hashed(a=torch.zeros(4, dtype=torch.int32)),
            hashed(a=torch.tensor([0.0, 0, 0, 1])),
        }
        assert len(found) == 5
        assert hashed(a=torch.zeros(2, 2).t()) == hashed(a=torch.zeros(2, 2))

    def test_require_same_weights_fails_with_both_hashes(self):
        require_same_weights("aaaa", "aaaa", "backbone of walk")

        with pytest.raises(RecognizerError, match=r"backbone of walk: .*aaaa, found weights bbbb"):
            require_same_weights("aaaa", "bbbb", "backbone of walk")


class Malicious:
    """Creates a folder when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


class TestOnlySafetensors:
    """Loading any other format is a risk: a pickle can execute code."""

    @pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pth", "other.pth.tar"])
    @pytest.mark.parametrize("prefix", ["local-dir", "Local-Dir"])
    def test_folder_with_other_weights_only_fails(self, tmp_path, prefix, file):
        local_dir(tmp_path / "mine")
        weights = load_file(tmp_path / "mine" / "model.safetensors")
        (tmp_path / "mine" / "model.safetensors").unlink()
        torch.save(weights, tmp_path / "mine" / file)

        with pytest.raises(OptionError, match="mine has no weights in safetensors format"):
            load_backbone(f"{prefix}:{tmp_path / 'mine'}")

    def test_pickle_beside_safetensors_is_not_read(self, tmp_path):
        name, trace = local_dir(tmp_path / "mine"), tmp_path / "executed"
        expected = load_backbone(name).weights_hash
        (tmp_path / "mine" / "model.safetensors").rename(tmp_path / "mine" / "other.safetensors")
        for file in ("pytorch_model.bin", "model.pth"):
            (tmp_path / "mine" / file).write_bytes(pickle.dumps({"weight": Malicious(trace)}))

        assert load_backbone(name).weights_hash == expected
        assert not trace.exists()

    def test_malicious_pickle_is_not_executed(self, tmp_path):
        name, trace = local_dir(tmp_path / "mine"), tmp_path / "executed"
        (tmp_path / "mine" / "model.safetensors").write_bytes(pickle.dumps(Malicious(trace)))

        with pytest.raises(OptionError, match="could not be loaded"):
            load_backbone(name)
        assert not trace.exists()

    def test_only_safetensors_are_downloaded(self, tmp_path, monkeypatch):
        local_dir(tmp_path / "hub")
        files = []

        def download(repo_id, filename, **_):
            files.append(filename)
            return str(tmp_path / "hub" / filename)

        monkeypatch.setattr("timm.models._hub.hf_hub_download", download)

        assert load_backbone("hf-hub:someone/something").geometry == Geometry(64, 64, "short", 0.5)
        assert files[-1] == "model.safetensors"
        (tmp_path / "hub" / "model.safetensors").unlink()
        torch.save({}, tmp_path / "hub" / "pytorch_model.bin")
        with pytest.raises(OptionError, match="could not be loaded"):
            load_backbone("hf-hub:someone/something")
        assert "pytorch_model.bin" not in files

    def test_weights_are_not_kept_twice(self, tmp_path):
        network = load_backbone(local_dir(tmp_path / "mine")).network

        assert network.pretrained_cfg.get("state_dict") is None


class TestPoolSize:
    @pytest.mark.parametrize("name", [CNN, VIT, CHANNELS_LAST])
    @pytest.mark.parametrize("cell", [(0, 0), (0, 1), (1, 0), (1, 1)])
    def test_a_blob_changes_the_features_of_its_grid_cell(self, name, cell):
        """Features are (C, pool_size, pool_size), flattened."""
        backbone = load_backbone(name, pool_size=2)
        half = backbone.geometry.height // 2
        empty = torch.zeros(1, 3, 2 * half, 2 * half)
        blob = empty.clone()
        top, left = (half * number + half // 4 for number in cell)
        blob[:, :, top : top + half // 2, left : left + half // 2] = torch.randn(
            3, half // 2, half // 2
        )
        change = (run(backbone, blob) - run(backbone, empty)).reshape(-1, 2, 2)
        strength = change.square().sum(0).sqrt()

        assert strength.argmax() == 2 * cell[0] + cell[1]

    def test_cells_are_averages_of_their_part_of_the_feature_map(self):
        backbone = load_backbone(RESNET, pool_size=5)
        given = images(backbone)
        with torch.inference_mode():
            expected = backbone.module.network.forward_features(given)

        assert expected.shape == (2, 96, 5, 5)
        assert backbone.feature_size == 96 * 25
        assert torch.allclose(run(backbone, given), expected.flatten(1))

    def test_channels_last_feature_maps_are_pooled_over_space(self):
        backbone = load_backbone(CHANNELS_LAST, pool_size=1)
        given = images(backbone)
        with torch.inference_mode():
            expected = backbone.module.network.forward_features(given)

        assert expected.shape == (2, 5, 5, 64)
        assert torch.allclose(run(backbone, given), expected.mean((1, 2)), atol=1e-6)

    def test_tokens_of_a_transformer_are_pooled_without_prefix_tokens(self):
        backbone = load_backbone(VIT, pool_size=1)
        given = images(backbone)
        with torch.inference_mode():
            tokens = backbone.module.network.forward_features(given)

        assert tokens.shape == (2, 1 + 10 * 10, 64)
        assert torch.allclose(run(backbone, given), tokens[:, 1:].mean(1), atol=1e-6)

    def test_without_a_pool_size_features_are_the_output_of_the_network(self):
        backbone = load_backbone(VIT)
        given = images(backbone)
        with torch.inference_mode():
            expected = backbone.module.network(given)

        assert torch.equal(run(backbone, given), expected)

    def test_pool_size_0_fails(self):
        with pytest.raises(OptionError, match="grid must be 1 or more, got 0"):
            load_backbone(RESNET, pool_size=0)


class TestLayer:
    def test_an_inner_layer(self):
        backbone = load_backbone(RESNET, layer="layer2")
        network, given = load_backbone(RESNET).module.network, images(backbone)
        with torch.inference_mode():
            x = network.maxpool(network.act1(network.bn1(network.conv1(given))))
            expected = network.layer2(network.layer1(x))

        assert torch.allclose(run(backbone, given), expected.mean((2, 3)), atol=1e-6)

    def test_a_following_in_place_layer_does_not_change_the_output(self):
        """The activation after `bn1` overwrites its input."""
        backbone = load_backbone(RESNET, layer="bn1")
        network, given = load_backbone(RESNET).module.network, images(backbone)
        with torch.inference_mode():
            expected = network.bn1(network.conv1(given)).mean((2, 3))

        assert network.act1.inplace
        assert expected.min() < 0
        assert torch.allclose(run(backbone, given), expected, atol=1e-6)

    def test_following_layers_are_not_computed(self):
        backbone = load_backbone(RESNET, layer="layer2")
        calls = []
        backbone.module.network.layer3.register_forward_hook(lambda *_: calls.append(1))
        run(backbone, images(backbone))

        assert calls == []

    def test_a_layer_after_the_pooling(self):
        """In MobileNetV3 the last convolution comes after the average over space."""
        backbone = load_backbone("random:mobilenetv3_small_050", layer="conv_head")
        network = load_backbone("random:mobilenetv3_small_050").module.network
        given = images(backbone, 1)
        with torch.inference_mode():
            expected = network.conv_head(network.global_pool(network.forward_features(given)))

        assert backbone.feature_size == 1024
        assert torch.allclose(run(backbone, given), expected.flatten(1), atol=1e-6)

    def test_a_block_of_a_transformer_with_a_pool_size(self):
        backbone = load_backbone(VIT, layer="blocks.2", pool_size=2)
        network, given = load_backbone(VIT).module.network, images(backbone)
        with torch.inference_mode():
            x = network.norm_pre(network._pos_embed(network.patch_embed(given)))
            for block in network.blocks[:3]:
                x = block(x)
        cells = x[:, 1:].reshape(2, 2, 5, 2, 5, 64).mean((2, 4))  # (B, 2, 2, C)

        assert torch.allclose(run(backbone, given), cells.permute(0, 3, 1, 2).flatten(1), atol=1e-6)

    def test_unknown_layer_fails(self):
        with pytest.raises(OptionError, match=r"no layer 'layer9' to tap; there are: .*layer4"):
            load_backbone(RESNET, layer="layer9")

    def test_a_layer_without_spatial_dimensions_fails(self):
        with pytest.raises(
            OptionError, match=r"layer 'global_pool' returns shape \(1, 96\), expected"
        ):
            load_backbone(RESNET, layer="global_pool")

    def test_a_layer_that_the_forward_pass_does_not_use_fails(self):
        """Fused attention does not call its dropout module."""
        with pytest.raises(OptionError, match=r"forward pass does not use .* 'blocks.0.attn.attn_"):
            load_backbone(VIT, layer="blocks.0.attn.attn_drop")


class TestIdentity:
    def test_changes_with_all_that_determines_features(self, tmp_path):
        path = save_weights(other_network(num_classes=0), tmp_path / "mine.safetensors")
        backbones = [
            load_backbone(RESNET),
            load_backbone(RESNET, layer="layer4"),
            load_backbone(RESNET, layer="layer3"),
            load_backbone(RESNET, pool_size=1),
            load_backbone(RESNET, pool_size=2),
            load_backbone(RESNET, layer="layer3", pool_size=2),
            load_backbone(RESNET, weights=path),
            load_backbone(local_dir(tmp_path / "small")),
            load_backbone(local_dir(tmp_path / "wide", crop_pct=1.0)),
            load_backbone(local_dir(tmp_path / "cubic", interpolation="bicubic")),
            load_backbone(local_dir(tmp_path / "grey", mean=[0.5, 0.5, 0.5])),
            load_backbone(local_dir(tmp_path / "loud", std=[1.0, 1.0, 1.0])),
        ]

        assert len({backbone.identity for backbone in backbones}) == len(backbones)

    def test_changes_with_the_architecture_for_equal_weights(self, tmp_path):
        """`tf_` networks have other padding and the same parameters."""
        plain = load_backbone(local_dir(tmp_path / "plain", "mobilenetv3_small_075"))
        padded = load_backbone(local_dir(tmp_path / "padded", "tf_mobilenetv3_small_075"))

        assert plain.weights_hash == padded.weights_hash
        assert (plain.geometry, plain.mean, plain.std) == (padded.geometry, padded.mean, padded.std)
        assert plain.identity != padded.identity

    def test_does_not_change_with_the_source_of_the_weights(self, tmp_path):
        named = load_backbone(RESNET)
        path = save_weights(named.module.network, tmp_path / "copy.safetensors")
        copied = load_backbone("test_resnet", weights=path)

        assert copied.name != named.name
        assert copied.identity == named.identity
        assert dataclasses.replace(named, licence="other").identity == named.identity


@pytest.mark.parametrize(
    ("name", "tap"),
    [("test_resnet", "layer3"), ("test_efficientnet", "blocks.3"), ("test_vit", "blocks.5")],
)
def test_middle_layer(name, tap):
    assert middle_layer(name) == tap
    assert load_backbone(f"random:{name}", layer=tap, pool_size=2).feature_size % 4 == 0


def test_middle_layer_of_an_unknown_network_fails():
    with pytest.raises(OptionError, match="backbone nothing could not be loaded"):
        middle_layer("nothing")
