"""Sequences with a label for each frame, from labels and features in files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.config import ClipWindows, Sampling
from pipeline.errors import OptionError, SourceError
from pipeline.training.annotations import Annotations
from pipeline.training.labelled import build, external_source, find_videos_of
from pipeline.training.options import ExternalFeatures, LabelOptions
from pipeline.training.read_labels import read_labels
from pipeline.training.sequence_dataset import LabelNames, SequenceDataset

ROWS = """video,label,start_seconds,end_seconds
a,wave,1,2
a,nod,2,3.5
b,wave,0,1
"""


@pytest.fixture
def folder(tmp_path):
    """Features of a with 4 seconds and of b with 2 seconds, 10 a second, and a table."""
    for name, count in (("a", 40), ("b", 20)):
        values = np.random.default_rng(count).normal(size=(count, 3)).astype(np.float32)
        np.save(tmp_path / f"{name}.npy", values)
    (tmp_path / "labels.csv").write_text(ROWS)
    return tmp_path


def gather(folder, options=None, *, labels=None, sampling=None, known=None):
    options = options or LabelOptions()
    labelled = read_labels(labels or folder / "labels.csv", None, options, folder)
    source = external_source(ExternalFeatures(str(folder), 10.0), sampling)
    return build(labelled, source, find_videos_of(labelled), options, known)


def by_name(dataset):
    return {Path(item.video).stem: item for item in dataset.sequences.items}


def runs(targets, labels):
    """Shorten targets: the label of every run, and its length."""
    edges = np.flatnonzero(np.diff(targets)) + 1
    return [
        (labels[part[0]] if part[0] >= 0 else None, len(part)) for part in np.split(targets, edges)
    ]


class TestRows:
    def test_frames_without_a_row_are_background(self, folder):
        dataset = gather(folder)

        assert isinstance(dataset, SequenceDataset)
        assert dataset.labels == ("background", "nod", "wave")
        assert dataset.sequences.background == "background"
        found = {name: runs(x.targets, dataset.labels) for name, x in by_name(dataset).items()}
        assert found == {
            "a": [("background", 10), ("wave", 10), ("nod", 15), ("background", 5)],
            "b": [("wave", 10), ("background", 10)],
        }
        assert dataset.sampling == Sampling(fps=10)
        assert dataset.windows == ClipWindows(1.0, 0.5)

    def test_they_may_be_ignored(self, folder):
        dataset = gather(folder, LabelOptions(unlabelled="ignore"))

        assert dataset.labels == ("nod", "wave")
        assert dataset.sequences.background is None
        found = runs(by_name(dataset)["b"].targets, dataset.labels)
        assert found == [("wave", 10), (None, 10)]

    def test_there_is_no_background_where_every_frame_has_a_row(self, folder):
        (folder / "labels.csv").write_text(
            "video,label,start_seconds,end_seconds\na,wave,0,2\na,nod,2,4\n"
        )

        assert gather(folder).labels == ("nod", "wave")

    def test_rows_may_name_the_background(self, folder):
        (folder / "labels.csv").write_text(ROWS + "b,rest,1,2\n")
        dataset = gather(folder, LabelOptions(background="rest"))

        assert dataset.labels == ("nod", "rest", "wave")
        assert runs(by_name(dataset)["a"].targets, dataset.labels)[0] == ("rest", 10)

    def test_sampling_is_that_of_frames(self, folder):
        dataset = gather(folder, sampling=Sampling(fps=5))

        item = by_name(dataset)["a"]
        assert item.features.shape == (20, 3)
        assert item.seconds.tolist() == (np.arange(20) / 5).tolist()
        assert runs(item.targets, dataset.labels)[:2] == [("background", 5), ("wave", 5)]

    def test_the_labels_of_a_recognizer_are_used_in_its_order(self, folder):
        known = LabelNames(("wave", "rest", "nod", "hug"), "rest")
        dataset = gather(folder, known=known)

        assert dataset.labels == known.names
        assert runs(by_name(dataset)["b"].targets, known.names) == [("wave", 10), ("rest", 10)]

    def test_rows_after_the_end_of_the_video_fail(self, folder):
        (folder / "labels.csv").write_text(ROWS + "b,nod,1,9\n")

        with pytest.raises(SourceError, match=r"row 5: 1 to 9 seconds are outside of .*b\.npy"):
            gather(folder)


class TestMultiLabel:
    @pytest.mark.parametrize(
        "more", ["b,nod,0.5,1.5\n", "b,nod|wave,0.5,1\nb,nod,1,1.5\n"], ids=["overlap", "one cell"]
    )
    def test_a_frame_may_have_several_labels(self, folder, more):
        (folder / "labels.csv").write_text(ROWS + more)
        dataset = gather(folder, LabelOptions(multi_label=True))

        assert dataset.labels == ("nod", "wave")
        assert dataset.sequences.multi_label
        targets = by_name(dataset)["b"].targets
        assert targets.dtype == np.bool_
        assert np.flatnonzero(targets[:, 0]).tolist() == list(range(5, 15))
        assert np.flatnonzero(targets[:, 1]).tolist() == list(range(10))

    @pytest.mark.parametrize("rows", ["a,nod|wave,1,2\n", "a,nod,1,2\na,wave,1,2\n"])
    def test_clips_may_have_several_labels(self, folder, rows):
        header, *_ = ROWS.splitlines()
        (folder / "labels.csv").write_text(f"{header}\n{rows}b,wave,0,1\n")
        dataset = gather(folder, LabelOptions(multi_label=True))

        assert [len(item.features) for item in dataset.sequences.items] == [10, 10]
        assert [item.targets[0].tolist() for item in dataset.sequences.items] == [
            [True, True],
            [False, True],
        ]
        assert dataset.sequences.items[0].name.endswith("a.npy [1, 2)")

    def test_ignored_frames_are_refused(self):
        with pytest.raises(OptionError, match="remove --unlabelled ignore"):
            LabelOptions(multi_label=True, unlabelled="ignore")


class TestFrameLabels:
    def test_a_line_a_frame(self, folder):
        (folder / "labels").mkdir()
        (folder / "labels" / "a.txt").write_text("background\n" * 10 + "wave\n" * 30)
        (folder / "labels" / "b.txt").write_text("nod\n" * 20)
        dataset = gather(folder, labels=folder / "labels")

        assert dataset.labels == ("background", "nod", "wave")
        found = {name: runs(x.targets, dataset.labels) for name, x in by_name(dataset).items()}
        assert found == {"a": [("background", 10), ("wave", 30)], "b": [("nod", 20)]}
        assert dataset.windows == ClipWindows(2.5, 1.25)

    def test_labels_beside_the_features(self, tmp_path):
        labels = np.uint8([0] * 10 + [2] * 30)
        np.savez(tmp_path / "a.npz", features=np.ones((40, 3)), labels=labels)
        dataset = gather(tmp_path, labels=tmp_path)

        assert dataset.labels == ("background", "2")

    def test_another_number_of_labels_than_frames_fails(self, folder):
        (folder / "labels").mkdir()
        (folder / "labels" / "a.txt").write_text("wave\n" * 38)

        with pytest.raises(SourceError, match=r"a\.npy has 40 frames, but 38 labels"):
            gather(folder, labels=folder / "labels")

    def test_they_are_no_labels_of_clips(self, folder):
        (folder / "labels").mkdir()
        (folder / "labels" / "a.txt").write_text("wave\n" * 40)

        with pytest.raises(OptionError, match="remove --task clips"):
            gather(folder, LabelOptions(task="clips"), labels=folder / "labels")


def test_clips_may_be_read_from_features_made_elsewhere(folder):
    dataset = gather(folder, LabelOptions(task="clips"))

    assert [len(item.features) for item in dataset.examples.items] == [10, 15, 10]
    assert dataset.labels == ("nod", "wave")


def test_splits_replace_those_of_the_table(folder):
    (folder / "splits.csv").write_text("split,video,part\n1,a,train\n1,b,test\n2,b,train\n")
    options = LabelOptions(splits=str(folder / "splits.csv"), split="1")
    dataset = gather(folder, options)

    assert [Path(item.video).stem for item in dataset.of("train")] == ["a"]
    assert [Path(item.video).stem for item in dataset.of("test")] == ["b"]
    one = read_labels(folder / "labels.csv", None, LabelOptions(splits=options.splits, split="2"),
                      folder)  # fmt: skip
    assert isinstance(one, Annotations)  # one row of one video is a clip
    assert [Path(clip.video).stem for clip in one.clips] == ["b"]


def test_unknown_names_of_videos_are_told(folder):
    (folder / "labels.csv").write_text(ROWS + "c,nod,0,1\n")

    with pytest.raises(SourceError, match=r"row 5 .*no such file"):
        gather(folder)
