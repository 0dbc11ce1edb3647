"""Splits that were published with a data set."""

from __future__ import annotations

import pytest

from pipeline.errors import SourceError
from pipeline.training.annotations import Annotation, Annotations
from pipeline.training.splits import read_split, split_annotations, split_lines
from pipeline.training.time_lines import TimeLine, TimeLines

TABLE = """split,video,part,frames
1,a,train,12
1,b,test,9
2,a,test,12
2,b,val,9
"""


@pytest.fixture
def table(tmp_path):
    def write(text=TABLE):
        path = tmp_path / "splits.csv"
        path.write_text(text)
        return path

    return write


def lines(*videos):
    return TimeLines(tuple(TimeLine(video, video, None) for video in videos), ("wave",))


class TestReading:
    @pytest.mark.parametrize(
        ("split", "wanted"),
        [("1", {"a": "train", "b": "test"}), ("2", {"a": "test", "b": "validation"})],
    )
    def test_one_split_is_read(self, table, split, wanted):
        assert read_split(table(), split) == wanted

    def test_the_only_split_need_not_be_named(self, table):
        assert read_split(table("split,video,part\nx,a,train\n"), None) == {"a": "train"}

    @pytest.mark.parametrize("split", [None, "3"])
    def test_an_unknown_split_fails(self, table, split):
        with pytest.raises(SourceError, match=f"choose one of the splits 1, 2 .*got {split}"):
            read_split(table(), split)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("video,part\na,train\n", "missing: split"),
            ("split,video,part\n1,a,train\n1,b,trial\n", "row 3 .*part must be one of train"),
            ("split,video,part\n1,a,train\n1,a,test\n", "rows 2, 3 .*two parts of a split"),
        ],
    )
    def test_mistakes_are_told_with_their_rows(self, table, text, message):
        with pytest.raises(SourceError, match=message):
            read_split(table(text), "1")


class TestNames:
    @pytest.mark.parametrize(
        "name", ["a", "a.mp4", "a.txt", "ann/a", "ann/a.mp4", "/data/ann/a.mp4"]
    )
    def test_a_video_is_named_with_or_without_folder_and_suffix(self, name):
        (line,) = split_lines(lines("/data/ann/a.mp4", "/data/bob/c.mp4"), {name: "test"}).items

        assert (line.video, line.split) == ("/data/ann/a.mp4", "test")

    def test_folders_tell_videos_of_one_name_apart(self):
        parts = {"ann/a": "train", "bob/a": "test"}
        found = split_lines(lines("/data/ann/a.mp4", "/data/bob/a.mp4"), parts).items

        assert [line.split for line in found] == ["train", "test"]

    def test_names_with_dots_are_no_suffixes(self):
        parts = {"a.1": "train", "a.2": "test"}
        found = split_lines(lines("/data/a.1.npy", "/data/a.2.npy"), parts).items

        assert [line.split for line in found] == ["train", "test"]

    def test_videos_without_labels_are_named(self):
        with pytest.raises(SourceError, match=r"1 videos of the split are not in LABELS: b"):
            split_lines(lines("/data/a.mp4"), {"a": "train", "b": "test"})


def test_clips_of_other_videos_are_left_out():
    clips = tuple(
        Annotation(f"/data/{video}.mp4", label, None, None, video, "train", row)
        for row, (video, label) in enumerate([("a", "wave"), ("b", "nod"), ("c", "hug")], start=2)
    )
    found = split_annotations(
        Annotations(clips, ("hug", "nod", "wave")), {"a": "test", "b": "train"}
    )

    assert [(clip.video, clip.split) for clip in found.clips] == [
        ("/data/a.mp4", "test"),
        ("/data/b.mp4", "train"),
    ]
    assert found.labels == ("nod", "wave")
