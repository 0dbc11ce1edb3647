"""Folders of labelled videos: labels, splits, and layouts that are refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.errors import SourceError
from pipeline.training.annotations import Annotations, read_annotations
from pipeline.training.label_counts import describe_labels, require_trainable, require_two_labels
from tests.videos import write_images


@pytest.fixture
def read(tmp_path):
    """Write empty files, and read the folder that they are in."""

    def write_and_read(*places: str) -> Annotations:
        for place in places:
            (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / place).write_bytes(b"")
        return read_annotations(tmp_path)

    return write_and_read


def rows(read: Annotations) -> list[tuple[str | None, str, str]]:
    return [(clip.split, clip.label, Path(clip.video).name) for clip in read.clips]


class TestSplits:
    def test_folders_named_like_splits_are_splits(self, read):
        found = read("train/hug/a.mp4", "train/kick/b.mp4", "test/kick/deep/c.mp4", "val/hug/d.mp4")

        assert found.labels == ("hug", "kick")
        assert rows(found) == [
            ("test", "kick", "c.mp4"),
            ("train", "hug", "a.mp4"),
            ("train", "kick", "b.mp4"),
            ("validation", "hug", "d.mp4"),
        ]
        assert describe_labels(found) == [
            "split train: hug 1, kick 1 (2 clips)",
            "split validation: hug 1 (1 clip)",
            "split test: kick 1 (1 clip)",
        ]

    @pytest.mark.parametrize(
        ("name", "split"),
        [("Train", "train"), ("training", "train"), ("valid", "validation"), ("TESTING", "test")],
    )
    def test_other_names_of_splits(self, read, name, split):
        found = read(f"{name}/hug/a.mp4", f"{name}/kick/b.mp4")

        assert {clip.split for clip in found.clips} == {split}

    def test_image_sequences_are_videos(self, tmp_path):
        for split in ("train", "test"):
            for label in ("hug", "kick"):
                write_images(tmp_path / split / label / "take1", [1, 2])

        assert rows(read_annotations(tmp_path))[0] == ("test", "hug", "take1")

    def test_a_label_may_be_called_train(self, read):
        """A vehicle: its videos are directly in the folder, and other labels are beside it."""
        assert read("train/a.mp4", "car/b.mp4").labels == ("car", "train")


REFUSED = {
    ("train/a.mp4", "test/b.mp4"): (
        "2 mistakes:.*test is the name of a split, and has no sub-folder for each label.*train is"
    ),
    ("train/hug/a.mp4", "test/b.mp4"): "test is the name of a split",
    ("train/hug/a.mp4", "test/hug/b.mp4", "extra/c.mp4"): (
        "test, train are names of splits, beside extra"
    ),
    ("ds1/train/hug/a.mp4", "ds1/test/hug/b.mp4", "ds2/train/hug/c.mp4"): (
        "ds1 has the sub-folders test, train, which are names of splits: give .*/ds1, or"
    ),
    ("hug/train/a.mp4", "hug/test/b.mp4", "kick/train/c.mp4"): "SPLIT/LABEL/VIDEO",
    ("train/test/hug/a.mp4", "test/hug/b.mp4"): "both are splits",
    ("videos/hug/a.mp4", "videos/kick/b.mp4"): (
        "one sub-folder, videos, which has the sub-folders hug, kick: .* give .*/videos$"
    ),
    ("ds/train/hug/a.mp4", "ds/test/hug/b.mp4"): "ds has the sub-folders test, train, .*give .*/ds",
    ("a.mp4", "b.mp4"): "must have a sub-folder with videos for each label",
    ("hug/notes.txt",): "must have a sub-folder with videos for each label",
}


@pytest.mark.parametrize("places", REFUSED, ids=" ".join)
def test_other_layouts_are_refused(read, places):
    with pytest.raises(SourceError) as caught:
        read(*places)

    assert re.search(REFUSED[places], str(caught.value), re.DOTALL), caught.value


class TestNotes:
    def test_videos_without_a_label_are_counted(self, read, tmp_path):
        assert read("hug/a.mp4", "kick/b.mp4", "c.mp4", "d.mp4").notes == (
            f"2 videos directly in {tmp_path} have no label: left out",
        )

    def test_labels_without_videos_are_named(self, read, tmp_path):
        assert read("hug/a.mp4", "kick/b.mp4", "nod/notes.txt").notes == (
            f"{tmp_path}/nod has no videos: the label nod is left out",
        )

    def test_equal_sub_folders_may_be_the_labels(self, read):
        (note,) = read("s1/hug/a.mp4", "s1/kick/b.mp4", "s2/hug/c.mp4", "s2/kick/d.mp4").notes

        assert "s1, s2 have the same sub-folders, hug, kick" in note


class TestCounts:
    def test_labels_and_their_counts(self, read):
        found = read("hug/a.mp4", "hug/b.mp4", "shake  hands/c.mp4")

        assert describe_labels(found) == ["labels: hug 2, shake hands 1 (3 clips)"]
        require_trainable(found)

    def test_one_label_is_refused(self, read):
        with pytest.raises(SourceError, match="all clips have the label hug: training needs two"):
            require_two_labels(read("hug/a.mp4", "hug/b.mp4"))

    def test_each_label_needs_clips_to_train_on(self, read):
        found = read("train/hug/a.mp4", "test/hug/b.mp4", "test/kick/c.mp4")

        with pytest.raises(SourceError, match=r"split train has the label kick \(row 2\)"):
            require_trainable(found)
