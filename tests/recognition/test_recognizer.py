"""Saved recognizers: saved, loaded, and refused if damaged or changed."""

from __future__ import annotations

import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch

from pipeline.config import ClipWindows, Sampling
from pipeline.errors import OptionError, RecognizerError
from pipeline.recognition import recognizer as module
from pipeline.recognition.recognizer import (
    BackboneSpec,
    CutSpec,
    Recognizer,
    bundled_recognizers,
    find_recognizer,
    hash_file,
    load_recognizer,
    save_recognizer,
)
from pipeline.recognition.segment_model import SegmentModel
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import TemporalOptions

OPTIONS = TemporalOptions(cell="lstm", layers=2, size=8, pooling="attention", differences=True)


def make(seed=0, labels=("left", "right", "still"), options=OPTIONS, **changes):
    torch.manual_seed(seed)
    model = TemporalModel(5, 3, options)
    model.set_standardization(torch.randn(5), torch.rand(5) + 0.5)
    return Recognizer(
        **{
            "name": "walk",
            "labels": labels,
            "sampling": Sampling(fps=8),
            "clips": ClipWindows(2.0, 1.0),
            "backbone": BackboneSpec("random:test_resnet", "abcd", 5, tap="layer2", context=1),
            "temporal": options,
            "model": model.eval(),
            "cut": CutSpec(4, 0.5),
            "switch_penalty": 2.5,
            "temperature": 1.5,
            "notes": {"licence": "CC0", "accuracy": 0.93},
            **changes,
        }
    )


@pytest.fixture
def folder(tmp_path):
    save_recognizer(make(), tmp_path / "walk")
    return tmp_path / "walk"


def describe(folder, **changes):
    """Change values in `recognizer.json`."""
    path = folder / "recognizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


SEGMENTS = SegmentModel.count([np.array([0, 0, 1, 2, 2])], [np.arange(5.0)], 3)


class TestSaveAndLoad:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"cut": None, "sampling": Sampling(every=3), "clips": ClipWindows()},
            {"options": TemporalOptions(cell="gru_transformer", size=8, bidirectional=True)},
            {"labels": ("ja", "nein", "vielleicht – 多分")},
            {"network": {"architecture": "test_resnet", "options": {}, "config": {}}},
            {"task": "frames", "background": "still"},
            {"task": "frames", "multi_label": True, "thresholds": (0.5, 0.25, 0.75)},
            {"task": "frames", "segments": SEGMENTS},
        ],
    )
    def test_round_trip(self, tmp_path, changes):
        made = make(**changes)
        save_recognizer(made, tmp_path / "deep" / "walk")
        loaded = load_recognizer(tmp_path / "deep" / "walk")

        for field in dataclasses.fields(Recognizer):
            if field.name not in ("model", "folder"):
                assert getattr(loaded, field.name) == getattr(made, field.name)
        assert loaded.folder == tmp_path / "deep" / "walk"
        assert loaded.identity == made.identity
        assert not loaded.model.training
        x = torch.randn(2, 7, 5)
        for a, b in zip(loaded.model(x), made.model(x), strict=True):
            assert torch.equal(a, b)

    def test_files(self, tmp_path):
        save_recognizer(make(), tmp_path / "walk", {"weight": torch.ones(3)})
        description = json.loads((tmp_path / "walk" / "recognizer.json").read_text())

        assert sorted(path.name for path in (tmp_path / "walk").iterdir()) == [
            "backbone.safetensors",
            "recognizer.json",
            "temporal.safetensors",
        ]
        assert description["format"] == 1
        assert description["weights"] == {
            name: hash_file(tmp_path / "walk" / name)
            for name in ("temporal.safetensors", "backbone.safetensors")
        }

    def test_saving_again_replaces_the_files(self, folder):
        save_recognizer(make(seed=1, labels=("a", "b", "c")), folder)

        assert load_recognizer(folder).labels == ("a", "b", "c")
        assert load_recognizer(folder).identity == make(seed=1, labels=("a", "b", "c")).identity

    def test_a_crash_before_the_end_leaves_no_recognizer(self, tmp_path, monkeypatch):
        def crash(*_):
            raise OSError("no space left")

        monkeypatch.setattr(module, "write_json", crash)
        with pytest.raises(OSError, match="no space left"):
            save_recognizer(make(), tmp_path / "walk")

        with pytest.raises(RecognizerError, match="no recognizer"):
            load_recognizer(tmp_path / "walk")

    def test_a_model_in_training_mode_is_saved(self, tmp_path):
        """Its parameters have gradients."""
        made = make()
        made.model.train()
        made.model(torch.randn(2, 3, 5)).clips.sum().backward()
        save_recognizer(made, tmp_path)

        assert load_recognizer(tmp_path).identity == made.identity


class TestFind:
    def test_by_folder_as_text_or_path(self, folder, monkeypatch):
        monkeypatch.chdir(folder.parent)

        assert find_recognizer(folder) == folder
        assert find_recognizer(str(folder)) == folder
        assert load_recognizer("walk").name == "walk"
        assert load_recognizer("./walk").name == "walk"

    def test_under_the_home_folder(self, folder, monkeypatch):
        monkeypatch.setenv("HOME", str(folder.parent))

        assert find_recognizer("~/walk") == folder

    def test_bundled_recognizers_are_found_with_hyphen_or_underscore(self, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "BUNDLED", tmp_path / "bundled")
        save_recognizer(make(), tmp_path / "bundled" / "how_it_walks")

        assert bundled_recognizers() == ["how-it-walks"]
        assert find_recognizer("how-it-walks") == tmp_path / "bundled" / "how_it_walks"
        assert find_recognizer("how_it_walks") == tmp_path / "bundled" / "how_it_walks"

    def test_folders_are_found_by_their_exact_name(self, tmp_path, monkeypatch):
        for folder in ("bundled", "here"):
            (tmp_path / folder).mkdir()
        monkeypatch.setattr(module, "BUNDLED", tmp_path / "bundled")
        monkeypatch.chdir(tmp_path / "here")
        save_recognizer(make(name="mine"), tmp_path / "my-walk")
        save_recognizer(make(name="other"), tmp_path / "my_walk")

        assert load_recognizer(tmp_path / "my-walk").name == "mine"
        assert load_recognizer("../my-walk").name == "mine"

    def test_a_missing_recognizer_fails(self, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "BUNDLED", tmp_path / "bundled")
        save_recognizer(make(), tmp_path / "bundled" / "how_it_walks")

        with pytest.raises(
            RecognizerError,
            match=r"no recognizer nowhere: neither a folder with recognizer.json nor bundled "
            r"\(how-it-walks\)",
        ):
            load_recognizer("nowhere")


class TestChangedFiles:
    def test_changed_weights_fail_with_both_hashes(self, folder):
        path = folder / "temporal.safetensors"
        expected = hash_file(path)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

        with pytest.raises(RecognizerError) as caught:
            load_recognizer(folder)

        message = str(caught.value)
        assert message.startswith(f"{path} is not the file it was saved with")
        assert f"expected {expected}, found {hash_file(path)}" in message

    def test_weights_of_another_recognizer_fail(self, folder, tmp_path):
        save_recognizer(make(seed=1), tmp_path / "other")
        (tmp_path / "other" / "temporal.safetensors").replace(folder / "temporal.safetensors")

        with pytest.raises(RecognizerError, match="is not the file it was saved with"):
            load_recognizer(folder)

    def test_changed_weights_of_the_backbone_fail(self, tmp_path):
        save_recognizer(make(), tmp_path, {"weight": torch.ones(3)})
        (tmp_path / "backbone.safetensors").write_bytes(b"other")

        with pytest.raises(RecognizerError, match=r"backbone.safetensors is not the file it was"):
            load_recognizer(tmp_path)

    @pytest.mark.parametrize("name", ["temporal.safetensors", "backbone.safetensors"])
    def test_missing_weights_fail(self, tmp_path, name):
        save_recognizer(make(), tmp_path, {"weight": torch.ones(3)})
        (tmp_path / name).unlink()

        with pytest.raises(RecognizerError, match=f"is incomplete: {name} is missing"):
            load_recognizer(tmp_path)

    @pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "sub/outside", "..", "."])
    def test_files_outside_of_the_folder_are_refused(self, folder, name):
        for place in (folder.parent, folder / "sub"):
            place.mkdir(exist_ok=True)
            (place / "outside").write_bytes(b"secret")
        description = json.loads((folder / "recognizer.json").read_text())["weights"]
        outside = hash_file(folder.parent / "outside")
        describe(folder, weights={**description, name: outside})

        with pytest.raises(RecognizerError, match=r"is incomplete|cannot be loaded"):
            load_recognizer(folder)

    def test_weights_without_a_hash_are_refused(self, folder):
        describe(folder, weights={})

        with pytest.raises(RecognizerError, match=r"has no hash of temporal.safetensors"):
            load_recognizer(folder)

    def test_weights_of_another_architecture_fail(self, folder):
        description = json.loads((folder / "recognizer.json").read_text())["temporal"]
        describe(folder, temporal={**description, "size": 16})

        with pytest.raises(RecognizerError, match=r"walk cannot be loaded: (?s:.*)size mismatch"):
            load_recognizer(folder)

    def test_recognizers_of_frames_are_refused_by_versions_that_do_not_know_them(self, tmp_path):
        save_recognizer(make(task="frames"), tmp_path / "walk")

        description = json.loads((tmp_path / "walk" / "recognizer.json").read_text())
        assert description["format"] == 2
        assert description["task"] == "frames"

    def test_recognizers_of_clips_are_written_as_before(self, folder):
        description = json.loads((folder / "recognizer.json").read_text())

        assert (
            not {"task", "multi_label", "thresholds", "background", "segments"} & description.keys()
        )

    def test_a_newer_format_fails(self, folder):
        describe(folder, format=3)

        with pytest.raises(RecognizerError, match="has format 3, this Clipline reads 1 and 2: up"):
            load_recognizer(folder)


class TestDamaged:
    @pytest.mark.parametrize(
        "content", [b"", b"{", b"null", b"[1, 2]", b'"walk"', b"{}", b"\xff\xfe{}", b"\x00" * 40]
    )
    def test_a_damaged_description_fails(self, folder, content):
        (folder / "recognizer.json").write_bytes(content)

        with pytest.raises(RecognizerError, match=r"recognizer.json is damaged"):
            load_recognizer(folder)

    @pytest.mark.parametrize(
        "key",
        [
            *("format", "name", "labels", "sampling", "clips", "backbone", "temporal", "cut"),
            *("switch_penalty", "temperature", "weights", "notes"),
        ],
    )
    def test_a_missing_key_fails(self, folder, key):
        description = json.loads((folder / "recognizer.json").read_text())
        del description[key]
        (folder / "recognizer.json").write_text(json.dumps(description))

        with pytest.raises(RecognizerError, match=rf"is damaged: KeyError\('{key}'\)"):
            load_recognizer(folder)

    @pytest.mark.parametrize(
        "changes",
        [
            {"labels": None},
            {"weights": None},
            {"weights": []},
            {"sampling": {"fps": 8, "every": 2}},
            {"sampling": {"fps": 0}},
            {"sampling": {"frames": 8}},
            {"clips": {"seconds": -1}},
            {"temporal": {"cell": "lstm", "unknown": 1}},
            {"temporal": {"cell": "hal9000"}},
            {"backbone": {"name": "x"}},
            {"cut": {"threshold": 1}},
        ],
    )
    def test_an_invalid_value_fails(self, folder, changes):
        describe(folder, **changes)

        with pytest.raises(RecognizerError, match=r"is damaged|has no hash"):
            load_recognizer(folder)

    def test_duplicate_labels_fail(self, folder):
        describe(folder, labels=["left", "right", "left"])

        with pytest.raises(RecognizerError, match="labels must be unique"):
            load_recognizer(folder)


class TestChecks:
    def test_duplicate_labels_fail(self):
        with pytest.raises(RecognizerError, match=r"labels must be unique.*'a', 'b', 'a'"):
            make(labels=("a", "b", "a"))

    def test_no_labels_fail(self):
        with pytest.raises(RecognizerError, match="at least one"):
            make(labels=())

    def test_another_number_of_labels_than_outputs_fails(self):
        with pytest.raises(RecognizerError, match="2 labels, but 3 outputs of the model"):
            make(labels=("a", "b"))

    @pytest.mark.parametrize("feature", [-1, 8])
    def test_a_cut_feature_out_of_range_fails(self, feature):
        with pytest.raises(RecognizerError, match=rf"cut.feature must be .*, got {feature}"):
            make(cut=CutSpec(feature=feature))

    @pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
    def test_temperatures_that_are_not_positive_fail(self, temperature):
        with pytest.raises(RecognizerError, match="temperature must be above 0, got"):
            make(temperature=temperature)

    @pytest.mark.parametrize(
        "changes",
        [
            {"thresholds": (0.5,)},
            {"background": "run"},
            {"task": "both"},
            {"segments": SEGMENTS, "multi_label": True},
        ],
    )
    def test_fields_that_do_not_fit_the_labels_fail(self, changes):
        with pytest.raises((RecognizerError, OptionError), match=next(iter(changes))):
            make(**changes)


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


class TestNothingIsExecuted:
    def test_pickles_in_the_folder_are_ignored(self, folder, tmp_path):
        for name in ("temporal.pt", "temporal.pkl", "backbone.pt", "model.bin"):
            (folder / name).write_bytes(pickle.dumps(Evil(str(tmp_path / "executed"))))

        assert load_recognizer(folder).identity == make().identity
        assert not (tmp_path / "executed").exists()

    def test_a_pickle_under_the_name_of_the_weights_is_refused(self, folder, tmp_path):
        """Even if its hash is correct."""
        path = folder / "temporal.safetensors"
        path.write_bytes(pickle.dumps(Evil(str(tmp_path / "executed"))))
        describe(folder, weights={path.name: hash_file(path)})

        with pytest.raises(RecognizerError, match="cannot be loaded"):
            load_recognizer(folder)
        assert not (tmp_path / "executed").exists()


class TestIdentity:
    def test_it_changes_with_everything_that_changes_predictions(self):
        spec = make().backbone
        made = [
            make(),
            make(seed=1),
            make(labels=("left", "right", "Still")),
            make(labels=("right", "left", "still")),
            make(temperature=1.0),
            make(switch_penalty=2.0),
            make(cut=None),
            make(cut=CutSpec(4, 0.0)),
            make(backbone=dataclasses.replace(spec, weights_hash="dcba")),
            make(options=dataclasses.replace(OPTIONS, residual=False)),
            make(task="frames"),
            make(multi_label=True),
            make(multi_label=True, thresholds=(0.5, 0.25, 0.75)),
            make(task="frames", background="still"),
            make(task="frames", segments=SEGMENTS),
        ]
        assert len({recognizer.identity for recognizer in made}) == len(made)

    def test_it_changes_with_a_single_weight(self):
        recognizer = make()
        before = recognizer.identity
        with torch.no_grad():
            recognizer.model.head.bias[0] += 1e-3

        assert recognizer.identity != before

    def test_it_does_not_change_with_name_and_notes(self, folder):
        assert make(name="stroll", notes={}).identity == make().identity
        assert load_recognizer(folder).identity == make().identity
