"""Labels of every frame, in the layouts in which data sets are published."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import SourceError
from pipeline.training.frame_labels import has_frame_labels, read_frame_labels


def write(folder, **videos):
    folder.mkdir(parents=True, exist_ok=True)
    for name, labels in videos.items():
        (folder / f"{name}.txt").write_text("".join(f"{label}\n" for label in labels.split()))


def read(folder, background="background"):
    found = read_frame_labels(folder, background)
    return found.labels, {name: labels.tolist() for name, labels in found.videos.items()}


class TestText:
    def test_a_line_is_a_frame(self, tmp_path):
        write(tmp_path, a="background take take", b="pour")

        assert read(tmp_path) == (("pour", "take"), {"a": [-1, 1, 1], "b": [0]})

    @pytest.mark.parametrize("inside", [True, False])
    def test_labels_have_the_order_of_the_mapping(self, tmp_path, inside):
        write(tmp_path / "groundTruth", a="pour take", b="SIL")
        mapping = (tmp_path / "groundTruth" if inside else tmp_path) / "mapping.txt"
        mapping.write_text("0 SIL\n1 take\n2 pour\n3 stir\n")

        assert read(tmp_path / "groundTruth", "SIL") == (("take", "pour"), {"a": [1, 0], "b": [-1]})

    def test_the_folder_above_may_be_given(self, tmp_path):
        write(tmp_path / "groundTruth", a="pour take")
        (tmp_path / "mapping.txt").write_text("0 take\n1 pour\n")

        assert has_frame_labels(tmp_path)
        assert read(tmp_path) == (("take", "pour"), {"a": [1, 0]})

    def test_labels_outside_of_the_mapping_fail(self, tmp_path):
        write(tmp_path, a="pour take", b="stirr")
        (tmp_path / "mapping.txt").write_text("0 take\n1 pour\n2 stir\n")

        with pytest.raises(SourceError, match=r"lacks 1 labels: stirr \(b\)"):
            read(tmp_path)

    def test_a_mapping_without_numbers_fails(self, tmp_path):
        write(tmp_path, a="pour take")
        (tmp_path / "mapping.txt").write_text("0 take\npour\n")

        with pytest.raises(SourceError, match=r"line 2 of .*mapping.txt must have a number and"):
            read(tmp_path)

    def test_nothing_but_background_fails(self, tmp_path):
        write(tmp_path, a="background background")

        with pytest.raises(SourceError, match=r"all labels in .* are background"):
            read(tmp_path)


class TestArchives:
    def test_zero_is_the_background(self, tmp_path):
        np.savez(tmp_path / "a.npz", features=np.zeros((4, 2)), labels=np.uint8([0, 2, 10, 2]))

        assert read(tmp_path) == (("2", "10"), {"a": [-1, 0, 1, 0]})

    def test_a_mapping_names_the_numbers(self, tmp_path):
        np.savez(tmp_path / "a.npz", labels=np.uint8([0, 2, 1, 2]))
        (tmp_path / "mapping.txt").write_text("0 take\n1 background\n2 pour\n")

        assert read(tmp_path) == (("take", "pour"), {"a": [0, 1, -1, 1]})

    def test_labels_may_be_text(self, tmp_path):
        np.savez(tmp_path / "a.npz", labels=np.array(["pour", "background"]))

        assert read(tmp_path) == (("pour",), {"a": [0, -1]})

    def test_files_without_labels_are_named(self, tmp_path):
        np.savez(tmp_path / "a.npz", labels=np.uint8([0, 1]))
        np.savez(tmp_path / "b.npz", features=np.zeros((4, 2)))

        with pytest.raises(SourceError, match=r"1 files in .* have no array `labels`: b.npz"):
            read(tmp_path)

    @pytest.mark.parametrize("labels", [np.zeros((3, 2), np.uint8), np.array([0.5, 1.0])])
    def test_other_arrays_fail(self, tmp_path, labels):
        np.savez(tmp_path / "a.npz", labels=labels)

        with pytest.raises(SourceError, match=r"must be numbers or text of shape \(T,\)"):
            read(tmp_path)


def test_a_folder_of_videos_has_no_frame_labels(tmp_path):
    (tmp_path / "wave").mkdir()
    (tmp_path / "wave" / "a.mp4").touch()

    assert not has_frame_labels(tmp_path)
    assert not has_frame_labels(tmp_path / "labels.csv")
